"""Rows of an image and a text that says what it shows."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import (
    cache,
    caption_sources,
    image_sources,
    images,
    padding,
    row_numbers,
    store,
    tokenizers,
)
from bigmodel.data.parts import OnePart

TOO_LONG = ("refuse", "cut")
TEXTS_AT_A_TIME = 4096


@dataclasses.dataclass(frozen=True)
class Texts:
    """The tokens of all images' texts, memory-mapped, none cut.

    Attributes:
        tokens: [tokens of all] int32.
        offsets: [M + 1] int64; text m is tokens[offsets[m]:offsets[m + 1]].
        firsts: [N + 1] int64; image n has the texts firsts[n] to firsts[n + 1] - 1.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    firsts: np.ndarray

    def drawn(self, index: int, rng: np.random.Generator | None) -> int:
        """The number of one of an image's texts; without a draw that of its first."""
        first, end = self.firsts[index : index + 2]
        return int(first) if rng is None else int(rng.integers(first, end))

    def __getitem__(self, number: int) -> np.ndarray:
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """The images with their texts of one epoch of one source.

    Attributes:
        pictures: the images alone.
        texts: theirs.
        tokenizer: made the tokens.
        length: T, tokens of a row.
        start: whether the token that starts a text stands before it.
        cut: texts that are longer, and are cut.
    """

    pictures: images.Rows
    texts: Texts
    tokenizer: tokenizers.Tokenizer
    length: int
    start: bool
    cut: int

    bytes_per_target = 0.0

    def __len__(self) -> int:
        return len(self.pictures)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content: equal on any machine, however the source was reached."""
        known = [self.pictures.fingerprint, self.tokenizer.fingerprint, self.length, self.start]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def describe(self) -> str:
        """One line of what they are."""
        rows, broken = self.pictures, self.pictures.images.broken
        return (
            f"{rows.source} {rows.split}: {len(self):,} images, {len(self.texts.offsets) - 1:,} "
            f"texts of {len(self.texts.tokens):,} tokens"
            + f", {self.cut:,} texts cut" * bool(self.cut)
            + f", {broken:,} broken images left out" * bool(broken)
        )

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """images [b, H, W, C], tokens and segments [b, T], weights [b].

        Of several texts one is drawn each time anew; in evaluation it is the first.
        """
        indices = row_numbers.within(indices, len(self))
        pixels, texts = [], []
        for at, index in enumerate(map(int, indices)):
            rng = None
            if epochs is not None:
                rng = np.random.default_rng([self.pictures.seed, int(epochs[at]), index])
            pixels.append(self.pictures.one(index, rng))
            texts.append(self.text(index, rng))
        tokens, segments = padding.padded(texts, self.length, self.tokenizer.eos)
        return {
            "images": self.pictures.normalized(pixels),
            "tokens": tokens,
            "segments": segments,
            "weights": np.ones(len(indices), np.float32),
        }

    def text(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """An image's tokens, with those that start and end a text.  int32 [at most T]"""
        tokens = self.texts[self.texts.drawn(index, rng)]
        return bounded(tokens, self.length, self.tokenizer, self.start)


def bounded(
    tokens: np.ndarray, length: int, tokenizer: tokenizers.Tokenizer, start: bool
) -> np.ndarray:
    """A text's tokens, cut, with those that start and end it.  int32 [at most T]"""
    before = [tokenizer.bos] if start else []
    return np.array([*before, *tokens[: length - len(before) - 1], tokenizer.eos], np.int32)


