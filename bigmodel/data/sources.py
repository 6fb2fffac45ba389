"""Where documents come from: the embedded corpus, TFDS, local files, or a function of the user's.

A source is a list of parts. A part is plain data that any process can turn into documents, and
the cut into parts depends on the source alone: so any number of workers makes the same cache.
"""

import dataclasses
import hashlib
import inspect
import json
import marshal
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, cast

from bigmodel import config
from bigmodel.data import files, tfds_source

Part = dict[str, Any]  # {"reader": a row of READERS, and its arguments}
Document = tuple[str, str]  # name, text

Form = Literal["NFC", "NFKC", "NFD", "NFKD"]

LOCAL = {"text": files.list_text, "jsonl": files.list_jsonl, "parquet": files.list_parquet}

READERS: dict[str, Callable[..., Iterator[Document]]] = {
    "text": files.read_text,
    "jsonl": files.read_jsonl,
    "parquet": files.read_parquet,
    "tfds": tfds_source.read,
}

KINDS = ("python_stdlib", "tfds:NAME[/CONFIG]", "text:GLOB", "jsonl:GLOB", "parquet:GLOB")

# Per cent of the documents of a source without splits of its own, by a hash of their text: two
# equal documents never stand on both sides.
HASHED_SPLITS = {"train": range(0, 98), "validation": range(98, 99), "test": range(99, 100)}


@dataclasses.dataclass(frozen=True)
class Source:
    """A source that was found, and what of it is to be read.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever the documents may have changed.
        parts: the pieces that workers read, in order.
        sizes: bytes to read for each part, about; for progress, 0 where nobody knows.
        split: a row of HASHED_SPLITS that still has to be taken, or "all".
        documents: for a source that only this process can read; it stands for all parts.
    """

    name: str
    fingerprint: str
    parts: tuple[Part, ...]
    sizes: tuple[int, ...]
    split: str = "all"
    documents: Callable[[], Iterable[Any]] | None = None

    def read(self, part: Part) -> Iterator[Document]:
        """(name, text) of each document of a part."""
        if self.documents is None:
            return read(part)
        return _checked(self.documents(), self.name, part["field"])


def find(
    name: str,
    split: str,
    *,
    field: str = "text",
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Source:
    """Finds a source by its name in a config; raises InputError that names it if it is not there.

    Args:
        name: "python_stdlib", "tfds:lm1b", "jsonl:data/*.jsonl.gz", ..., or a name in `extensions`.
        split: a split of a TFDS source; for all others "train", "validation", "test" (98, 1 and 1
            per cent of the documents, by a hash of their text) or "all".
        field: the field of a record that holds the text.
        extensions: the user's own sources: functions that return str or dicts.
    """
    extensions = extensions or {}
    kind, _, where = name.partition(":")
    if name in extensions:
        return _extension(name, hashed_split(name, split), field, extensions[name])
    if name == "python_stdlib":
        return Source(name, *tfds_source.find_python_stdlib(split))
    if kind == "tfds" and where:
        return Source(name, *tfds_source.find(where, split, field))
    if kind in LOCAL and where:
        found = LOCAL[kind](where, field)
        return Source(name, *found, split=hashed_split(name, split))
    known = [*KINDS, *extensions]
    names = [known_name.partition(":")[0] for known_name in known]
    raise config.InputError(
        f'source "{name}" is unknown; allowed are {", ".join(known)}.{config.nearest(kind, names)}'
    )


def read(part: Part) -> Iterator[Document]:
    """(name, text) of each document of a part, in any process."""
    arguments = dict(part)
    return READERS[arguments.pop("reader")](**arguments)


def texts(
    documents: Iterable[Document], split: str, normalize: str
) -> Iterator[tuple[str, int, bytes]]:
    """Documents -> (text, UTF-8 bytes, hash) of those of a hashed split, normalised.

    An empty document is ("", 0, b""). `normalize` is a Unicode form, or "none".
    """
    for _, text in documents:
        if not text.strip():
            yield "", 0, b""
            continue
        if normalize != "none":
            text = unicodedata.normalize(cast(Form, normalize), text)
        raw = text.encode("utf-8", "replace")  # JSON can hold one half of a surrogate pair
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if in_split(digest, split):
            yield text if text.isascii() else raw.decode("utf-8"), len(raw), digest


def hashed_split(name: str, split: str) -> str:
    """`split`, if a source without splits of its own can have it."""
    if split != "all" and split not in HASHED_SPLITS:
        allowed = ["all", *HASHED_SPLITS]
        raise config.InputError(
            f'split "{split}" is unknown for the source "{name}"; allowed are '
            f"{', '.join(allowed)}.{config.nearest(split, allowed)}"
        )
    return split


def in_split(digest: bytes, split: str) -> bool:
    """Whether a document whose text has this hash belongs to a hashed split."""
    return split == "all" or int.from_bytes(digest[:8], "big") % 100 in HASHED_SPLITS[split]


def _checked(documents: Iterable[Any], name: str, field: str) -> Iterator[Document]:
    """What a user's function gave, as documents."""
    for index, document in enumerate(documents):
        text = document.get(field) if isinstance(document, Mapping) else document
        if not isinstance(text, str):
            found = sorted(document) if isinstance(document, Mapping) else type(document).__name__
            raise config.InputError(
                f'source "{name}": document {index} has no text; it gave {found}, allowed are '
                f'str, or a dict with "{field}".'
            )
        yield f"{name}[{index}]", text


def known_by(name: str, function: Callable) -> str:
    """Hash of a user's function: of its text, and of its attribute `fingerprint` if it has one."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        text = repr((marshal.dumps(code.co_code), code.co_consts)) if code else repr(function)
    known = json.dumps([name, text, str(getattr(function, "fingerprint", ""))])
    return hashlib.sha256(known.encode()).hexdigest()


def _extension(name: str, split: str, field: str, documents: Callable) -> Source:
    """A user's function."""
    return Source(name, known_by(name, documents), ({"field": field},), (0,), split, documents)
