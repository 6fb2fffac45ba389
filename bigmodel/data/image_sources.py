"""Where images come from: scikit-learn's digits, folders of files, TFDS; as encoded bytes.

A source is read once, every image decoded to see that it can be, and kept as it was encoded: what
is random about an image is done to its pixels each time anew.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigmodel import config
from bigmodel.data import files, sources, store, tfds_source

FORMAT = 2  # raise it when the same inputs would give other arrays
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
KNOWN = ("digits", "images:FOLDER", "tfds:NAME[/CONFIG]")
BROKEN = ("refuse", "skip")
SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


class Example(NamedTuple):
    """An image as it was encoded; `label` is the name of its class, "" where it has none.

    `texts` say what it shows, each in other words, or answer a prompt each.
    """

    name: str
    data: bytes
    label: str
    texts: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Images that were found.

    Attributes:
        name: as in the config.
        fingerprint: changes whenever the images may have changed.
        read: all of them, in order.
        classes: names of classes in the order of their numbers.
        hashed: a row of sources.HASHED_SPLITS that still has to be taken, or "all".
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterator[Example]]
    classes: tuple[str, ...]
    hashed: str = "all"


@dataclasses.dataclass(frozen=True)
class Images:
    """Encoded images, memory-mapped.

    Attributes:
        data: [bytes of all] uint8.
        offsets: [N + 1] int64; image k is data[offsets[k]:offsets[k + 1]].
        labels: [N] int32, numbers of classes.
        classes: their names.
        broken: images that could not be decoded, and were left out.
        content: hash of all of it.
        texts: [N] JSON of each image's name, texts and prompts; None where it has no texts.
    """

    data: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    broken: int
    content: str
    texts: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def told(self, index: int) -> tuple[str, list[str], list[str]]:
        """An image's name in its source, its texts, and the prompt of each, "" for none."""
        if self.texts is None:
            raise ValueError("these images have no texts")
        data, offsets = self.texts
        return tuple(json.loads(data[offsets[index] : offsets[index + 1]].tobytes()))


def find(name: str, split: str) -> Source:
    """Finds a source by its name in a config.

    Args:
        name: of KNOWN.
        split: of a TFDS source; a folder's own (`train`, `validation`, `test`) if it has such
            folders; else 98, 1 and 1 per cent of the images by a hash of their bytes, or "all". Of
            the digits eight, one and one in ten.
    """
    kind, _, where = name.partition(":")
    if name == "digits":
        return digits(sources.hashed_split(name, split))
    if kind == "images" and where:
        return folder(name, where, split)
    if kind == "tfds" and where:
        return tfds(name, where, split)
    names = [known.partition(":")[0] for known in KNOWN]
    raise config.InputError(
        f'source "{name}" is unknown for images; allowed are {", ".join(KNOWN)}.'
        f"{config.nearest(kind, names)}"
    )


def digits(split: str) -> Source:
    """1,797 scanned digits of 8 x 8 pixels, inside scikit-learn (Alpaydin and Kaynak 1998)."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise config.InputError(
            'source "digits" is inside scikit-learn, which is not installed: '
            "pip install scikit-learn"
        ) from error
    tenth = {"validation": (8,), "test": (9,), "train": range(8), "all": range(10)}[split]

    def read() -> Iterator[Example]:
        found = datasets.load_digits()
        pixels = np.round(found.images * (255 / 16)).astype(np.uint8)
        for index in range(len(pixels)):
            if index % 10 in tenth:
                label = str(found.target[index])
                yield Example(f"digits[{index}]", encode(pixels[index]), label)

    return Source("digits", f"digits/{split}", read, tuple(map(str, range(10))))


def folder(name: str, where: str, split: str) -> Source:
    """Files in folders named by their class; a folder of files has no classes."""
    root = config.place(where, "data.source")
    if not root.is_dir():
        near = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise config.InputError(
            f'source "{name}": no such folder.{config.nearest(root.name, near)}'
        )
    own = {p.name: p for p in root.iterdir() if p.is_dir()}
    splits = [own[n] for names in SPLITS.values() for n in names if n in own]
    chosen = [own[n] for n in SPLITS.get(split, ()) if n in own]
    if splits and (len(chosen) > 1 or (not chosen and split != "all")):
        raise config.InputError(
            f'source "{name}": {len(chosen)} of its folders are the split "{split}"; those of '
            f"splits are {', '.join(p.name for p in splits)}, one for each."
        )
    hashed = "all" if chosen else sources.hashed_split(name, split)
    # A class has one number in all splits, whichever of them hold it.
    homes, root = splits or [root], chosen[0] if chosen else root
    every = [p.name for home in homes for p in home.iterdir() if p.is_dir()]
    paths = sorted(below(root), key=str)
    if not paths:
        raise config.InputError(f'source "{name}": {root} holds no {", ".join(SUFFIXES)} files.')
    known = [[str(p).removeprefix(str(root)), *files.changed(str(p))] for p in paths]

    def read() -> Iterator[Example]:
        for path in paths:
            inside = path.relative_to(root).parts
            inside = inside[1:] if splits and not chosen else inside  # "all" of several splits
            label = inside[0] if every else ""
            yield Example(str(path), path.read_bytes(), label)

    fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return Source(name, fingerprint, read, tuple(sorted(set(every))) or ("",), hashed)


def below(root: epath.Path) -> Iterator[epath.Path]:
    """Images in a folder and in all folders in it."""
    for path in root.iterdir():
        if path.is_dir():
            yield from below(path)
        elif path.name.lower().endswith(SUFFIXES):
            yield path


def tfds(name: str, where: str, split: str) -> Source:
    """A TFDS data set with the features "image" and "label" (or no label)."""
    builder = tfds_source.builder_of(where)
    import tensorflow_datasets as library

    features = builder.info.features
    if "image" not in features:
        raise config.InputError(
            f'source "{name}" has no feature "image"; it has {", ".join(features)}.'
        )
    labels = features.get("label")
    names = tuple(labels.names) if isinstance(labels, library.features.ClassLabel) else ("",)
    skipped = {n: library.decode.SkipDecoding() for n in features if n not in ("label",)}
    noted = (builder.data_path / "dataset_info.json").read_text()

    def read() -> Iterator[Example]:
        found = builder.as_data_source(split, decoders=skipped)
        for index in range(len(found)):
            example = found[index]
            where, label = f"{name}: {split}[{index}]", ""
            if len(names) > 1:
                number = int(example["label"])
                if not 0 <= number < len(names):  # TFDS says -1 where nobody has told
                    raise config.InputError(
                        f"{where} has the label {number}; there are classes 0 to {len(names) - 1}."
                    )
                label = names[number]
            yield Example(where, bytes(example["image"]), label)

    fingerprint = hashlib.sha256(f"{noted}{split}".encode()).hexdigest()
    return Source(name, fingerprint, read, names)


def prepare(source: Source, split: str, *, broken: str, root: str, report: Callable) -> Images:
    """The images of a source, read and checked once, kept below `root` (""): the user's cache."""
    if broken not in BROKEN:
        raise config.InputError(f'data.broken = "{broken}": allowed are {", ".join(BROKEN)}.')
    known = json.dumps([FORMAT, source.name, source.fingerprint, split, broken])
    place = place_of(known, root)

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        return write_all(source, split, scratch, skip=broken == "skip", report=report)

    arrays, meta = store.build(place, write)
    notes = tuple(meta["classes"]), meta["broken"], meta["content"]
    texts = (arrays["texts"], arrays["text_offsets"]) if "texts" in arrays else None
    return Images(arrays["data"], arrays["offsets"], arrays["labels"], *notes, texts)


