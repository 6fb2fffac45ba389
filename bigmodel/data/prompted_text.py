"""Rows of a prompt and the text that follows it, for a decoder: prefix LM, and instructions.

The sources are those of pairs (data/pairs.py), and so is what is prepared.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, pair_sources, pairs, prompts, row_numbers, tokenizers
from bigmodel.data.parts import OnePart


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Prompts with what follows them, one a row.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        arrays: see `pairs.Rows`; a "source" is a prompt as it is written, without bos.
        content: hash of the prepared texts and the tokenizer.
        chosen: [rows] numbers of the pairs that are used.
        length: T.
        prefix: whether prompts are seen from everywhere.
        skipped: pairs that are not used.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    arrays: Mapping[str, np.ndarray]
    content: str
    chosen: np.ndarray
    length: int
    prefix: bool
    skipped: int

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> arrays [b, T]; the same in every epoch."""
        indices = row_numbers.within(indices, len(self))
        bos = np.array([self.tokenizer.bos], np.int32)
        rows = [
            (np.concatenate([bos, self.side("source", pair)]), self.side("target", pair))
            for pair in self.chosen[indices]
        ]
        return prompts.batch_of(rows, self.length, self.tokenizer, prefix=self.prefix)

    def side(self, name: str, pair: int) -> np.ndarray:
        start, stop = self.arrays[f"{name}_offsets"][pair : pair + 2]
        return self.arrays[name][start:stop]

    def describe(self) -> str:
        """One line of what they are."""
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        return f"{self.source} {self.split}: {len(self):,} prompts with a text{skipped}"

    @functools.cached_property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of text for each target, to tell bits per byte; 0 where some are cut."""
        if (sizes(self.arrays)[self.chosen] > self.length).any():
            return 0.0
        targets = np.diff(self.arrays["target_offsets"])[self.chosen] + 1
        return float(self.arrays["bytes"][self.chosen].sum() / targets.sum())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = [self.content, self.length, self.prefix, len(self)]
        chosen = np.ascontiguousarray(self.chosen).tobytes()
        return hashlib.sha256(json.dumps(known).encode() + chosen).hexdigest()


def sizes(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Tokens of a row that a pair wants: bos, the prompt and what follows; its end is no input."""
    return 1 + np.diff(arrays["source_offsets"]) + np.diff(arrays["target_offsets"])


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 256,
    template: str = "{prompt}\n",
    prefix: bool = True,
    too_long: str = "refuse",
    empty: str = "refuse",
    source_field: str = "source",
    target_field: str = "target",
    normalize: str = "NFC",
    cache_dir: str = "",
    progress: cache.Progress | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Rows:
    """The prompts and texts of a source, prepared on first use.

    Args:
        source: see `pair_sources.find`, also for split, source_field (the prompt), target_field
            (what follows) and extensions.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, of bos, the prompt and what follows.
        template: how a prompt is written, see `prompts.template`.
        prefix: whether all see the whole prompt (prefix LM: Raffel et al. 2020, arXiv:1910.10683,
            section 3.2.1), or a token no later one.
        too_long: what becomes of a pair that does not fit: "refuse", "skip", or "cut" what follows.
        empty: what becomes of a pair a side of which has no text: "refuse" or "skip".
        normalize: a Unicode form, or "none".
        cache_dir, progress: see `cache.open_cache`.
    """
    for field, value, allowed in (
        ("too_long", too_long, pairs.TOO_LONG),
        ("empty", empty, pairs.EMPTY),
        ("normalize", normalize, cache.FORMS),
    ):
        config.known(f"data.{field}", value, allowed)
    prompts.template(template, images=False)
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    fields = (source_field, target_field)
    found = pair_sources.find(source, split, fields=fields, extensions=extensions)
    how: dict[str, Any] = dict(normalize=normalize, cache_dir=cache_dir, progress=progress)
    arrays, notes = pairs.prepared(written(found, template), split, tokenizer, **how)
    chosen = usable(arrays, notes, length, too_long, empty)
    skipped = len(arrays["bytes"]) - len(chosen)
    if not len(chosen):
        raise config.InputError(
            f'source "{source}" has no pairs in the split "{split}" that can be used; {skipped:,} '
            "were skipped."
        )
    content = notes["content"]
    return Rows(source, split, tokenizer, arrays, content, chosen, length, prefix, skipped)


def written(found: pair_sources.PairSource, template: str) -> pair_sources.PairSource:
    """The source with its prompts written as the template says."""

    def read() -> Iterator[pair_sources.Pair]:
        for pair in found.read():
            prompt = template.replace("{prompt}", pair.source) if pair.source.strip() else ""
            yield pair._replace(source=prompt)

    known = hashlib.sha256(json.dumps([found.fingerprint, template]).encode()).hexdigest()
    return dataclasses.replace(found, fingerprint=known, read=read)


def usable(
    arrays: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    length: int,
    too_long: str,
    empty: str,
) -> np.ndarray:
    """Numbers of the pairs that may be used; refuses the first one that may not be there."""
    kept = np.ones(len(arrays["bytes"]), bool)
    for name, side in (("source", "prompt"), ("target", "text after the prompt")):
        none = np.flatnonzero(np.diff(arrays[f"{name}_offsets"]) == 0)
        if len(none) and empty == "refuse":
            raise config.InputError(
                f"{pairs.where(arrays, notes, none[0])}: its {side} is empty, as in {len(none):,} "
                f"of {len(kept):,} pairs. Mend them, or leave them out by data.empty = 'skip'."
            )
        kept[none] = False
    # Of what follows a prompt there must be something, or nothing of the row counts.
    wanted = sizes(arrays)
    prompted = 1 + np.diff(arrays["source_offsets"])
    long = kept & ((prompted > length) if too_long == "cut" else (wanted > length))
    if long.any() and too_long != "skip":
        first = np.flatnonzero(long)[0]
        what = "a prompt" if too_long == "cut" else "a prompt with its text"
        raise config.InputError(
            f"{pairs.where(arrays, notes, first)}: {what} has {wanted[first]:,} tokens, as "
            f"{long.sum():,} of {len(kept):,} pairs are longer than data.length = {length}; the "
            f"longest has {wanted.max():,}. Allowed besides are data.too_long = 'skip' (leaves "
            "them out) and 'cut' (what follows a prompt)."
        )
    return np.flatnonzero(kept & ~long)
