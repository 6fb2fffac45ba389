"""Documents in files: text, JSON lines and Parquet, plain or compressed, local or remote.

`list_*` finds the files of a pattern and cuts them into parts; `read_*` reads one part.
"""

import contextlib
import glob
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

from etils import epath

from bigmodel import config

COMPRESSED = ("", ".gz", ".zst")
OF_FILES = (  # kinds of sources, of all kinds of data
    *("text", "jsonl", "parquet", "lines", "tsv", "csv", "conll", "table"),
    *("images", "captions", "audio"),
)

# A part is what one worker reads at a time: large enough to be worth a message, small enough that
# all workers end together.
PART_BYTES = 2**23
MOST_PARTS = 4096

END_BYTES = 2**16

Found = tuple[str, tuple[dict[str, Any], ...], tuple[int, ...]]  # fingerprint, parts, sizes


def list_text(pattern: str, field: str) -> Found:
    """One document a file; a folder means its .txt files."""
    del field  # a text file has none
    paths, sizes, fingerprint = find(pattern, ".txt")
    parts, part_sizes = _group("text", paths, sizes, {})
    return fingerprint, parts, part_sizes


def list_jsonl(pattern: str, field: str) -> Found:
    """One document a line; a folder means its .jsonl files. Plain files are cut between lines."""
    paths, sizes, fingerprint = find(pattern, ".jsonl")
    step = _part_bytes(sizes)
    parts: list[dict[str, Any]] = []
    part_sizes: list[int] = []
    small: list[str] = []
    small_sizes: list[int] = []

    def flush() -> None:
        grouped, grouped_sizes = _group("jsonl", small, small_sizes, {"field": field}, step)
        parts.extend(grouped)
        part_sizes.extend(grouped_sizes)
        small.clear()
        small_sizes.clear()

    for path, size in zip(paths, sizes, strict=True):
        if size <= step or path.endswith(COMPRESSED[1:]):
            small.append(path)
            small_sizes.append(size)
            continue
        flush()  # the order of the files is the order of the parts
        for start in range(0, size, step):
            stop = min(start + step, size)
            parts.append(
                {"reader": "jsonl", "paths": [path], "field": field, "start": start, "stop": stop}
            )
            part_sizes.append(stop - start)
    flush()
    return fingerprint, tuple(parts), tuple(part_sizes)


def list_parquet(pattern: str, field: str) -> Found:
    """One document a row; a folder means its .parquet files."""
    paths, sizes, fingerprint = find(pattern, ".parquet")
    parts, part_sizes = _group("parquet", paths, sizes, {"field": field})
    return fingerprint, parts, part_sizes


def read_lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of each line of a UTF-8 file; other bytes are refused.

    Only "\\n" ends a line, so that two files side by side stay so whatever else they hold.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise config.InputError(f"{path}: line {number} is no UTF-8 text.") from error


