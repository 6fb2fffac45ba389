"""Rows of text to be mended: span corruption, prefixes, and the mixture of both.

The text is a token cache cut into stretches; what is taken out of a stretch is drawn anew in each
epoch, by (seed, epoch, row).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, corruption, paired, text, tokenizers
from bigmodel.data.corruption import Denoiser

TASKS = ("spans", "ul2", "prefix")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Stretches of text, corrupted.

    Attributes:
        text: stretches as rows of their own.
        denoisers: of which one is drawn for each row.
        marks: tokens that stand before the source of each.
        sentinel: the first; the others count down from it.
        source_length: S.
        length: T.
        seed: of what is drawn.
    """

    text: text.Rows | text.Mixture
    denoisers: tuple[Denoiser, ...]
    marks: tuple[tuple[int, ...], ...]
    sentinel: int
    source_length: int
    length: int
    seed: int

    def __len__(self) -> int:
        return len(self.text)

    @property
    def parts(self) -> tuple["Rows", ...]:
        if len(self.text.parts) == 1:
            return (self,)
        return tuple(dataclasses.replace(self, text=part) for part in self.text.parts)

    @property
    def weights(self) -> tuple[float, ...]:
        return self.text.weights

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.text.tokenizer

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> `source`, ... [b, S] and `tokens`, `targets`, ... [b, T]."""
        indices = np.asarray(indices, np.int64)
        stretches = self.text.take(indices)
        both = []
        for at, index in enumerate(indices):
            # Evaluation always mends the same.
            address = (0, 0) if epochs is None else (self.seed, int(epochs[at]))
            rng = np.random.default_rng([*address, int(index)])
            which = int(rng.integers(len(self.denoisers)))
            tokens = stretches["targets"][at, stretches["weights"][at] > 0]
            how = (self.denoisers[which], rng, self.sentinel)
            source, target = corruption.corrupted(tokens, *how)
            end = self.tokenizer.eos
            both.append([([*self.marks[which], *source, end], [*target, end])])
        return paired.batch_of(both, self.source_length, self.length, self.tokenizer.bos)

    def describe(self) -> str:
        """One line of what they are."""
        return ", ".join([part.describe() for part in self.text.parts])

    @property
    def bytes_per_target(self) -> float:
        return 0.0  # a target may be a sentinel, and what is left of a text tells of the rest

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = [getattr(self, field.name) for field in dataclasses.fields(self)][1:]
        return hashlib.sha256(json.dumps([self.text.fingerprint, *known]).encode()).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    source_length: int = 512,
    length: int = 114,
    task: str = "spans",
    noise: float = 0.15,
    span: float = 3.0,
    marks: bool = True,
    sentinels: int = 100,
    first_sentinel: int = 0,
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
) -> Rows:
    """The rows of a source, prepared on first use.

    A stretch is as long as fits with all that may be drawn: 568 tokens for T5's 512 and 114.

    Args:
        source, split, mixture, normalize, deduplicate, filters, near_duplicates, field, cache_dir,
            workers, progress, extensions, own_filters: see `text.open_rows`.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        source_length: S, the end token counted.
        length: T, the end token counted.
        task: "spans" (T5); "ul2", its seven denoisers (`corruption.UL2`); or "prefix": the text is
            cut in two somewhere.
        noise: share of the tokens that "spans" takes out.
        span: mean length of a span of "spans".
        marks: whether a source of "ul2" begins with the name of its task.
        sentinels: how many there are.
        first_sentinel: its id, from which the others count down, such as 32,099 of T5's tokenizer;
            0: they stand above the tokenizer's ids, the first at the top.
        seed: of what is drawn.
    """
    config.known("data.task", task, TASKS)
    if not 0 < noise < 1 or span < 1:
        raise config.InputError(
            f"data.noise = {noise}, data.span = {span}: noise is a share between 0 and 1, and a "
            "span has 1 token at least."
        )
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    denoisers = {
        "spans": (Denoiser(noise, span),),
        "ul2": corruption.UL2,
        "prefix": (Denoiser(0.5, 0.0),),
    }[task]
    names = [how.mark if marks else "" for how in denoisers]
    before = tuple(tuple(map(int, tokenizer.encode(name))) for name in names)
    top = first_sentinel or tokenizer.size + sentinels - 1
    if sentinels < 1 or top - sentinels < -1:
        raise config.InputError(
            f"data.sentinels = {sentinels}: allowed are 1 to {top + 1}, as they count down from "
            f"{top}."
        )
    stretch = fitting(denoisers, before, source_length, length, sentinels)
    how: dict[str, Any] = dict(split=split, tokenizer=tokenizer, length=stretch)
    how |= dict(mixture=mixture, normalize=normalize, deduplicate=deduplicate, filters=filters)
    how |= dict(near_duplicates=near_duplicates, field=field, cache_dir=cache_dir, workers=workers)
    how |= dict(progress=progress, extensions=extensions, own_filters=own_filters)
    texts = text.open_rows(source, **how)
    return Rows(texts, denoisers, before, top, source_length, length, seed)


def fitting(
    denoisers: tuple[Denoiser, ...],
    marks: tuple[tuple[int, ...], ...],
    source_length: int,
    length: int,
    sentinels: int,
) -> int:
    """The longest stretch that fits, it and all shorter ones, whichever denoiser is drawn."""

    def fits(tokens: int) -> bool:
        for how, mark in zip(denoisers, marks, strict=True):
            source, target, spans = corruption.longest(tokens, how)
            if source + len(mark) + 1 > source_length or target + 1 > length or spans > sentinels:
                return False
        return True

    stretch = 0
    while fits(stretch + 1):
        stretch += 1
    if stretch < 2:
        raise config.InputError(
            f"data.source_length = {source_length}, data.length = {length}: no text of 2 tokens "
            f"fits with the {max(map(len, marks))} that mark a task; they must be longer."
        )
    return stretch


def ids(fields: Mapping[str, Any], tokens: int) -> int:
    """Of a tokenizer with so many ids, and sentinels: all are below it."""
    first = fields["first_sentinel"] or tokens + fields["sentinels"] - 1
    return max(tokens, first + 1)
