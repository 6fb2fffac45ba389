"""Rows of text with tokens hidden, for an encoder to tell; alone, or as pairs of texts."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import cache, masking, text, tokenizers
from bigmodel.data.parts import OnePart


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Rows of `text`, each behind the token that stands at a start, some tokens hidden.

    Attributes:
        rows: of text, each one token shorter than these.
        masking: what is hidden.
        seed: of the draws.
    """

    rows: text.Rows
    masking: masking.Masking
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, targets, weights, segments, positions [b, T].

        Where `epochs` is None the tokens of a row are those of its epoch 0 under seed 0.
        """
        found = self.rows.take(indices)
        start = np.full((len(indices), 1), self.rows.tokenizer.bos, np.int32)
        first = found["segments"] == 1  # goes on from the start
        tokens = np.concatenate([start, found["targets"]], 1)
        segments = np.concatenate([found["segments"][:, :1], found["segments"]], 1)
        positions = np.concatenate([0 * start, found["positions"] + first], 1)
        plain = (segments > 0) & (tokens != self.rows.tokenizer.eos)
        plain[:, 0] = False
        hidden = hide(self.masking, tokens, plain, draws(self.seed, indices, epochs))
        return hidden | {"segments": segments, "positions": positions}

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.rows.tokenizer

    @property
    def bytes_per_target(self) -> float:
        return 0.0  # what is told of a text is a part of it

    def describe(self) -> str:
        how = "whole words of " if self.masking.whole_word else ""
        return f"{self.rows.describe()}, {self.masking.rate:.0%} of {how}their tokens to tell"

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashed(self.rows.fingerprint, self.masking)


@dataclasses.dataclass(frozen=True)
class Pairs(OnePart):
    """Two texts a row, the second the first's own continuation or from another document.

    Devlin et al. 2019 (arXiv:1810.04805), appendix A.2; a "sentence" is a stretch of any tokens.
    A row's stretch of a document is cut in two at random; half of the rows keep both parts.

    Attributes:
        rows: what they are made of; its plan is not used.
        first: [stretches] int64, where each stretch starts in the flat array of tokens.
        sizes: [stretches] int64.
        of: [documents + 1] int64, the first stretch of each document.
        length: T.
        masking: what is hidden.
        seed: of the draws.
    """

    rows: text.Rows
    first: np.ndarray
    sizes: np.ndarray
    of: np.ndarray
    length: int
    masking: masking.Masking
    seed: int

    def __len__(self) -> int:
        return len(self.first)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, targets, weights, segments, positions, token_types, labels."""
        every = draws(self.seed, indices, epochs)
        shape, tokenizer = (len(indices), self.length), self.tokenizer
        tokens, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        segments, plain = np.zeros(shape, np.int32), np.zeros(shape, bool)
        labels = np.zeros(len(indices), np.int32)
        for row, (index, draw) in enumerate(zip(indices, every, strict=True)):
            one, two, labels[row] = self.pair(int(index), draw)
            ends = len(one) + 1, len(one) + len(two) + 2  # places of the two separators
            tokens[row, 0] = tokenizer.bos
            tokens[row, 1 : ends[0]], tokens[row, ends[0]] = one, tokenizer.eos
            tokens[row, ends[0] + 1 : ends[1]], tokens[row, ends[1]] = two, tokenizer.eos
            segments[row, : ends[1] + 1] = 1
            types[row, ends[0] + 1 : ends[1] + 1] = 1
            plain[row, 1 : ends[1]] = True
            plain[row, ends[0]] = False
        hidden = hide(self.masking, tokens, plain, every)
        positions = np.arange(self.length, dtype=np.int32) * segments
        more = {"segments": segments, "positions": positions, "token_types": types}
        return hidden | more | {"labels": labels}

    def pair(self, index: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Tokens of both texts, and 0 where the second goes on from the first, else 1."""
        flat = self.rows.cache.tokens
        start, size = int(self.first[index]), int(self.sizes[index])
        cut = int(draw.integers(1, size)) if size > 1 else 1
        other = draw.random() < 0.5 or size == 1  # one token has no continuation
        one = flat[start : start + cut]
        if not other:
            return one, flat[start + cut : start + size], 0
        # Any stretch but those of this document, which stand together.
        document = int(np.searchsorted(self.of, index, "right")) - 1
        low, high = int(self.of[document]), int(self.of[document + 1])
        chosen = int(draw.integers(0, len(self) - (high - low)))
        chosen += (high - low) * (chosen >= low)
        room = min(int(self.sizes[chosen]), self.length - 3 - cut)
        start = int(self.first[chosen])
        return one, flat[start : start + room], 1

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.rows.tokenizer

    @property
    def bytes_per_target(self) -> float:
        return 0.0

    def describe(self) -> str:
        return (
            f"{self.rows.source} {self.rows.split}: {self.rows.documents:,} documents, "
            f"{self.rows.tokens:,} tokens, {len(self):,} pairs, {self.masking.rate:.0%} of their "
            "tokens to tell"
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashed(self.rows.cache.content, self.masking, "pairs", self.length)


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 256,
    packing: str = "concat",
    mask_rate: float = 0.15,
    whole_word: bool = False,
    pairs: bool = False,
    mixture: Mapping[str, float] | None = None,
    normalize: str = "NFC",
    deduplicate: bool = True,
    filters: tuple[str, ...] = (),
    near_duplicates: float = 0.0,
    field: str = "text",
    cache_dir: str = "",
    workers: int = 0,
    seed: int = 0,
    progress: cache.Progress | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
    own_filters: Mapping[str, Callable[[str], bool]] | None = None,
) -> Rows | Pairs | text.Mixture:
    """The rows of a source, prepared on first use.

    Args:
        source, split, tokenizer, mixture, normalize, deduplicate, filters, near_duplicates, field,
            cache_dir, workers, progress, extensions, own_filters: see `text.open_rows`.
        length: T, positions in a row.
        packing: a row of `packing.PACKINGS`; of pairs nothing is packed.
        mask_rate: share of a row's tokens that are to be told.
        whole_word: whether all tokens of a word are hidden together.
        pairs: whether a row is two texts, and `labels` whether the second follows the first.
        seed: of what is random in training.
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    if not 0 < mask_rate < 1:
        raise config.InputError(f"data.mask_rate = {mask_rate}: allowed is a share in (0, 1).")
    least = 5 if pairs else 2
    if length < least:
        raise config.InputError(f"data.length = {length}: allowed are {least} and more.")
    hiding = masking.Masking(tokenizer, mask_rate, whole_word)
    if whole_word:
        hiding.check()
    packing = "none" if pairs else packing
    how: dict[str, Any] = dict(split=split, tokenizer=tokenizer, length=length - 1, packing=packing)
    how |= dict(mixture=mixture, normalize=normalize, deduplicate=deduplicate, filters=filters)
    how |= dict(near_duplicates=near_duplicates, field=field, cache_dir=cache_dir, workers=workers)
    how |= dict(progress=progress, extensions=extensions, own_filters=own_filters)
    found = text.open_rows(source, **how)

    def one(rows: text.Rows) -> Rows | Pairs:
        return make_pairs(rows, length, hiding, seed) if pairs else Rows(rows, hiding, seed)

    if isinstance(found, text.Mixture):
        parts = cast(tuple[text.Rows, ...], tuple(map(one, found.parts)))
        return text.Mixture(parts, found.weights)
    return one(found)


def make_pairs(rows: text.Rows, length: int, hiding: masking.Masking, seed: int) -> Pairs:
    """Documents, without what ends them, cut in stretches that leave room for three more tokens."""
    _, offsets = rows.flat()
    sizes = np.diff(offsets) - 1
    if (sizes > 0).sum() < 2:
        raise config.InputError(
            f'source "{rows.source}" has one document in the split "{rows.split}"; data.pairs = '
            "True wants two or more, to take second texts from another."
        )
    room = length - 3
    counts = -(-sizes // room)
    of = np.concatenate([[0], np.cumsum(counts)])
    inside = (np.arange(of[-1]) - np.repeat(of[:-1], counts)) * room
    first = np.repeat(offsets[:-1], counts) + inside
    stretch = np.minimum(np.repeat(sizes, counts) - inside, room)
    return Pairs(rows, first, stretch, of, length, hiding, seed)


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    found = text.row_shapes(fields)
    if fields["pairs"]:
        found |= {"token_types": found["tokens"], "labels": ((), "int32")}
    return found


def draws(seed: int, indices: np.ndarray, epochs: np.ndarray | None) -> list[np.random.Generator]:
    """What the chances of each row are drawn from; in evaluation always the same."""
    seed, epochs = (0, np.zeros_like(indices)) if epochs is None else (seed, epochs)
    return [
        np.random.default_rng([seed, int(epoch), int(index)])
        for index, epoch in zip(indices, epochs, strict=True)
    ]


def hide(
    hiding: masking.Masking, tokens: np.ndarray, plain: np.ndarray, every: list[np.random.Generator]
) -> dict[str, np.ndarray]:
    """tokens, targets, weights [b, T] of rows of tokens, some of them hidden."""
    pairs = [hiding.hide(*row) for row in zip(tokens, plain, every, strict=True)]
    shown, chosen = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return {"tokens": shown, "targets": tokens, "weights": chosen.astype(np.float32)}


def hashed(content: str, hiding: masking.Masking, *more: Any) -> str:
    known = [content, hiding.rate, hiding.whole_word, hiding.tokenizer.mask, *more]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
