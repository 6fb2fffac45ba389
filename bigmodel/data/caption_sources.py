"""Where images with texts come from: JSON lines, folders of captions, scikit-learn's digits."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from bigmodel import config
from bigmodel.data import files, image_sources, sources, tfds_source
from bigmodel.data.image_sources import Example, Source

KNOWN = ("digits", "jsonl:FILE", "captions:FOLDER", "tfds:NAME[/CONFIG]")
TEXTS = ("text", "caption", "captions")  # features of TFDS that may hold an image's texts
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = ("the digit {}", "a scan of the digit {}", "a handwritten {}", "the number {}")


def find(name: str, split: str) -> Source:
    """Finds a source by its name in a config.

    Args:
        name: of KNOWN.
        split: of a TFDS data set its own; else 98, 1 and 1 per cent of the images by a hash of
            their bytes, or "all"; of the digits eight, one and one in ten.
    """
    kind, _, where = name.partition(":")
    if name == "digits":
        return digits(split)
    if kind == "jsonl" and where:
        return jsonl(name, where, sources.hashed_split(name, split))
    if kind == "tfds" and where:
        return tfds(name, where, split)
    if kind == "captions" and where:
        return captions(name, where, sources.hashed_split(name, split))
    names = [known.partition(":")[0] for known in KNOWN]
    raise config.InputError(
        f'source "{name}" is unknown for images with texts; allowed are {", ".join(KNOWN)}.'
        f"{config.nearest(kind, names)}"
    )


def digits(split: str) -> Source:
    """The digits of `image_sources`, with their numbers in words."""
    plain = image_sources.find("digits", split)

    def read() -> Iterator[Example]:
        for example in plain.read():
            number = NUMBERS[int(example.label)]
            texts = tuple(wording.format(number) for wording in WORDINGS)
            yield example._replace(label="", texts=texts)

    known = f"{plain.fingerprint}{WORDINGS}"
    return dataclasses.replace(plain, fingerprint=known, read=read, classes=("",))


def jsonl(name: str, where: str, hashed: str) -> Source:
    """Lines {"image": path beside the file, "text": a text, or several that say the same}.

    A line may have a "prompt": what is asked of the image, or of each of several texts.
    """
    path = config.place(where, "data.source")
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise config.InputError(f'source "{name}": no such file.{config.nearest(path.name, near)}')
    rows: list[Row] = []
    known: list[Any] = [files.changed(str(path))]
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = f'source "{name}": line {number}'
                image, texts, prompts = record(row, line)
                rows.append((row, path.parent / image, texts, prompts))
    for row, image_path, *_ in rows:
        if not image_path.is_file():
            raise config.InputError(f"{row}: there is no image {image_path}.")
        known.append(files.changed(str(image_path)))
    return captioned(name, known, rows, hashed)


# Its name, the path of its image, texts, and their prompts or none.
Row = tuple[str, epath.Path, tuple[str, ...], tuple[str, ...]]


def record(row: str, line: bytes) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A line's path of an image, its texts, and what is asked of each, or ()."""
    found = files.record_of(line, row)
    image, text = found.get("image"), found.get("text")
    texts = tuple(text) if isinstance(text, list) else (text,)
    if not (isinstance(image, str) and image and all(isinstance(t, str) for t in texts)):
        raise config.InputError(
            f'{row} must be {{"image": path, "text": a text or a list of texts}}; found '
            f"{line.decode(errors='replace').strip()[:80]}"
        )
    if "prompt" not in found:
        return image, texts, ()
    prompt = found["prompt"]
    prompts = tuple(prompt) if isinstance(prompt, list) else (prompt,) * len(texts)
    if len(prompts) != len(texts) or not all(isinstance(p, str) for p in prompts):
        raise config.InputError(
            f'{row}: "prompt" must be a text, or a list of as many as the {len(texts)} of "text"; '
            f"found {line.decode(errors='replace').strip()[:80]}"
        )
    return image, texts, prompts


def captions(name: str, where: str, hashed: str) -> Source:
    """Images beside .txt files of the same name, each line of which is a text of the image."""
    root = config.place(where, "data.source")
    if not root.is_dir():
        near = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise config.InputError(
            f'source "{name}": no such folder.{config.nearest(root.name, near)}'
        )
    rows: list[Row] = []
    known: list[Any] = []
    for path in sorted(image_sources.below(root), key=str):
        of_path = path.with_suffix(".txt")
        row = f'source "{name}": {path}'
        if not of_path.is_file():
            raise config.InputError(f"{row} has no text; it would be in {of_path.name}.")
        try:
            lines = of_path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise config.InputError(f"{row}: its text is no UTF-8 ({error}).") from error
        rows.append((row, path, tuple(line.strip() for line in lines if line.strip()), ()))
        own = [files.changed(str(p)) for p in (path, of_path)]
        known.append([str(path).removeprefix(str(root)), *own])
    return captioned(name, known, rows, hashed)


def tfds(name: str, where: str, split: str) -> Source:
    """A TFDS data set with "image" and a feature of TEXTS: one text, or several, such as
    coco_captions."""
    features = tfds_source.builder_of(where).info.features
    field = next((text for text in TEXTS if text in features), "")
    if not field:
        raise config.InputError(
            f'source "{name}" has no feature {", ".join(TEXTS)}; it has {", ".join(features)}.'
        )
    known, rows = tfds_source.find_rows(where, split, ("image", field), encoded=("image",))

    def read() -> Iterator[Example]:
        for row, found in rows():
            texts = several(found[field])
            if not texts or not all(text.strip() for text in texts):
                raise config.InputError(f"{row} has an empty text; an image needs one at least.")
            yield Example(row.partition('": ')[2], bytes(found["image"]), "", texts, ())

    return Source(name, known, read, ("",))


def several(value: Any) -> tuple[str, ...]:
    """A feature's texts: one, an array of some, or a record of arrays whose "text" they are."""
    value = value["text"] if isinstance(value, dict) else value
    listed = [value] if isinstance(value, str | bytes) else list(value)
    return tuple(text.decode() if isinstance(text, bytes) else str(text) for text in listed)


def captioned(name: str, known: Any, rows: Sequence[Row], hashed: str) -> Source:
    """Rows as a source; one without a text is refused."""
    if not rows:
        raise config.InputError(f'source "{name}" holds no images with texts.')
    for row, _, texts, _ in rows:
        if not texts or not all(text.strip() for text in texts):
            raise config.InputError(f"{row} has an empty text; an image needs one at least.")

    def read() -> Iterator[Example]:
        for row, path, texts, prompts in rows:
            yield Example(row.partition('": ')[2], path.read_bytes(), "", texts, prompts)

    fingerprint = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return Source(name, fingerprint, read, ("",), hashed)
