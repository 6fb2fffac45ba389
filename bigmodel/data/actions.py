"""Who did what, in order of time: read once from tables, JSON lines or the standard library.

What is kept is each user's items one after the other, as ids from 1, and the items' names.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, files, store, tfds_source

FORMAT = 1  # raise it when the same inputs would give other arrays
HOME = "~/.cache/bigmodel/interactions"
KINDS = ("python_stdlib", "table:FILE", "jsonl:GLOB", "tfds:NAME[/CONFIG]")
HELD_OUT = 2  # last actions of a user: one to validate, one to test
LINES_BETWEEN_REPORTS = 2**16

Action = tuple[str, str, str, float]  # where it stands, user, item, time
IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([A-Za-z_][\w.]*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How lines are read.

    Attributes:
        columns: of a table, their names in order; "": its first line says them.
        separator: of a table; "": a comma in .csv, a tab in .tsv, else blanks.
        user, item: names of columns, or of fields of JSON lines.
        time: the same; "": lines stand in order of time.
        least: actions that a user and an item must have, others are left out; 0: any number.
    """

    columns: str = "user item"
    separator: str = ""
    user: str = "user"
    item: str = "item"
    time: str = ""
    least: int = 0


@dataclasses.dataclass(frozen=True)
class Actions:
    """The actions of a source, memory-mapped.

    Attributes:
        items: [A] int32, 1 to N in order of how often they stand in training; users one after the
            other, in the order in which they first came.
        offsets: [users + 1] int64; user u's actions are items[offsets[u]:offsets[u + 1]].
        names: [bytes] uint8, UTF-8 of the items' names, in order of their ids.
        name_offsets: [N + 1] int64.
        left_out: how many actions `Reading.least` left out.
        content: hash of all that.
    """

    items: np.ndarray
    offsets: np.ndarray
    names: np.ndarray
    name_offsets: np.ndarray
    left_out: int
    content: str

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def vocabulary(self) -> int:
        """N, different items."""
        return len(self.name_offsets) - 1

    def name(self, item: int) -> str:
        """Of an item 1 to N, as the source has it."""
        start, stop = self.name_offsets[item - 1 : item + 1]
        return self.names[start:stop].tobytes().decode()


def open_actions(
    source: str, how: Reading, *, folder: str = "", progress: cache.Progress | None = None
) -> Actions:
    """The actions of a source, read and kept if they are not yet.

    Args:
        source: see KINDS.
        how: it is read.
        folder: where it is kept, local; "": $BIGMODEL_CACHE or HOME.
        progress: told of bytes done.
    """
    fingerprint, total, read = find(source, how)
    known = json.dumps([FORMAT, fingerprint, dataclasses.astuple(how)])
    key = hashlib.sha256(known.encode()).hexdigest()[:32]
    root = folder or os.environ.get("BIGMODEL_CACHE") or HOME
    if "://" in root:
        raise config.InputError(f"data.cache_dir = {root!r}: interactions are kept in a local one.")

    def told() -> Iterator[Action]:
        done = 0
        for number, action in enumerate(read()):
            done += sum(map(len, action[1:3])) + 2
            if progress and number % LINES_BETWEEN_REPORTS == 0:
                progress(source, min(done, total) if total else done, total)
            yield action

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        arrays, notes = gather(told(), how.least, source)
        for name, values in arrays.items():
            np.save(scratch / f"{name}.npy", values)
        return notes

    arrays, notes = store.build(pathlib.Path(root).expanduser() / key, write)
    return Actions(**arrays, left_out=notes["left_out"], content=notes["content"])


def find(source: str, how: Reading) -> tuple[str, int, Callable[[], Iterator[Action]]]:
    """A fingerprint of a source, its bytes or 0, and what reads its actions."""
    kind, _, where = source.partition(":")
    if source == "python_stdlib":
        return f"{source} {sys.version}", 0, read_stdlib
    if kind == "tfds" and where:
        fields = [how.user, how.item, *([how.time] if how.time else [])]
        fingerprint, rows = tfds_source.find_rows(where, "all", fields)
        return f"{kind} {fingerprint}", 0, lambda: (action(at, row, how) for at, row in rows())
    if kind not in ("table", "jsonl") or not where:
        names = [name.partition(":")[0] for name in KINDS]
        raise config.InputError(
            f'source "{source}" is unknown; allowed are {", ".join(KINDS)}.'
            f"{config.nearest(kind, names)}"
        )
    listing = files.list_text if kind == "table" else files.list_jsonl
    fingerprint, parts, sizes = listing(where, "")
    paths = list(dict.fromkeys(path for part in parts for path in part["paths"]))
    read = read_tables if kind == "table" else read_jsonl
    return f"{kind} {fingerprint}", sum(sizes), functools.partial(read, paths, how)