def text_arrays(
    texts: Sequence[str], tokenizer: tokenizers.Tokenizer, data: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Texts alone as rows have them: tokens and segments, int32 [b, T]; those too long are cut."""
    T = data["text_length"]
    rows = [bounded(ids, T, tokenizer, data["start"]) for ids in tokenizer.encode_many(texts)]
    tokens, segments = padding.padded(rows, T, tokenizer.eos)
    return {"tokens": tokens, "segments": segments}


def open_rows(
    source: str = "digits",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    text_length: int = 64,
    start: bool = True,
    too_long: str = "refuse",
    size: int = 224,
    channels: int = 3,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    crop: tuple[float, ...] = (),
    flip: bool = False,
    broken: str = "refuse",
    cache_dir: str = "",
    seed: int = 0,
    progress: cache.Progress | None = None,
) -> Rows:
    """The images and texts of a source, prepared on first use.

    Args:
        source: see `caption_sources.find`.
        split: which of them.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        text_length: T, tokens of a row, with those that start and end a text.
        start: whether the token that starts a text stands before it; one that ends it follows.
        too_long: "refuse" a text that is longer, or "cut" and count it.
        size, channels, mean, std, crop, flip, broken, cache_dir: see `images.open_rows`.
        seed: of all that is random.
        progress: told while images are read.
    """
    images.check(size, channels, mean, std, crop, (), 0.0, 0.0)
    config.known("data.too_long", too_long, TOO_LONG)
    room = text_length - 1 - start
    if room < 1:
        raise config.InputError(
            f"data.text_length = {text_length}: must be at least {2 + start}, a token beside those "
            "that start and end a text."
        )
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    report = progress or (lambda what, done, total: None)
    found = caption_sources.find(source, split)
    shown = image_sources.prepare(found, split, broken=broken, root=cache_dir, report=report)
    texts = prepare(shown, tokenizer, root=cache_dir, report=report)
    lengths = np.diff(texts.offsets)
    longer = np.flatnonzero(lengths > room)
    if len(longer) and too_long == "refuse":
        row = int(np.searchsorted(texts.firsts, longer[0], "right")) - 1
        raise config.InputError(
            f'source "{source}": {shown.told(row)[0]}: a text has {lengths[longer[0]]} tokens, and '
            f"data.text_length = {text_length} has room for {room}; so it is with {len(longer):,} "
            f"of {len(lengths):,} texts. Cut and count them with --config.data.too_long=cut, or "
            f"take data.text_length = {lengths.max() + 1 + start}."
        )
    how = images.How(size, channels, tuple(mean), tuple(std), tuple(crop), flip, (), 0.0, 0.0)
    pictures = images.Rows(source, split, shown, how, seed)
    return Rows(pictures, texts, tokenizer, text_length, start, len(longer))


def prepare(
    shown: image_sources.Images, tokenizer: tokenizers.Tokenizer, *, root: str, report: Callable
) -> Texts:
    """The tokens of all texts, made once, kept below `root` (""): the user's cache."""
    known = [image_sources.FORMAT, "texts", shown.content, tokenizer.fingerprint]
    of_images = (len(shown), lambda index: shown.told(index)[1])
    return stored(known, *of_images, tokenizer.encode_many, root=root, report=report)


def stored(
    known: Sequence[Any],
    images: int,
    of_image: Callable[[int], list[str]],
    encode: Callable[[list[str]], Sequence[np.ndarray]],
    *,
    root: str,
    report: Callable,
) -> Texts:
    """The tokens of several texts of each of so many images, made once.

    Args:
        known: all that shapes them.
        images: how many.
        of_image: index -> its texts.
        encode: texts -> tokens of each.
        root: see `prepare`.
        report: told while they are made.
    """

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        texts: list[str] = []
        firsts = [0]
        for index in range(images):
            texts += of_image(index)
            firsts.append(len(texts))
        pieces: list[np.ndarray] = []
        for at in range(0, len(texts), TEXTS_AT_A_TIME):
            report("texts", at, len(texts))
            pieces += encode(texts[at : at + TEXTS_AT_A_TIME])
        np.save(scratch / "tokens.npy", np.concatenate(pieces).astype(np.int32))
        np.save(scratch / "offsets.npy", np.cumsum([0, *map(len, pieces)], dtype=np.int64))
        np.save(scratch / "firsts.npy", np.array(firsts, np.int64))
        return {}

    arrays, _ = store.build(image_sources.place_of(json.dumps(known), root), write)
    return Texts(arrays["tokens"], arrays["offsets"], arrays["firsts"])


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    text = (fields["text_length"],)
    return {
        "images": ((fields["size"], fields["size"], fields["channels"]), "float32"),
        "tokens": (text, "int32"),
        "segments": (text, "int32"),
        "weights": ((), "float32"),
    }