def place_of(known: str, root: str) -> pathlib.Path:
    """Where what is known by this text is kept, below `root` (""): the user's cache."""
    key = hashlib.sha256(known.encode()).hexdigest()[:32]
    home = root or os.environ.get("BIGMODEL_CACHE") or os.path.expanduser("~/.cache/bigmodel")
    if "://" in home:
        raise config.InputError(f"data.cache_dir = {home!r}: images want a local folder.")
    return pathlib.Path(home).expanduser() / "images" / key


def write_all(
    source: Source, split: str, scratch: pathlib.Path, *, skip: bool, report: Callable
) -> dict[str, Any]:
    """Every image that can be decoded, one after another in a file."""
    sizes, labels, broken, content, seen = [0], [], 0, hashlib.sha256(), 0
    number = {name: index for index, name in enumerate(source.classes)}
    told: list[bytes] = []
    with (scratch / "all").open("wb") as file:
        for example in source.read():
            seen += len(example.data)
            report(f"{source.name} {split}", seen, 0)
            digest = hashlib.blake2b(example.data, digest_size=16).digest()
            if not sources.in_split(digest, source.hashed):
                continue
            if why := fault(example.data):
                if not skip:
                    raise config.InputError(
                        f'source "{source.name}": {example.name} is no whole image ({why}). Remove '
                        "it, or count and leave out such with --config.data.broken=skip."
                    )
                broken += 1
                continue
            file.write(example.data)
            sizes.append(len(example.data))
            if example.label not in number:
                raise config.InputError(
                    f'source "{source.name}": {example.name} has the class "{example.label}", '
                    f"which is none of {', '.join(source.classes)}."
                )
            labels.append(number[example.label])
            content.update(digest + example.label.encode())
            if example.texts:
                asked = example.prompts or ("",) * len(example.texts)
                told.append(json.dumps([example.name, example.texts, asked]).encode())
                content.update(json.dumps([example.texts, asked]).encode())
    if not labels:
        raise config.InputError(
            f'source "{source.name}" has no images in the split "{split}"'
            + (f": {broken} are broken." if broken else ".")
        )
    offsets = np.cumsum(sizes, dtype=np.int64)
    data = store.save_array(scratch / "data.npy", (int(offsets[-1]),), np.dtype(np.uint8))
    with (scratch / "all").open("rb") as file:
        for start in range(0, len(data), 2**26):
            data[start : start + 2**26] = np.frombuffer(file.read(2**26), np.uint8)
    (scratch / "all").unlink()
    np.save(scratch / "offsets.npy", offsets)
    np.save(scratch / "labels.npy", np.array(labels, np.int32))
    if told:
        np.save(scratch / "texts.npy", np.frombuffer(b"".join(told), np.uint8))
        np.save(scratch / "text_offsets.npy", np.cumsum([0, *map(len, told)], dtype=np.int64))
    return {"classes": list(source.classes), "broken": broken, "content": content.hexdigest()}


def fault(data: bytes) -> str:
    """Why bytes are no whole image, or ""."""
    from PIL import Image

    if not data:
        return "it is empty"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        told = str(error).partition("\n")[0].partition(" <_io")[0]
        return told or "unreadable"
    return ""


def encode(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] -> PNG, which loses nothing."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
