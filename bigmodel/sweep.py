"""A list of configs, each trained in a folder of its own, and one table of what came out.

Which runs are done is read from their workdirs alone: the same command goes on after a kill.
"""

import gc
import itertools
import json
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import rich.box
import rich.console
import rich.table
from etils import epath

from bigmodel import checkpoint, config
from bigmodel import recipe as recipes
from bigmodel.train import loop, safety, watch, workdir, writers

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
TABLE, FAILED = "sweep.json", "failed.txt"
LOSS, SPEED = "train/loss", "train/tokens_per_second"
REFUSED = (config.InputError, watch.WentWrongError, checkpoint.UnsoundError)


class Entry(NamedTuple):
    """One run: its config as the file says it, and with every default filled in."""

    name: str
    loaded: config.Loaded
    fields: dict[str, Any]  # "model.width" -> value
    folder: epath.Path

    @property
    def step(self) -> int:
        """Of its newest checkpoint."""
        place = self.folder / "checkpoints"
        if not place.exists():
            return 0
        with checkpoint.Checkpoints(place) as checkpoints:
            return checkpoints.latest() or 0


def sweep(
    file: str, folder: str | epath.Path, *, hosts: int = 1, host: int = 0, run: bool = True
) -> list[dict[str, Any]]:
    """Trains the runs of a file that are not finished, each in `folder`/NAME; gives the table.

    Args:
        file: Python with `get_configs()`: name -> ("FILE[:SIZE]", {"model.width": 128}).
        hosts: independent processes that share the runs out: run k is that of host k % hosts.
        host: which of them this is.
        run: False: only the table is made.
    """
    if not 0 <= host < hosts:
        raise config.InputError(f"--host={host}: of {hosts} hosts it is 0 to {hosts - 1}.")
    folder = workdir.place(folder)
    entries = read(file, folder)
    for entry in entries[host::hosts] if run else ():
        if entry.step < entry.fields["steps"]:
            train(entry)
    rows = table(entries)
    if run:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{TABLE}.{host}.tmp"
        unfinished.write_text(json.dumps(rows, indent=2) + "\n")
        unfinished.replace(folder / TABLE)
    return rows


def read(file: str, folder: epath.Path) -> list[Entry]:
    """The runs of a file, each of them checked."""
    given = config.call(file, "get_configs")
    pairs = list(given.items() if isinstance(given, Mapping) else given or ())
    if not pairs:
        raise config.InputError(f"{file}: get_configs gives no run.")
    entries: list[Entry] = []
    for pair in pairs:
        try:
            name, (spec, overrides) = pair
            overrides = dict(overrides)
        except (TypeError, ValueError) as error:
            law = 'a run is name -> ("FILE[:SIZE]", {"field": value})'
            raise config.InputError(f"{file}: {pair!r}: {law}.") from error
        seen = {TABLE, *(entry.name.lower() for entry in entries)}
        if not NAME.fullmatch(str(name)) or name.lower() in seen:
            law = "a name is a folder's: letters, digits and ._=+-, and none is there twice"
            raise config.InputError(f"{file}: run {name!r}: {law}.")
        try:
            loaded = config.load(str(spec), overrides)
            fields = config.flat(config.plain(recipes.make(loaded).loaded.config))
        except config.InputError as error:
            raise config.InputError(f"{file}: run {name!r}: {error}") from error
        entries.append(Entry(name, loaded, fields, folder / name))
    for entry in entries:
        check_same(entry, varied(entries))
    return entries


def varied(entries: list[Entry]) -> list[str]:
    """Fields that some run overrides."""
    said = (o.partition("=")[0] for entry in entries for o in entry.loaded.overrides)
    return list(dict.fromkeys(said))


def check_same(entry: Entry, names: list[str]) -> None:
    """Refuses a folder whose run had other values: its figures would stand in the wrong row."""
    if not (entry.folder / "config.json").exists():
        return
    stored = config.flat(config.plain(workdir.read(entry.folder, extensions=False).config))
    for name in names:
        was, now = stored.get(name), entry.fields.get(name)
        if name != "steps" and was != now:  # more steps: it goes on
            raise config.InputError(
                f"run {entry.name!r}: {name} = {now!r}, but {entry.folder} was made with {was!r}. "
                "Set it back, or give the run another name."
            )


def train(entry: Entry) -> None:
    """One run; what it fails with is noted in its folder."""
    note = entry.folder / FAILED
    note.unlink(missing_ok=True)
    try:
        loop.train(entry.loaded, entry.folder)
    except safety.Stopped:
        raise
    except Exception as error:
        if not isinstance(error, REFUSED):
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        entry.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(text + "\n")
        config.to_stderr(f"bigmodel: run {entry.name!r} failed: {text}")
    jax.clear_caches()  # programs of the run before, and what they hold
    gc.collect()


def table(entries: list[Entry]) -> list[dict[str, Any]]:
    """A row for each run, from what lies in its folder."""
    values = {name: [entry.fields.get(name) for entry in entries] for name in varied(entries)}
    differ = [name for name, found in values.items() if len(set(map(repr, found))) > 1]
    return [row(entry, differ) for entry in entries]


def row(entry: Entry, names: list[str]) -> dict[str, Any]:
    last = {name: x for found in writers.rows(entry.folder) for name, x in found.items()}
    step, note = entry.step, entry.folder / FAILED
    state = "finished" if step >= entry.fields["steps"] else "partial" if last else "missing"
    failure = note.read_text().strip() if note.exists() and state != "finished" else ""
    made: dict[str, Any] = {"run": entry.name, "state": "failed" if failure else state}
    made |= {name: entry.fields.get(name) for name in names if name != "steps"}
    made |= {"step": step, "steps": entry.fields["steps"]}
    made |= {LOSS: last[LOSS]} if LOSS in last else {}
    apart = ("train/", "goodput/")  # of the steps, and of the machine
    made |= {n: x for n, x in last.items() if n != "step" and not n.startswith(apart)}
    made |= {"tokens/s": last[SPEED]} if SPEED in last else {}
    return made | ({"failure": failure} if failure else {})


def command(configs: str, workdir: str, table: bool, as_json: bool, **options: Any) -> int:
    """`bigmodel sweep`: the exit status is 1 where a run has failed."""
    try:
        rows = sweep(configs, workdir, run=not table, **options)
    except safety.Stopped as stopped:
        config.to_stderr(f"bigmodel: {stopped}; the same command goes on from there")
        return stopped.status
    print(json.dumps(rows)) if as_json else show(rows)
    return int(any(row["state"] == "failed" for row in rows))


def show(rows: list[dict[str, Any]]) -> None:
    """The table, plain and whole in a pipe; on a terminal the columns that it has room for."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "failure"))
    columns = [[name, *(cell(row.get(name)) for row in rows)] for name in names]
    widths = [max(map(len, column)) for column in columns]
    lines = list(zip(*columns, strict=True))
    if not sys.stdout.isatty():
        for line in lines:
            print("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    console = rich.console.Console(markup=False)
    ends = itertools.accumulate(width + BETWEEN for width in widths)
    shown = sum(end <= console.width for end in ends)
    drawn = rich.table.Table(*names[:shown], box=rich.box.SIMPLE)
    for line in lines[1:]:
        drawn.add_row(*line[:shown])
    console.print(drawn)
    if shown < len(names):
        console.print(f"besides, by --json: {', '.join(names[shown:])}")


BETWEEN = 3  # signs of a terminal's table beside each column


def cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
