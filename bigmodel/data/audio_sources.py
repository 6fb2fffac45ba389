"""Where sounds with their texts come from: manifests of files, TFDS, digits dialled by tone.

A source names its rows in order, each with a text and a way to its sound, which is decoded only
when it is asked for.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel import config
from bigmodel.data import dtmf, files, records, sounds, sources, tfds_source

KNOWN = ("dtmf", "audio:MANIFEST", "audio:FOLDER", "tfds:NAME[/CONFIG]")
MANIFESTS = (".jsonl", ".csv", ".tsv")
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
LARGEST = 2**15  # of TFDS's whole numbers: they are samples of 16 bits


class Example(NamedTuple):
    """A sound and what is said in it.

    Attributes:
        name: says in messages where it is.
        text: as the source has it.
        sound: gives it, or raises `sounds.Fault`.
    """

    name: str
    text: str
    sound: Callable[[], sounds.Sound]


@dataclasses.dataclass(frozen=True)
class Source:
    """Sounds that were found.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever they may have changed.
        read: all of them, in order.
        hashed: a row of sources.HASHED_SPLITS that still has to be taken, or "all".
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Example]]
    hashed: str = "all"


def find(name: str, split: str, *, audio_field: str = "", text_field: str = "text") -> Source:
    """Finds a source by its name in a config.

    Args:
        name: of KNOWN.
        split: of a TFDS source its own; of a folder the manifest of that name (`train.jsonl`,
            `dev.tsv`, ...); of a single manifest 98, 1 and 1 per cent of the sounds by a hash of
            their samples, or "all"; of dialled digits eight, one and one in ten.
        audio_field: of a manifest's rows the sound's path, beside the manifest; "": "audio". Of
            TFDS a feature; "": the one of sound that there is.
        text_field: what is said.
    """
    kind, _, where = name.partition(":")
    if name == "dtmf":
        return dialled(sources.hashed_split(name, split))
    if kind == "audio" and where:
        return listed(name, where, split, audio_field or "audio", text_field)
    if kind == "tfds" and where:
        return tfds(name, where, split, audio_field, text_field)
    names = [known.partition(":")[0] for known in KNOWN]
    raise config.InputError(
        f'source "{name}" holds no sounds; allowed are {", ".join(KNOWN)}.'
        f"{config.nearest(kind, names)}"
    )


def dialled(split: str) -> Source:
    """2,000 rows of digits dialled by tone."""

    def read() -> Iterator[Example]:
        for number in range(dtmf.ROWS):
            digits = dtmf.digits_of(number)
            if split in ("all", dtmf.split_of(digits)):
                yield Example(f"dtmf[{number}]", digits, functools.partial(of_dialled, number))

    made = [value for key, value in vars(dtmf).items() if key.isupper()]
    return Source("dtmf", json.dumps([made, split]), read)


def of_dialled(number: int) -> sounds.Sound:
    return sounds.checked(dtmf.sound_of(number), dtmf.RATE)


def listed(name: str, where: str, split: str, audio_field: str, text_field: str) -> Source:
    """The rows of a manifest, or of those of a folder that are a split."""
    manifests, hashed = manifests_of(name, where, split)
    fields = (audio_field, text_field)
    rows = [row for path in manifests for row in rows_of(path, fields)]
    if not rows:
        raise config.InputError(f'source "{name}": {manifests[0]} names no sounds.')
    home = str(manifests[0].parent)
    known: list[Any] = [fields, *(files.changed(str(path)) for path in manifests)]
    for row, path, text in rows:
        if not path.is_file():
            raise config.InputError(f"{row}: there is no file {path}.")
        known.append([str(path).removeprefix(home), text, *files.changed(str(path))])

    def read() -> Iterator[Example]:
        for row, path, text in rows:
            yield Example(f"{row}, {path.name}", text, functools.partial(sounds.read, path))

    return Source(name, hashlib.sha256(json.dumps(known).encode()).hexdigest(), read, hashed)


