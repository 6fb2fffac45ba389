"""Rows of an image, a prompt and the text that answers it, in one sequence: for captions, questions
about images, and visual instructions.

The sources are those of images with texts (data/caption_sources.py), and so is what is prepared.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import (
    cache,
    caption_sources,
    image_sources,
    image_text,
    images,
    prompts,
    row_numbers,
    tokenizers,
)
from bigmodel.data.parts import OnePart


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Images, each with a prompt and a text in a sequence.

    Attributes:
        pictures: the images alone.
        prompts: ids of what stands before each text, `prompts.IMAGE` where its image goes.
        texts: what follows.
        tokenizer: made the tokens.
        length: T, patches counted.
        patches: P, of an image.
        prefix: whether image and prompt are seen from everywhere.
        cut: texts that are longer, and are cut.
    """

    pictures: images.Rows
    prompts: image_text.Texts
    texts: image_text.Texts
    tokenizer: tokenizers.Tokenizer
    length: int
    patches: int
    prefix: bool
    cut: int

    bytes_per_target = 0.0

    def __len__(self) -> int:
        return len(self.pictures)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content: equal on any machine, however the source was reached."""
        known: list[Any] = [self.pictures.fingerprint, self.tokenizer.fingerprint]
        known += [self.length, self.patches, self.prefix]
        asked = np.ascontiguousarray(self.prompts.tokens).tobytes()
        return hashlib.sha256(json.dumps(known).encode() + asked).hexdigest()

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
        """images [b, H, W, C], image_positions [b, P], tokens, ... [b, T].

        Of several texts of an image one is drawn each time anew; in evaluation it is the first.
        """
        indices = row_numbers.within(indices, len(self))
        pixels, rows = [], []
        for at, index in enumerate(map(int, indices)):
            rng = None
            if epochs is not None:
                rng = np.random.default_rng([self.pictures.seed, int(epochs[at]), index])
            pixels.append(self.pictures.one(index, rng))
            chosen = self.texts.drawn(index, rng)
            prompt = prompts.with_patches(self.prompts[chosen], self.patches)
            rows.append((prompt, self.texts[chosen]))
        how: dict[str, Any] = dict(prefix=self.prefix, patches=self.patches)
        of_text = prompts.batch_of(rows, self.length, self.tokenizer, **how)
        return {"images": self.pictures.normalized(pixels)} | of_text


def open_rows(
    source: str = "digits",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 384,
    patches: int = 256,
    prompt: str = "",
    template: str = "{image}{bos}{prompt}\n",
    prefix: bool = True,
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
    """The images, prompts and texts of a source, prepared on first use.

    Args:
        source: see `caption_sources.find`; a line of JSON may have a "prompt".
        split: which of them.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, of patches, the prompt and the text.
        patches: P, of an image: (model.image / model.patch)^2.
        prompt: where the source has none.
        template: how image and prompt are written, see `prompts.template`.
        prefix: whether all see the whole image and prompt (PaliGemma), or a token no later one
            (LLaVA).
        too_long: "refuse" a text that does not fit, or "cut" and count it; a prompt is never cut.
        size, channels, mean, std, crop, flip, broken, cache_dir: see `images.open_rows`.
        seed: of all that is random.
        progress: told while images are read.
    """
    images.check(size, channels, mean, std, crop, (), 0.0, 0.0)
    config.known("data.too_long", too_long, image_text.TOO_LONG)
    parsed = prompts.template(template, images=True)
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    report = progress or (lambda what, done, total: None)
    found = caption_sources.find(source, split)
    shown = image_sources.prepare(found, split, broken=broken, root=cache_dir, report=report)
    how: dict[str, Any] = dict(root=cache_dir, report=report)
    texts = image_text.prepare(shown, tokenizer, **how)
    known = [image_sources.FORMAT, "prompts", shown.content, tokenizer.fingerprint]
    asked = image_text.stored(
        [*known, template, prompt],
        len(shown),
        lambda index: [own or prompt for own in shown.told(index)[2]],
        lambda some: parsed.ids(some, tokenizer),
        **how,
    )
    cut = check_lengths(source, shown, asked, texts, patches, length, too_long)
    given = images.How(size, channels, tuple(mean), tuple(std), tuple(crop), flip, (), 0.0, 0.0)
    pictures = images.Rows(source, split, shown, given, seed)
    return Rows(pictures, asked, texts, tokenizer, length, patches, prefix, cut)


def check_lengths(
    source: str,
    shown: image_sources.Images,
    asked: image_text.Texts,
    texts: image_text.Texts,
    patches: int,
    length: int,
    too_long: str,
) -> int:
    """How many texts are cut; refuses prompts that do not fit, and texts if they are not to be."""
    prompted = np.diff(asked.offsets) + patches - 1  # a mark for the image is among them
    wanted = prompted + np.diff(texts.offsets)
    refused = wanted > length if too_long == "refuse" else prompted > length
    if refused.any():
        first = np.flatnonzero(refused)[0]
        row = int(np.searchsorted(texts.firsts, first, "right")) - 1
        cure = f"take data.length = {wanted.max()}"
        if too_long == "refuse" and prompted.max() <= length:
            cure = f"cut and count them with --config.data.too_long=cut, or {cure}"
        raise config.InputError(
            f'source "{source}": {shown.told(row)[0]}: {patches} patches with '
            f"{prompted[first] - patches} tokens of a prompt and {wanted[first] - prompted[first]} "
            f"of a text are longer than data.length = {length}; so it is with {refused.sum():,} of "
            f"{len(wanted):,} texts. Its cure: {cure}."
        )
    return int((wanted > length).sum())


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    image = (fields["size"], fields["size"], fields["channels"])
    places = {"image_positions": ((fields["patches"],), "int32")}
    return {"images": (image, "float32")} | places | prompts.row_shapes(fields)
