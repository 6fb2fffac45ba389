"""Records with a label into arrays of tokens and labels, or refused by their name."""

import dataclasses
import hashlib
import json
import math
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import prepare, records, sources, tokenizers

FORMAT = 1  # raise it when the same inputs would give other rows
# What becomes of a record that is longer than a row; of one that is empty: with "cut", refused.
UNFIT = ("refuse", "cut", "skip")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records become arrays; the fields are those of `open_rows`."""

    found: records.Records
    split: str
    tokenizer: tokenizers.Tokenizer
    length: int
    fields: tuple[str, ...]
    label: str
    labels: str
    classes: tuple[str, ...]
    unfit: str
    normalize: str

    @property
    def key(self) -> str:
        known = [FORMAT, "labelled_text", self.found.name, self.found.fingerprint, self.split]
        known += [self.tokenizer.fingerprint, self.length, self.fields, self.label, self.labels]
        known += [self.classes, self.unfit, self.normalize, unicodedata.unidata_version]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]

    def write(self, folder: pathlib.Path) -> dict[str, Any]:
        dtype = prepare.token_dtype(self.tokenizer.size)
        flat: list[np.ndarray] = [np.empty(0, dtype)]
        labels: list[Any] = []
        where_of: list[str] = []
        skipped = 0
        for where, texts, label in self.rows():
            ids = self.fit(where, [self.tokenizer.encode(text) for text in texts])
            if ids is None:
                skipped += 1
                continue
            flat += [one.astype(dtype) for one in ids]
            labels.append(label)
            where_of.append(where)
        if not labels:
            raise config.InputError(
                f'source "{self.found.name}" has no records in the split "{self.split}" '
                f"({skipped} are skipped)."
            )
        classes = self.classes
        if self.labels == "classes":
            classes = classes or tuple(in_order(labels))
        arrays = {
            "tokens": np.concatenate(flat),
            "offsets": np.cumsum([len(one) for one in flat], dtype=np.int64),
            "labels": self.as_array(labels, where_of, classes),
        }
        content = save(arrays, folder, self.tokenizer)
        return {"content": content, "skipped": skipped, "classes": classes}

    def rows(self) -> Iterator[tuple[str, list[str], Any]]:
        """(where, texts, label) of each record of the split; by a hash of its texts, if at all."""
        for where, record in self.found.read():
            texts = [self.text(where, record, name) for name in self.fields]
            raw = json.dumps(texts).encode()
            if not sources.in_split(
                hashlib.blake2b(raw, digest_size=16).digest(), self.found.split
            ):
                continue
            label = record.get(self.label)
            if not isinstance(label, str | int | float) or label == "":
                near = config.nearest(self.label, [k for k in record if k != self.label])
                raise config.InputError(
                    f'{where} has no label in "{self.label}" but {label!r}; it has '
                    f"{', '.join(map(str, record))}.{near}"
                )
            yield where, texts, number(where, label) if self.labels == "numbers" else str(label)

    def text(self, where: str, record: records.Record, name: str) -> str:
        text = record.get(name)
        if not isinstance(text, str):
            near = config.nearest(name, [k for k in record if k != name])
            raise config.InputError(
                f'{where} has no text in "{name}"; it has {", ".join(map(str, record))}.{near}'
            )
        text = text.strip()
        if self.normalize == "none":
            return text
        return unicodedata.normalize(cast(sources.Form, self.normalize), text)

    def fit(self, where: str, ids: list[np.ndarray]) -> list[np.ndarray] | None:
        """The texts of a record as they fit in a row; None: it is left out."""
        room = self.length - 1 - len(ids)
        empty, size = not all(map(len, ids)), sum(map(len, ids))
        if not empty and size <= room:
            return ids
        if self.unfit == "skip":
            return None
        if empty or self.unfit == "refuse":
            what = "an empty text" if empty else f"{size} tokens, and a row room for {room}"
            cure = '"skip"' if empty else '"cut" or "skip", or a larger data.length'
            raise config.InputError(f"{where} has {what}; data.unfit = {cure} would do.")
        return [one[:size] for one, size in zip(ids, cut(room, *map(len, ids)), strict=True)]

    def as_array(self, labels: list, where_of: list[str], classes: tuple[str, ...]) -> np.ndarray:
        if self.labels == "numbers":
            return np.array(labels, np.float32)[:, None]
        return ids_of(labels, where_of, classes)


def check(classes: tuple[str, ...], unfit: str, length: int, *, least: int) -> None:
    """Refuses fields that no data can have."""
    config.known("data.unfit", unfit, UNFIT)
    if length < least:
        raise config.InputError(f"data.length = {length}: allowed are {least} and more.")
    if len(set(classes)) < len(classes):
        raise config.InputError(f"data.classes = {classes}: each class has one name of its own.")


def save(
    arrays: dict[str, np.ndarray], folder: pathlib.Path, tokenizer: tokenizers.Tokenizer
) -> str:
    """Writes arrays by their names, and returns a hash of their content."""
    content = hashlib.sha256(tokenizer.fingerprint.encode())
    for name, array in arrays.items():
        content.update(array.tobytes())
        np.save(folder / f"{name}.npy", array)
    return content.hexdigest()


def ids_of(labels: list[str], where_of: list[str], classes: tuple[str, ...]) -> np.ndarray:
    """The class of each label, int32; refuses one that is none, by where it stands."""
    ids = {name: number for number, name in enumerate(classes)}
    for name, where in zip(labels, where_of, strict=True):
        if name not in ids:
            raise config.InputError(
                f"{where}: {name!r} is none of the classes {', '.join(classes)}."
                f"{config.nearest(name, classes)} They are those of data.classes, or else of the "
                "training split."
            )
    return np.array([ids[name] for name in labels], np.int32)


def cut(room: int, first: int, second: int = 0) -> tuple[int, ...]:
    """Sizes that fit: tokens are taken from the end of the longer text (google-research/bert)."""
    if not second:
        return (min(first, room),)
    second = min(second, max(room // 2, room - first))
    return room - second, second


def number(where: str, label: str | float) -> float:
    try:
        value = float(label)
    except ValueError as error:
        raise config.InputError(f"{where}: the label {label!r} is no number.") from error
    if not math.isfinite(value):
        raise config.InputError(f"{where}: the label {label!r} is no finite number.")
    return value


def in_order(names: Iterable[str]) -> list[str]:
    """Different names, sorted; whole numbers by what they are."""
    found = sorted(set(names))
    numbers = all(name.isascii() and name.isdigit() for name in found)
    return sorted(found, key=int) if numbers else found