def manifests_of(name: str, where: str, split: str) -> tuple[list[epath.Path], str]:
    """The manifests that hold a split, and the hashed split that is still to be taken of them."""
    root = config.place(where, "data.source")
    if root.is_file():
        if root.suffix not in MANIFESTS:
            raise config.InputError(
                f'source "{name}": a list of sounds ends in {", ".join(MANIFESTS)}.'
            )
        return [root], sources.hashed_split(name, split)
    if not root.is_dir():
        near = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise config.InputError(
            f'source "{name}": no such file or folder.{config.nearest(root.name, near)}'
        )
    there = sorted((p for p in root.iterdir() if p.suffix in MANIFESTS), key=str)
    named = [p for p in there if any(p.stem in names for names in SPLITS.values())]
    if not named and len(there) == 1:
        return there, sources.hashed_split(name, split)
    chosen = named if split == "all" else [p for p in named if p.stem in SPLITS.get(split, ())]
    if not chosen or (split != "all" and len(chosen) > 1):
        raise config.InputError(
            f'source "{name}": {len(chosen)} of its manifests are the split "{split}"; it has '
            f"{', '.join(p.name for p in there) or 'none'}. A manifest ends in "
            f"{', '.join(MANIFESTS)} and is named by its split (train, validation or dev, test), "
            'one for each, or is the only one; or name one and take the split "all".'
        )
    return chosen, "all"


def rows_of(manifest: epath.Path, fields: tuple[str, str]) -> Iterator[tuple[str, epath.Path, str]]:
    """(where it stands, path of the sound, text) of each row."""
    for where, record in records.READERS[manifest.suffix[1:]](str(manifest)):
        path, text = values(where, record, fields)
        sound = manifest.parent / path
        if not path or sound.suffix.lower() not in sounds.SUFFIXES:
            raise config.InputError(
                f'{where}: "{path}" is no file of sound; allowed are {", ".join(sounds.SUFFIXES)}.'
            )
        yield where, sound, text


def values(where: str, record: Mapping[str, Any], fields: tuple[str, str]) -> list[str]:
    """The two fields of a record, which must be texts."""
    for field in fields:
        if not isinstance(record.get(field), str):
            near = config.nearest(field, [key for key in record if key not in fields])
            raise config.InputError(
                f'{where} has no text in "{field}"; it has {", ".join(record) or "no fields"}.'
                f"{near}"
            )
    return [record[field] for field in fields]


def tfds(name: str, where: str, split: str, audio_field: str, text_field: str) -> Source:
    """A TFDS data set with a feature of sound and one of text, such as librispeech."""
    fingerprint, _, _ = tfds_source.find(where, split, text_field)
    import tensorflow_datasets as library

    builder = tfds_source.builder_of(where)
    features = builder.info.features
    heard = [n for n, f in features.items() if isinstance(f, library.features.Audio)]
    chosen = [n for n in heard if n == (audio_field or n)]
    if len(chosen) != 1:
        raise config.InputError(
            f'source "{name}": {audio_field or "its sound"!r} should be one of its features of '
            f"sound ({', '.join(heard) or 'it has none'}); say which by data.audio_field."
            f"{config.nearest(audio_field, heard)}"
        )
    field, rate = chosen[0], features[chosen[0]].sample_rate
    if not rate:
        raise config.InputError(
            f'source "{name}": its feature "{field}" does not say how many samples a second it has.'
        )
    skipped = {n: library.decode.SkipDecoding() for n in features if n not in (field, text_field)}

    def read() -> Iterator[Example]:
        found = builder.as_data_source(split, decoders=skipped)
        for index in range(len(found)):
            example = found[index]
            text = bytes(example[text_field]).decode("utf-8", "replace")
            sound = functools.partial(of_numbers, example[field], rate)
            yield Example(f"{name}: {split}[{index}]", text, sound)

    known = json.dumps([fingerprint, split, field, text_field])
    return Source(name, hashlib.sha256(known.encode()).hexdigest(), read)


def of_numbers(samples: np.ndarray, rate: int) -> sounds.Sound:
    """Whole numbers of 16 bits, or floating ones of -1 to 1."""
    samples = np.asarray(samples)
    if samples.dtype.kind in "iu":
        if len(samples) and np.abs(samples).max() > LARGEST:
            raise sounds.Fault(f"{np.abs(samples).max():,} is no sample of 16 bits")
        samples = samples / float(LARGEST)
    return sounds.checked(samples, rate)
