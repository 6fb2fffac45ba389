"""One page of a run, gathered from its workdir while it goes on or after it has ended."""

import json
import math
import numbers
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from bigmodel import checkpoint, config
from bigmodel import recipe as recipes
from bigmodel.report import run_page
from bigmodel.train import attempts, workdir, writers

MOST_TOKENS = 200  # of a sample


def report(folder: str | epath.Path, out: str | epath.Path = "", *, samples: int = 0) -> epath.Path:
    """Writes the page of a workdir; nothing of its code is run but for samples.

    Args:
        folder: the workdir, local or gs://.
        out: where the page goes; "": report.html in the workdir.
        samples: texts that the newest checkpoint is asked for; more than 0 loads the model.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder is no workdir, holds no metrics, or `out` cannot be written.
    """
    folder = workdir.place(folder)
    if not folder.exists():
        raise config.InputError(f"--workdir {str(folder)!r}: there is no such folder.")
    place = config.place(out, "--out") if out else folder / "report.html"
    page = run_page.page(gathered(folder, samples))
    try:
        place.write_text(page)
    except OSError as error:
        raise config.InputError(f"--out={place}: {error.strerror or error}.") from error
    return place


def gathered(folder: epath.Path, samples: int) -> dict[str, Any]:
    """All that the page shows, see `run_page.page`."""
    try:
        loaded = workdir.read(folder, extensions=False)
    except config.InputError:
        raise
    except (ValueError, AttributeError) as error:
        raise config.InputError(f"{folder}/config.json cannot be read: {error}.") from error
    rows = [row for row in map(clean, writers.rows(folder)) if row]
    if not rows:
        raise config.InputError(f"--workdir {str(folder)!r} holds no metrics: no step was logged.")
    texts = None
    if samples:
        from bigmodel import run  # and what it takes to load a model

        drawn = run.generate(folder, [""], num_return_sequences=samples, max_new_tokens=MOST_TOKENS)
        texts = [text for each in drawn for text in each]
    values = loaded.config
    notes: list[str] = []
    provenance = provenance_of(folder, notes)
    steps = [row["step"] for row in rows]
    return {
        "name": folder.name,
        "now": time.time(),
        "pills": pills(values, provenance),
        "step": max(steps),
        "steps": values.steps,
        "rows": rows,
        "evals": list(values.evals),
        "goodput": goodput(folder),
        "faults": faults(folder, rows),
        "checkpoints": checkpoints(folder),
        "samples": texts,
        "config": fields(loaded),
        "provenance": provenance,
        "notes": notes,
    }


def clean(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row with nothing but finite numbers and None in it; None: it has no step."""

    def is_number(value: Any) -> bool:
        return isinstance(value, numbers.Real) and math.isfinite(value)

    if not is_number(row.get("step")):
        return None
    kept = {str(name): value for name, value in row.items() if value is None or is_number(value)}
    return kept | {"step": int(row["step"])}


def goodput(folder: epath.Path) -> dict[str, Any] | None:
    records, notes = attempts.read(folder)
    if not records:
        return None
    found = attempts.account(records, notes)
    rows = [record._asdict() | {"seconds": seconds} for record, seconds in found.attempts]
    kept = {"seconds": found.seconds, "wall": found.wall, "share": found.share}
    return kept | {"words": attempts.KINDS, "notes": found.notes, "attempts": rows}


def faults(folder: epath.Path, rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """(step, what went wrong there): updates that were left out, and dumps."""
    found = [
        (row["step"], "a loss or gradient was no number; its update was left out.")
        for row in rows
        if row.get("train/skipped")
    ]
    dumps = folder / "debug"
    for place in sorted(dumps.iterdir(), key=lambda path: path.name) if dumps.exists() else ():
        number = place.name.rpartition("_")[2]
        found.append((int(number) if number.isdecimal() else 0, dumped(place)))
    return sorted(found)


def dumped(place: epath.Path) -> str:
    """A sentence on a dump of debug/."""
    where = f"debug/{place.name}"
    try:
        report = json.loads((place / "report.json").read_text())
        metrics = ", ".join(f"{name} {value}" for name, value in report["metrics"].items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{where} was left behind."
    return f"{metrics} (see {where})."


def checkpoints(folder: epath.Path) -> list[int]:
    place = folder / "checkpoints"
    if not place.exists():
        return []
    with checkpoint.Checkpoints(place) as found:
        return found.steps()


def fields(loaded: config.Loaded) -> list[tuple[str, str, str | None]]:
    """(field, value, default) as text; None for a default that is not known here."""
    values = config.flat(config.plain(loaded.config))
    try:
        defaults = recipes.unsaid(loaded)
    except (config.InputError, AttributeError):  # builders of its own, or fields of another version
        defaults = {}
    shown = {name: config.shown(value) for name, value in defaults.items()}
    return [(name, config.shown(value), shown.get(name)) for name, value in values.items()]


def provenance_of(folder: epath.Path, notes: list[str]) -> dict[str, str]:
    """provenance.json, one line a name."""
    try:
        found = config.flat(json.loads((folder / "provenance.json").read_text()))
    except (OSError, ValueError, AttributeError):
        notes.append("provenance.json is not there, or cannot be read.")
        return {}
    return {
        name: text if isinstance(text, str) else json.dumps(text) for name, text in found.items()
    }


def pills(values: Any, provenance: Mapping[str, str]) -> list[str]:
    """What was trained where, in a few words."""
    of_model = [
        f"{name} {values.model[name]}" for name in ("layers", "width") if name in values.model
    ]
    mesh = [
        f"{name.removeprefix('mesh.')} {size}"
        for name, size in provenance.items()
        if name.startswith("mesh.") and size != "1"
    ]
    device = [f"{provenance['devices']} × {provenance['device']}"] if "device" in provenance else []
    return [values.model.name, *of_model, values.objective.name, *device, *mesh]
