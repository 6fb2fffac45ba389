"""Where metrics go. A writer is a function `(step, {name: value})`; `close` ends what it holds.

Names are paths such as "train/loss"; values are finite or not, but always plain numbers.
"""

import contextlib
import hashlib
import json
import math
import numbers
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel.train import uploads

Values = Mapping[str, float]
Writer = Callable[[int, Values], None]

METRICS = "metrics.jsonl"
PART = "metrics-{:09d}.jsonl"  # of remote folders, where no file can grow
PART_SECONDS = 20.0
PART_LINES = 5000
RESUMED = "resumed_from"  # in a part's first line: rows of later steps in earlier parts are void


@contextlib.contextmanager
def open_writers(
    folder: epath.PathLike,
    *,
    step: int = 0,
    process: int = 0,
    tensorboard: bool = True,
    wandb: str = "",
    config: Mapping[str, Any] | None = None,
    extra: Sequence[Writer] = (),
) -> Iterator[Writer]:
    """One writer that writes to all; on processes other than 0 one that does nothing.

    Args:
        folder: the workdir.
        step: of the checkpoint that the run goes on from; what was written after it is void.
        wandb: the project's name at Weights & Biases; "" for none.
        config: what Weights & Biases shows as the run's config.
        extra: further writers, such as the line on a terminal.
    """
    if process != 0:
        yield nothing
        return
    with contextlib.ExitStack() as stack:
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        opened = [stack.enter_context(jsonl(folder, step=step))]
        if tensorboard:
            opened.append(stack.enter_context(tensorboard_events(folder, step=step)))
        if wandb:
            opened.append(stack.enter_context(weights_and_biases(folder, wandb, config or {})))
        yield to_all([*opened, *extra])


def to_all(writers: Sequence[Writer]) -> Writer:
    def write(step: int, values: Values) -> None:
        for writer in writers:
            writer(step, values)

    return write


def nothing(step: int, values: Values) -> None:
    """The writer of every process but the first."""


@contextlib.contextmanager
def jsonl(folder: epath.Path, step: int = 0) -> Iterator[Writer]:
    """One JSON object a line: {"step": 10, "train/loss": 2.5}; NaN and infinities as null.

    Locally one file that grows by whole lines; rows after `step` are cut off first, as the run
    goes through those steps again. On remote folders numbered parts, of which the first of each
    start says which earlier rows it voids; a crash loses seconds of them. `rows` reads both.
    """
    with (local_lines if is_local(folder) else remote_parts)(folder, step) as add:

        def write(step: int, values: Values) -> None:
            row = {name: plain(value) for name, value in values.items()}
            add(json.dumps({"step": step, **row}))

        yield write


def rows(folder: epath.PathLike) -> list[dict[str, Any]]:
    """All rows that count, as written; not a line cut short, nor one that a resume made void."""
    folder = epath.Path(folder)
    parts = sorted(folder.glob("metrics-*.jsonl"), key=lambda path: path.name)
    found: list[dict[str, Any]] = []
    for path in [folder / METRICS, *parts]:
        for row in map(parse, read_lines(path)):
            if row is not None and RESUMED in row:
                found = [earlier for earlier in found if earlier["step"] <= row[RESUMED]]
            elif row is not None:
                found.append(row)
    return found


@contextlib.contextmanager
def tensorboard_events(folder: epath.Path, step: int = 0) -> Iterator[Writer]:
    """TensorBoard event files; those of steps after `step` are marked as purged."""
    with (local_events if is_local(folder) else remote_events)(folder, step) as write:
        yield write


@contextlib.contextmanager
def weights_and_biases(
    folder: epath.Path, project: str, config: Mapping[str, Any]
) -> Iterator[Writer]:
    """Weights & Biases, if it is installed; without a key it writes to disk and asks nothing."""
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("wandb is not installed: pip install wandb. Going on without.", file=sys.stderr)
        yield nothing
        return
    key = os.environ.get("WANDB_API_KEY") or getattr(wandb.api, "api_key", None)
    mode = os.environ.get("WANDB_MODE") or ("online" if key else "offline")
    local = str(folder) if is_local(folder) else None
    run = wandb.init(
        project=project,
        name=folder.name,
        id=wandb_id(folder),
        resume="allow",
        dir=local,
        mode=mode,
        config=dict(config),
    )
    try:
        yield lambda step, values: run.log(dict(values), step=step)
    finally:
        run.finish()


