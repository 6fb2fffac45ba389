"""Records of several fields: JSON lines, tables, Parquet, TFDS, a user's function, and two made
from the embedded corpus.
"""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bigmodel import config
from bigmodel.data import files, sources, tfds_source

Record = Mapping[str, Any]
Named = tuple[str, Record]  # what messages call it, and its fields

KINDS = (
    *("python_stdlib", "tfds:NAME[/CONFIG]", "jsonl:GLOB", "csv:GLOB", "tsv:GLOB"),
    "parquet:GLOB",
)

# Whose lines are told apart, from the embedded corpus: modules about as long as each other.
MODULES = ("argparse", "datetime", "mailbox", "tarfile")
SHORTEST_LINE = 16  # characters; "return" alone is of no module


@dataclasses.dataclass(frozen=True)
class Records:
    """A source that was found.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever the records may have changed.
        split: a row of `sources.HASHED_SPLITS` that has still to be taken, or "all".
        read: gives all of them, in order.
    """

    name: str
    fingerprint: str
    split: str
    read: Callable[[], Iterator[Named]]


def find(
    name: str,
    split: str,
    *,
    text: str,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Records:
    """Finds a source by its name in a config; raises InputError that names it if it is not there.

    Args:
        name: see KINDS, or a name in `extensions`.
        split: a split of a TFDS source; for all others see `sources.find`.
        text: the field that holds the text, which a TFDS source must have.
        extensions: the user's own sources: functions that return dicts.
    """
    extensions = extensions or {}
    kind, _, where = name.partition(":")
    if kind == "tfds" and where:
        fingerprint, parts, _ = tfds_source.find(where, split, text)
        return Records(name, fingerprint, "all", lambda: of_tfds(parts))
    if name in extensions:
        found = sources.find(name, split, extensions=extensions)
        return Records(name, found.fingerprint, found.split, lambda: of_function(name, extensions))
    if name == "python_stdlib":
        split = sources.hashed_split(name, split)
        made = json.dumps([sys.version, MODULES, SHORTEST_LINE])
        return Records(name, made, split, lines_of_modules)
    if kind in READERS and where:
        paths, _, fingerprint = files.find(where, f".{kind}")
        reader = READERS[kind]
        split = sources.hashed_split(name, split)
        return Records(
            name, fingerprint, split, lambda: (r for path in paths for r in reader(path))
        )
    known = [*KINDS, *extensions]
    names = [known_name.partition(":")[0] for known_name in known]
    raise config.InputError(
        f'source "{name}" is unknown; allowed are {", ".join(known)}.{config.nearest(kind, names)}'
    )


def of_jsonl(path: str) -> Iterator[Named]:
    with files.opened(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            yield where, files.record_of(line, where)


def of_table(path: str, delimiter: str) -> Iterator[Named]:
    """Rows below a line of names. In tab-separated files a quote is a character like any other."""
    how: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    with files.opened(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        rows = csv.reader(lines, delimiter=delimiter, strict=True, **how)
        try:
            names = next(rows, [])
            if len(set(names)) < len(names) or not names:
                raise config.InputError(f"{path}: its first line must name each column once.")
            for row in rows:
                where = f"{path}: line {rows.line_num}"
                if not row:
                    continue
                if len(row) != len(names):
                    raise config.InputError(
                        f"{where} has {len(row)} columns, and the first line names {len(names)}."
                    )
                yield where, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise config.InputError(f"{path}: line {rows.line_num}: {error}.") from error


def of_parquet(path: str) -> Iterator[Named]:
    import pyarrow.parquet

    with files.opened(path) as file:
        row = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield f"{path}: row {row}", record
                row += 1


READERS: dict[str, Callable[[str], Iterator[Named]]] = {
    "jsonl": of_jsonl,
    "csv": lambda path: of_table(path, ","),
    "tsv": lambda path: of_table(path, "\t"),
    "parquet": of_parquet,
}


def of_tfds(parts: Iterable[Mapping[str, Any]]) -> Iterator[Named]:
    """Examples of a data set; classes by their names, and text decoded."""
    import tensorflow_datasets as tfds

    for part in parts:
        builder = tfds.builder_from_directory(part["folder"])
        examples = builder.as_data_source(part["split"])
        for index in range(part["start"], part["stop"]):
            where = f"{part['folder']}: {part['split']}[{index}]"
            yield (
                where,
                {n: of_feature(v, builder.info.features[n]) for n, v in examples[index].items()},
            )


def of_feature(value: Any, feature: Any) -> Any:
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if int(value) >= 0 else None  # -1: not told
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if hasattr(value, "item") and value.ndim == 0 else value


def of_function(name: str, extensions: Mapping[str, Callable]) -> Iterator[Named]:
    for index, record in enumerate(extensions[name]()):
        if not isinstance(record, Mapping):
            raise config.InputError(
                f'source "{name}": record {index} is {type(record).__name__}; allowed are dicts.'
            )
        yield f"{name}[{index}]", record


def lines_of_modules() -> Iterator[Named]:
    """Lines of some modules of the standard library, as "text", and their module as "label"."""
    from bigmodel.data import python_stdlib

    for name, path in python_stdlib.files():
        module = name.removesuffix(".py")
        if module not in MODULES:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if len(line.strip()) >= SHORTEST_LINE:
                yield f"{name}: line {number}", {"text": line.strip(), "label": module}