def read_stdlib() -> Iterator[Action]:
    """Each file of the standard library is a user, who takes the modules that it imports."""
    from bigmodel.data import python_stdlib  # and TFDS with it: half a second

    for name, path in python_stdlib.files():
        for module in IMPORT.findall(path.read_text("utf-8", "replace")):
            yield name, name, module, 0.0


def read_tables(paths: list[str], how: Reading) -> Iterator[Action]:
    """The lines of tables, their first ones where those are names."""
    for path in paths:
        columns: list[str] = how.columns.split()
        split = splitting(path, how.separator)
        for where, line in files.read_filled_lines([path]):
            values = [value.strip() for value in split(line)]
            if not columns:
                columns = values
                continue
            if len(values) != len(columns):
                raise config.InputError(
                    f"{where} has {len(values)} columns, not {len(columns)} ({' '.join(columns)}); "
                    "data.columns and data.separator say how lines are read."
                )
            yield action(where, dict(zip(columns, values, strict=True)), how)


def splitting(path: str, separator: str) -> Callable[[str], list[str]]:
    """What cuts a line into its columns."""
    stem = path.removesuffix(".gz").removesuffix(".zst")
    separator = separator or {".csv": ",", ".tsv": "\t"}.get(os.path.splitext(stem)[1], "")
    if separator == ",":  # with quotes
        return lambda line: next(csv.reader([line]))
    return lambda line: line.split(separator or None)


def read_jsonl(paths: list[str], how: Reading) -> Iterator[Action]:
    """An action a line."""
    for where, line in files.read_filled_lines(paths):
        yield action(where, files.record_of(line, where), how)


def action(where: str, record: dict[str, Any], how: Reading) -> Action:
    """A line's fields; raises InputError that says where, if they are none."""
    found = []
    for field in (how.user, how.item, *([how.time] if how.time else [])):
        value = record.get(field)
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
            raise config.InputError(
                f'{where} has no "{field}" (data.user, data.item, data.time); it has '
                f"{', '.join(record) or 'no fields'}.{config.nearest(field, list(record))}"
            )
        found.append(value)
    return where, str(found[0]), str(found[1]), moment(where, found[2]) if how.time else 0.0


def moment(where: str, value: Any) -> float:
    try:
        time = float(value)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise config.InputError(f"{where}: the time {value!r} is no number.")
    return time


def gather(
    read: Iterator[Action], least: int, source: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All actions, by user and in order of time, as arrays and notes."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    who, what, when = array("q"), array("q"), array("d")
    for _, user, item, time in read:
        who.append(users.setdefault(user, len(users)))
        what.append(items.setdefault(item, len(items)))
        when.append(time)
    user_of, item_of = np.frombuffer(who, np.int64), np.frombuffer(what, np.int64)
    if not len(user_of):
        raise config.InputError(f'source "{source}" has no actions.')
    kept = np.ones(len(user_of), bool)
    if least:  # by the counts of all, once, as Kang and McAuley 2018 do
        kept = (np.bincount(user_of)[user_of] >= least) & (np.bincount(item_of)[item_of] >= least)
        if not kept.any():
            raise config.InputError(
                f'source "{source}": no action is of a user and an item with data.least = {least} '
                "actions each."
            )
    order = np.lexsort((np.frombuffer(when, np.float64), user_of))  # stable: lines of one time
    order = order[kept[order]]
    counts = np.bincount(user_of[order], minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64)
    flat = item_of[order]
    training = np.ones(len(flat), bool)
    lasts = offsets[1:][np.diff(offsets) > HELD_OUT]
    for back in range(1, HELD_OUT + 1):
        training[lasts - back] = False
    # Ids by training's counts: a log-uniform draw wants them so, and no held-out action is told.
    present = np.unique(flat)
    often = np.bincount(flat[training], minlength=len(items))[present]
    ranked = present[np.argsort(-often, kind="stable")]
    new = np.zeros(len(items), np.int32)
    new[ranked] = np.arange(1, len(ranked) + 1)
    names = list(items)
    encoded = [names[item].encode() for item in ranked]
    arrays: dict[str, np.ndarray] = {
        "items": new[flat],
        "offsets": offsets,
        "names": np.frombuffer(b"".join(encoded), np.uint8),
        "name_offsets": np.concatenate([[0], np.cumsum([len(n) for n in encoded])]).astype(int),
    }
    content = hashlib.sha256(b"".join(a.tobytes() for a in arrays.values())).hexdigest()
    return arrays, {"left_out": int((~kept).sum()), "content": content}