def read_filled_lines(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """("path, line 3", text) of each line that is not blank, of several files."""
    for path in paths:
        for number, text in read_lines(path):
            if text.strip():
                yield f"{path}, line {number}", text.lstrip("\ufeff")


def read_text(paths: list[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of each file; bytes that are not UTF-8 become U+FFFD."""
    for path in paths:
        with opened(path) as file:
            yield path, file.read().decode("utf-8", "replace")


def read_jsonl(
    paths: list[str], field: str, start: int = 0, stop: int | None = None
) -> Iterator[tuple[str, str]]:
    """(path:byte, text) of each line that starts in [start, stop)."""
    for path in paths:
        with opened(path) as file:
            if start:
                file.seek(start - 1)
                file.readline()  # the rest of a line that belongs to the part before
            position = file.tell()
            while (stop is None or position < stop) and (line := file.readline()):
                name, position = f"{path}: the line at byte {position}", position + len(line)
                if line.strip():
                    yield name, _text_of(line, field, name)


def read_parquet(paths: list[str], field: str) -> Iterator[tuple[str, str]]:
    """(path:row, text) of each row; a null is an empty document."""
    import pyarrow.parquet

    for path in paths:
        with opened(path) as file:
            if path.endswith(COMPRESSED[1:]):
                file = io.BytesIO(file.read())  # Parquet is read from its end
            table = pyarrow.parquet.ParquetFile(file)
            if field not in table.schema_arrow.names:
                raise config.InputError(_no_field(path, field, table.schema_arrow.names))
            row = 0
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    if not isinstance(text, str | None):
                        raise config.InputError(f'{path}: "{field}" holds no text.')
                    yield f"{path}: row {row}", text or ""
                    row += 1


def record_of(line: str | bytes, where: str) -> dict[str, Any]:
    """The object of a JSON line; `where` says which line in the message if it is none."""
    try:
        record = json.loads(line.decode("utf-8", "replace") if isinstance(line, bytes) else line)
    except ValueError as error:
        raise config.InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise config.InputError(f"{where} is no JSON object, {{...}}.")
    return record


def _text_of(line: bytes, field: str, name: str) -> str:
    record = record_of(line, name)
    if not isinstance(record.get(field), str):
        raise config.InputError(_no_field(name, field, [k for k in record if k != field]))
    return record[field]


def _no_field(where: str, field: str, found: list[str]) -> str:
    near = config.nearest(field, found)
    return f'{where} has no text in "{field}"; it has {", ".join(found) or "no fields"}.{near}'


def find(pattern: str, suffix: str) -> tuple[list[str], list[int], str]:
    """Paths in order, their bytes, and a fingerprint of names, bytes and times of change."""
    config.place(pattern, "source")
    paths = _expand(pattern, suffix)
    if not paths:
        folder = epath.Path(_root(pattern))
        wanted = f"{suffix} files (or .gz, .zst of them)" if folder.is_dir() else "file or folder"
        beside = epath.Path(pattern).parent
        near = [path.name for path in beside.iterdir()] if beside.is_dir() else []
        raise config.InputError(
            f'source "{pattern}": no {wanted} there.'
            f"{config.nearest(os.path.basename(pattern), near)}"
        )
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if len(paths) > 1 else ""
    sizes, known = [], []
    for path in paths:
        size, when = changed(path)
        sizes.append(size)
        known.append([path.removeprefix(root) if root else os.path.basename(path), size, when])
    return paths, sizes, hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _expand(pattern: str, suffix: str) -> list[str]:
    """The files of a path, a folder or a pattern, in order."""
    path = epath.Path(pattern)
    if not glob.has_magic(pattern):
        if path.is_file():
            return [str(path)]
        endings = tuple(suffix + ending for ending in COMPRESSED)
        return sorted(_below(path, endings)) if path.is_dir() else []
    if "://" not in pattern:
        return sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
    if "**" in pattern:
        raise config.InputError(
            f'source "{pattern}": "**" is not allowed in a remote pattern; name the folder.'
        )
    root = _root(pattern)
    found = epath.Path(root).glob(pattern.removeprefix(root).lstrip("/"))
    return sorted(str(p) for p in found if p.is_file())


def absent(source: str) -> str:
    """The file or folder of a source, "KIND:PATTERN" or "FOLDER", that is not there, or "".

    It is a quick look: of a pattern at the folder before its first wildcard alone.
    """
    kind, _, where = source.partition(":")
    if kind not in OF_FILES:
        where = source if "/" in source and not where else ""
    patterns = where.split(",") if kind == "lines" else [where]
    roots = [_root(pattern) for pattern in patterns if pattern]
    return next((root for root in roots if not epath.Path(root).exists()), "")


def _below(folder: epath.Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Files in a folder and all folders in it."""
    for path in folder.iterdir():
        if path.name.endswith(endings):
            yield str(path)
        elif path.is_dir():
            yield from _below(path, endings)


def _root(pattern: str) -> str:
    """The folder of a pattern that stands before its first wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern or "."


def changed(path: str) -> tuple[int, int | str]:
    """Bytes, and the time of the last change; s3:// tells none, there a hash of both ends."""
    if "://" not in path:
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    remote = epath.Path(path).stat()
    if remote.mtime:
        return remote.length, int(remote.mtime)
    with epath.Path(path).open("rb") as file:
        ends = hashlib.sha256(file.read(END_BYTES))
        file.seek(max(0, remote.length - END_BYTES))
        ends.update(file.read())
    return remote.length, ends.hexdigest()


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file for reading, decompressed by its ending; raises InputError if it is gone."""
    try:
        raw = epath.Path(path).open("rb")
    except FileNotFoundError as error:
        raise config.InputError(f"{path}: the file was listed and is gone.") from error
    with raw:
        if path.endswith(".gz"):
            import gzip

            with gzip.open(raw) as file:
                yield cast(BinaryIO, file)
        elif path.endswith(".zst"):
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            with io.BufferedReader(reader, 2**20) as file:
                yield file
        else:
            yield raw


def _part_bytes(sizes: list[int]) -> int:
    return max(PART_BYTES, sum(sizes) // MOST_PARTS)


def _group(
    reader: str, paths: list[str], sizes: list[int], arguments: dict[str, Any], step: int = 0
) -> tuple[tuple[dict[str, Any], ...], tuple[int, ...]]:
    """Neighbouring files, gathered until they hold `step` bytes."""
    step = step or _part_bytes(sizes)
    groups: list[list[str]] = []
    totals: list[int] = []
    for path, size in zip(paths, sizes, strict=True):
        if not groups or totals[-1] + size > step:
            groups.append([])
            totals.append(0)
        groups[-1].append(path)
        totals[-1] += size
    return tuple({"reader": reader, "paths": g, **arguments} for g in groups), tuple(totals)