@contextlib.contextmanager
def local_lines(folder: epath.Path, step: int) -> Iterator[Callable[[str], None]]:
    path = folder / METRICS
    if path.exists():
        kept = [line for line in read_lines(path) if (row := parse(line)) and row["step"] <= step]
        unfinished = folder / f"{METRICS}.tmp"
        unfinished.write_text("".join(f"{line}\n" for line in kept))
        unfinished.replace(path)
    with open(path, "a", encoding="utf-8") as file:

        def add(line: str) -> None:
            file.write(f"{line}\n")
            file.flush()

        yield add


@contextlib.contextmanager
def remote_parts(folder: epath.Path, step: int) -> Iterator[Callable[[str], None]]:
    """The open part is written anew, whole and on a thread, every `PART_SECONDS`."""
    number = 1 + max((int(path.stem[8:]) for path in folder.glob("metrics-*.jsonl")), default=-1)
    lines = [json.dumps({RESUMED: step})]
    written = time.monotonic()

    with uploads.Uploads(folder) as remote:

        def flush() -> None:
            if lines:
                text = "".join(f"{line}\n" for line in lines)
                remote.put(PART.format(number), text.encode())

        def add(line: str) -> None:
            nonlocal number, written
            lines.append(line)
            if time.monotonic() - written > PART_SECONDS:
                flush()
                written = time.monotonic()
                if len(lines) >= PART_LINES:
                    number += 1
                    lines.clear()

        try:
            yield add
        finally:
            flush()


@contextlib.contextmanager
def local_events(folder: epath.Path, step: int) -> Iterator[Writer]:
    events = event_file(folder, step, purges=True)
    try:
        yield lambda step, values: add_scalars(events, step, values)
    finally:
        events.close()


@contextlib.contextmanager
def remote_events(folder: epath.Path, step: int) -> Iterator[Writer]:
    """Files of `PART_LINES` calls and more, from a local folder copied whole as they grow."""
    temporary = tempfile.TemporaryDirectory(prefix="bigmodel-events-")
    with uploads.Uploads(folder) as remote, temporary as local:
        events = event_file(local, step, purges=True)
        calls, copied = 0, time.monotonic()

        def copy() -> None:
            for path in epath.Path(local).iterdir():
                remote.put(path.name, path.read_bytes())

        def write(step: int, values: Values) -> None:
            nonlocal events, calls, copied
            add_scalars(events, step, values)
            calls += 1
            if time.monotonic() - copied <= PART_SECONDS:
                return
            if calls < PART_LINES:
                events.flush()
                copy()
            else:
                events.close()
                copy()
                for path in epath.Path(local).iterdir():
                    path.unlink()
                events, calls = event_file(local, step), 0
            copied = time.monotonic()

        try:
            yield write
        finally:
            events.close()
            copy()


def event_file(folder: epath.PathLike, step: int, purges: bool = False) -> Any:
    """A file of what comes after a step, written by a thread of its own: it waits for the disk."""
    # It takes seconds to import torch, where that is installed, for tensors that nobody gives it.
    modules: dict[str, Any] = sys.modules
    hidden = modules.setdefault("torch", None) is None
    import tensorboardX

    if hidden:
        del modules["torch"]
    return tensorboardX.SummaryWriter(
        str(folder),
        purge_step=step + 1 if purges and step else None,
        flush_secs=PART_SECONDS,
        filename_suffix=f".{step:09d}",  # the rest of its name counts whole seconds
    )


def add_scalars(events: Any, step: int, values: Values) -> None:
    for name, value in values.items():
        events.add_scalar(name, float(value), step)


def wandb_id(folder: epath.Path) -> str:
    """One workdir, one run: its name, and a part of its path's hash, for others of that name."""
    path = str(folder.resolve() if is_local(folder) else folder)
    return f"{folder.name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def read_lines(path: epath.Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def parse(line: str) -> dict[str, Any] | None:
    """A row, or None for a line that a crash has cut."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and ("step" in row or RESUMED in row) else None


def plain(value: Any) -> float | int | None:
    """A number that JSON knows."""
    if isinstance(value, numbers.Integral):
        return int(value)
    value = float(value)
    return value if math.isfinite(value) else None


def is_local(folder: epath.Path) -> bool:
    return "://" not in str(folder)
