"""Rows of text of which a beginning is given: prefix LM, for a decoder.

The text is that of data/text.py, packed as there; where a prefix ends is drawn anew for each
document in a row, by (seed, epoch, row).
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bigmodel.data import cache, text, tokenizers


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of text with prefixes.

    Attributes:
        text: without.
        seed: of what is drawn.
    """

    text: text.Rows | text.Mixture
    seed: int

    bytes_per_target = 0.0  # some targets are given, others by the draw

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
        """[b] indices -> those of the text and `prefix`, [b, T]; what is given has no weight."""
        indices = np.asarray(indices, np.int64)
        rows = self.text.take(indices)
        rows["prefix"] = np.zeros(rows["tokens"].shape, bool)
        for at, index in enumerate(indices):
            # Evaluation always begins alike.
            address = (0, 0) if epochs is None else (self.seed, int(epochs[at]))
            rng = np.random.default_rng([*address, int(index)])
            segments, positions = rows["segments"][at], rows["positions"][at]
            lengths = np.bincount(segments)
            given = 1 + np.floor(rng.random(len(lengths)) * lengths).astype(np.int64)
            # The last token that is given tells the first that is not.
            rows["prefix"][at] = (positions < given[segments]) & (segments > 0)
            rows["weights"][at] *= positions >= given[segments] - 1
        return rows

    def describe(self) -> str:
        """One line of what they are."""
        return ", ".join([part.describe() for part in self.text.parts])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = ["prefix", self.text.fingerprint, self.seed]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 256,
    packing: str = "concat",
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

    Of a document's n tokens in a row the first 1 to n are given, all as likely: Liu et al. 2018
    (arXiv:1801.10198), Raffel et al. 2020 (arXiv:1910.10683), sections 3.2.1 and 3.3.1.

    Args:
        source, split, tokenizer, length, packing, mixture, normalize, deduplicate, filters,
            near_duplicates, field, cache_dir, workers, progress, extensions, own_filters: see
            `text.open_rows`.
        seed: of what is drawn.
    """
    how: dict[str, Any] = dict(split=split, tokenizer=tokenizer, length=length, packing=packing)
    how |= dict(mixture=mixture, normalize=normalize, deduplicate=deduplicate, filters=filters)
    how |= dict(near_duplicates=near_duplicates, field=field, cache_dir=cache_dir, workers=workers)
    how |= dict(progress=progress, extensions=extensions, own_filters=own_filters)
    return Rows(text.open_rows(source, **how), seed)


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    return text.row_shapes(fields) | {"prefix": ((fields["length"],), "bool")}
