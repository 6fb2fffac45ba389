"""The attempts of a run as its workdir tells them, and what their wall time went to."""

import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

FOLDER = "goodput"  # of a workdir: a file for each attempt
KINDS = {
    "steps": "steps that count",
    "start": "imports, joining, data preparation, first weights",
    "compile": "tracing and compiling the step",
    "restore": "reading a checkpoint",
    "evaluation": "evaluating",
    "saving": "waiting for checkpoints, and the picture at the end",
    "stalls": "waiting for data, and what a slow step takes beyond a usual one",
    "lost": "steps that were done again, as the checkpoint was older",
    "down": "between the end of an attempt and the start of the next",
    "other": "outside of all these",
}
APART = 0.01  # of the wall time: how far two clocks may be apart without a word
LEAST = 1.0  # second, the same


class Record(NamedTuple):
    """One attempt.

    Attributes:
        began: in seconds of `time.time`; also `seen`, the last that is known of it.
        seconds: by kind, or by "kind/part".
        first: step that it went on from.
        last: last step that it did.
        marks: (step, seconds of steps until its end), of some steps.
        to_first: `seconds` at the end of its first step; {}: there was none.
        ended: "finished", the name of an exception, or "": it runs, or was killed.
        host: where process 0 ran.
    """

    began: float
    seen: float
    seconds: Mapping[str, float]
    first: int = 0
    last: int = 0
    marks: Sequence[tuple[int, float]] = ()
    to_first: Mapping[str, float] = {}
    ended: str = ""
    host: str = ""


class Account(NamedTuple):
    """What the wall time of a run went to.

    Attributes:
        seconds: by kind of KINDS, of all attempts.
        wall: seconds from the first start until the last that is known, by the clock.
        attempts: `seconds` of each, with its record; "down" is what came before it.
        notes: sentences on what does not fit.
    """

    seconds: dict[str, float]
    wall: float
    attempts: list[tuple[Record, dict[str, float]]]
    notes: list[str]

    @property
    def share(self) -> float:
        """Of the time that is accounted for, that of steps that count."""
        whole = math.fsum(self.seconds.values())
        return self.seconds["steps"] / whole if whole else 0.0


def write(path: epath.Path, record: Record) -> None:
    """Writes a record whole; object stores show a file whole or not at all."""
    text = json.dumps(record._asdict())
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in str(path):
        path.write_text(text)
        return
    unfinished = path.parent / f"{path.name}.tmp"
    unfinished.write_text(text)
    unfinished.replace(path)


def read(folder: epath.Path) -> tuple[list[Record], list[str]]:
    """The records of a workdir, first start first, and sentences on those that are none."""
    records, notes = [], []
    for path in sorted((folder / FOLDER).glob("*.json"), key=lambda path: path.name):
        try:
            records.append(parsed(json.loads(path.read_text())))
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            notes.append(f"{FOLDER}/{path.name} is no record of an attempt; it is left out.")
    return sorted(records, key=lambda record: record.began), notes


def parsed(found: Mapping[str, Any]) -> Record:
    """A record from JSON; raises one of several errors for anything else."""
    seconds, to_first = (
        {str(kind): number(value) for kind, value in found[name].items()}
        for name in ("seconds", "to_first")
    )
    if unknown := {kind.split("/")[0] for kind in seconds} - set(KINDS):
        raise ValueError(f"no kinds of time: {unknown}")
    return Record(
        began=number(found["began"]),
        seen=number(found["seen"]),
        seconds=seconds,
        first=int(found["first"]),
        last=int(found["last"]),
        marks=[(int(step), number(value)) for step, value in found["marks"]],
        to_first=to_first,
        ended=str(found["ended"]),
        host=str(found["host"]),
    )


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def account(records: Iterable[Record], notes: Iterable[str] = ()) -> Account:
    """Adds up attempts, first start first: what each lost to a later one, and what lay between."""
    kept = relevant(records)
    rows: list[tuple[Record, dict[str, float]]] = []
    told = list(notes)
    for i, record in enumerate(kept):
        seconds = dict.fromkeys(KINDS, 0.0)
        for kind, value in record.seconds.items():
            seconds[kind.split("/")[0]] += value
        again = min((later.first for later in kept[i + 1 :] if later.marks), default=record.last)
        lost = min(after(again, record.marks), seconds["steps"])
        seconds["steps"] -= lost
        seconds["lost"] += lost
        own, by_clock = math.fsum(seconds.values()), record.seen - record.began
        if abs(by_clock - own) > max(APART * own, LEAST):
            told.append(
                f"Attempt {i + 1}: its clock went {by_clock:,.1f} s in {own:,.1f} s: it was set "
                f"{'forward' if by_clock > own else 'back'}."
            )
        if rows:
            gap = record.began - max(earlier.seen for earlier in kept[:i])
            seconds["down"] = max(gap, 0.0)
            if gap < 0:
                told.append(
                    f"Attempt {i + 1} began {-gap:,.1f} s before the one before it was last seen: "
                    f"two ran at once, or a clock was set back."
                )
        rows.append((record, seconds))
    total = {kind: math.fsum(seconds[kind] for _, seconds in rows) for kind in KINDS}
    wall = max(r.seen for r in kept) - min(r.began for r in kept) if kept else 0.0
    return Account(total, wall, rows, told)


def relevant(records: Iterable[Record]) -> list[Record]:
    """Without calls that found all steps done: the run was over before they began."""
    kept: list[Record] = []
    for record in records:
        idle = record.ended == "finished" and record.last == record.first
        if not (idle and kept and kept[-1].ended == "finished"):
            kept.append(record)
    return kept


def after(step: int, marks: Sequence[tuple[int, float]]) -> float:
    """Seconds of the steps after `step`; between two marks all steps count alike."""
    if not marks or step >= marks[-1][0]:
        return 0.0
    later = next(i for i, (at, _) in enumerate(marks) if at > step)
    (high, until), (low, since) = marks[later], marks[max(later - 1, 0)]
    share = (step - low) / (high - low) if high > low else 0.0
    return marks[-1][1] - (since + max(share, 0.0) * (until - since))


def figures(account: Account) -> dict[str, float]:
    """The figures of an account for the metrics."""
    seconds = {f"goodput/{kind}_seconds": value for kind, value in account.seconds.items()}
    return {"goodput/share": account.share, **seconds}
