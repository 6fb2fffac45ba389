"""Where pairs of texts come from: two files side by side, JSON lines, tables, the standard library.

What reads a source yields pairs in order, each with where it stands, so that a pair that cannot be
used is refused by its file and row.
"""

import ast
import dataclasses
import hashlib
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bigmodel import config
from bigmodel.data import files, sources, tfds_source

KINDS = (
    *("python_stdlib", "lines:SOURCE_FILE,TARGET_FILE", "jsonl:GLOB", "tsv:GLOB"),
    "tfds:NAME[/CONFIG]",
)


class Pair(NamedTuple):
    """A text, and what is to be made of it.

    Attributes:
        file: the number of its file in the source.
        row: its line there, from 1.
    """

    source: str
    target: str
    file: int
    row: int


@dataclasses.dataclass(frozen=True)
class PairSource:
    """A source that was found.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever the pairs may have changed.
        files: where they stand, for messages.
        size: bytes to read, about; 0: nobody knows.
        read: gives the pairs, of all splits unless `split` is "all".
        split: a row of `sources.HASHED_SPLITS` that still has to be taken, or "all".
    """

    name: str
    fingerprint: str
    files: tuple[str, ...]
    size: int
    read: Callable[[], Iterator[Pair]]
    split: str


def find(
    name: str,
    split: str,
    *,
    fields: tuple[str, str],
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> PairSource:
    """Finds a source by its name in a config; raises InputError that names it if it is not there.

    Args:
        name: as KINDS says, or a name in `extensions`.
        split: of a TFDS data set its own; else "train", "validation", "test" (98, 1 and 1 per cent
            of the pairs, by a hash of the source text, so that one text is never on two sides) or
            "all".
        fields: of a JSON record, or features of TFDS as ("de", "en"): that of the source and that
            of the target.
        extensions: the user's own sources: functions that return pairs of texts, or dicts.
    """
    kind, _, where = name.partition(":")
    if kind == "tfds" and where:
        return _of_tfds(name, where, split, fields)
    split = sources.hashed_split(name, split)
    if name in (extensions or {}):
        own = (extensions or {})[name]
        known = sources.find(name, split, extensions=extensions).fingerprint
        return PairSource(name, known, (name,), 0, lambda: _of_user(own(), name, fields), split)
    if name == "python_stdlib":
        return _of_stdlib(split)
    if kind == "lines" and where:
        return _side_by_side(name, where, split)
    if kind in ("jsonl", "tsv") and where:
        paths, sizes, known = files.find(where, f".{kind}")
        known = hashlib.sha256(json.dumps([known, fields]).encode()).hexdigest()

        def read() -> Iterator[Pair]:
            for number, path in enumerate(paths):
                yield from (
                    _records(path, number, fields) if kind == "jsonl" else _table(path, number)
                )

        return PairSource(name, known, tuple(paths), sum(sizes), read, split)
    allowed = [*KINDS, *(extensions or {})]
    near = config.nearest(kind, [text.partition(":")[0] for text in allowed])
    raise config.InputError(
        f'source "{name}" holds no pairs; allowed are {", ".join(allowed)}.{near}'
    )


def _side_by_side(name: str, where: str, split: str) -> PairSource:
    """Line n of one file belongs to line n of the other."""
    both = where.split(",")
    if len(both) != 2:
        raise config.InputError(
            f'source "{name}": names {len(both)} files; allowed are two, lines:SOURCE,TARGET.'
        )
    found = [files.find(path, "") for path in both]
    known = hashlib.sha256(json.dumps([f[2] for f in found]).encode()).hexdigest()

    def read() -> Iterator[Pair]:
        one, other = (files.read_lines(path) for path in both)
        for left, right in itertools.zip_longest(one, other):
            if left is None or right is None:
                longer, number = (both[1], right[0]) if left is None else (both[0], left[0])
                raise config.InputError(
                    f'source "{name}": {longer} goes on at line {number}, where the other file '
                    "has ended; both must have as many lines."
                )
            yield Pair(left[1], right[1], 0, left[0])

    return PairSource(name, known, (both[0],), sum(sum(f[1]) for f in found), read, split)


def _records(path: str, file: int, fields: tuple[str, str]) -> Iterator[Pair]:
    for number, line in files.read_lines(path):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        yield Pair(*_texts(files.record_of(line, where), fields, where), file, number)


def _table(path: str, file: int) -> Iterator[Pair]:
    for number, line in files.read_lines(path):
        cells = line.split("\t")
        if len(cells) != 2:
            raise config.InputError(
                f"{path}: line {number} has {len(cells)} cells; a pair is a source, a tab and a "
                "target."
            )
        yield Pair(cells[0], cells[1], file, number)


def _of_tfds(name: str, where: str, split: str, fields: tuple[str, str]) -> PairSource:
    """A TFDS data set with two features of text, such as a translation's languages."""
    known, rows = tfds_source.find_rows(where, split, fields)

    def read() -> Iterator[Pair]:
        for number, (row, record) in enumerate(rows(), 1):
            yield Pair(*_texts(record, fields, row), 0, number)

    return PairSource(name, known, (f"{name} {split}",), 0, read, "all")


def _of_user(pairs: Iterable[Any], name: str, fields: tuple[str, str]) -> Iterator[Pair]:
    for number, pair in enumerate(pairs, 1):
        where = f'source "{name}": pair {number}'
        if isinstance(pair, tuple | list) and len(pair) == 2:
            pair = dict(zip(fields, pair, strict=True))
        yield Pair(*_texts(pair, fields, where), 0, number)


def _texts(record: Any, fields: tuple[str, str], where: str) -> tuple[str, str]:
    held = record if isinstance(record, Mapping) else {}
    for field in fields:
        if not isinstance(held.get(field), str):
            near = config.nearest(field, [k for k in held if k not in fields])
            raise config.InputError(
                f'{where} has no text in "{field}"; it has {", ".join(held) or "no fields"}.{near}'
            )
    return held[fields[0]], held[fields[1]]


def _of_stdlib(split: str) -> PairSource:
    """Signatures of the standard library's functions, and what their docstrings say first.

    The pairs of a file are all of one split. Files that this Python cannot parse have none.
    """
    from bigmodel.data import python_stdlib  # and TFDS with it: half a second

    found = [
        (name, path)
        for name, path in python_stdlib.files()
        if split in ("all", python_stdlib.split_of(name))
    ]
    sizes = [path.stat().st_size for _, path in found]
    known = json.dumps([sys.version_info[:3], [name for name, _ in found], sizes])

    def read() -> Iterator[Pair]:
        for number, (_, path) in enumerate(found):
            for signature, line, row in _documented(path.read_bytes()):
                yield Pair(signature, line, number, row)

    names = tuple(name for name, _ in found)
    fingerprint = hashlib.sha256(known.encode()).hexdigest()
    return PairSource("python_stdlib", fingerprint, names, sum(sizes), read, "all")


def _documented(text: bytes) -> Iterator[tuple[str, str, int]]:
    """(signature, first line of the docstring, line) of each function that has one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own text
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        said = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        if isinstance(node, ast.FunctionDef) and said and said.strip():
            first = said.strip().partition("\n")[0].strip()
            yield f"{node.name}({ast.unparse(node.args)})", first, node.lineno
