"""Rows of text: a token cache and a packing plan, seen as a sequence of rows of one length."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, filters, packing, row_numbers, sources, store, tokenizers
from bigmodel.data.parts import OnePart

# From here on a best-fit plan is kept beside its cache; below, making it takes less than 0.1 s.
PIECES_TO_KEEP = 10**5


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """The rows of one epoch of one source.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        cache: the tokens.
        plan: which stretches of them make which row.
        packing: the plan's name.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    cache: cache.Cache
    plan: packing.Plan
    packing: str

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Row `index`: tokens, targets, weights, segments, positions, each [T]."""
        return {name: array[0] for name, array in self.take(np.array([index])).items()}

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> the rows as arrays [b, T]; they are the same in every epoch."""
        indices = row_numbers.within(indices, len(self))
        pieces = self.plan.pieces(indices)
        tokens, offsets = self.flat()
        return packing.fill(
            pieces, len(indices), self.plan.length, tokens, offsets, self.tokenizer.bos
        )

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """[N] tokens of all documents, each ended by eos, and [documents + 1] offsets; mapped."""
        return self.cache.tokens, self.cache.offsets

    def describe(self) -> str:
        """One line of what they are."""
        more = self.cache.filtered or self.cache.near_duplicates
        cleaned = f" (dropped: {self.cache.dropped()})" if more else ""
        return (
            f"{self.source} {self.split}: {self.documents:,} documents{cleaned}, {self.bytes:,} "
            f"bytes, {self.tokens:,} tokens, {len(self):,} rows"
        )

    @property
    def tokens(self) -> int:
        """Tokens of all documents, each one's eos counted."""
        return len(self.cache.tokens)

    @property
    def targets(self) -> int:
        """Targets of an epoch: `tokens`, less what packing "none" cuts off."""
        return self.plan.pairs

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all documents. Bits per byte = nats a target * tokens / bytes / ln 2."""
        return self.cache.bytes

    @property
    def documents(self) -> int:
        return self.cache.documents

    @property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of text for each target, to tell bits per byte."""
        return self.bytes / self.tokens

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content: equal on any machine, however the source was reached."""
        known = [self.cache.content, self.plan.length, self.packing]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Rows of several sources, to be drawn by weight; as a sequence, one source after the other.

    Attributes:
        parts: each source's rows.
        weights: a share of the rows drawn for each, to 1 % of the least of them; they need not
            add up to 1.
        source: "", which a config reads as its mixture.
    """

    parts: tuple[Rows, ...]
    weights: tuple[float, ...]
    source: str = ""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[0] for name, array in self.take(np.array([index])).items()}

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> the rows as arrays [b, T]."""
        ends = np.cumsum([len(part) for part in self.parts])
        which = np.searchsorted(ends, indices, "right")
        out: dict[str, np.ndarray] = {}
        for number in np.unique(which):
            part, chosen = self.parts[number], which == number
            of_part = None if epochs is None else epochs[chosen]
            rows = part.take(indices[chosen] - (ends[number] - len(part)), of_part)
            for name, array in rows.items():
                if name not in out:
                    out[name] = np.zeros((len(indices), *array.shape[1:]), array.dtype)
                out[name][chosen] = array
        return out

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.parts[0].tokenizer

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    @property
    def targets(self) -> int:
        return sum(part.targets for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def bytes_per_target(self) -> float:
        if not all(part.bytes_per_target for part in self.parts):
            return 0.0  # what is told of a part is not its text
        return self.bytes / self.tokens

    @functools.cached_property
    def fingerprint(self) -> str:
        known = [[part.fingerprint for part in self.parts], self.weights]
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
    progress: cache.Progress | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
    own_filters: Mapping[str, filters.Filter] | None = None,
) -> Rows | Mixture:
    """The rows of a source, prepared on first use.

    Args:
        source: see `sources.find`; not read if there is a mixture.
        split: which documents, see `sources.find`.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, positions in a row.
        packing: a row of `packing.PACKINGS`.
        mixture: source -> weight, for rows of several sources.
        normalize, deduplicate, cache_dir, workers, progress: see `cache.open_cache`.
        field: the field of a record that holds the text.
        filters: names of what keeps a document or does not, see `filters.find`.
        near_duplicates: similarity from which a later document is dropped, see `cache.open_cache`.
        extensions: the user's own sources, by name.
        own_filters: the user's own filters, by name.
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)

    how: dict[str, Any] = dict(normalize=normalize, deduplicate=deduplicate, near=near_duplicates)
    how |= dict(keeping=_keeping(filters, own_filters), folder=cache_dir)
    how |= dict(workers=workers, progress=progress)

    def one(name: str) -> Rows:
        found = sources.find(name, split, field=field, extensions=extensions)
        tokens = cache.open_cache(found, split, tokenizer, **how)
        return Rows(name, split, tokenizer, tokens, _plan(tokens, length, packing), packing)

    if not mixture:
        return one(source)
    for name, weight in mixture.items():
        if not weight > 0:
            raise config.InputError(
                f'mixture: the weight of "{name}" is {weight}; allowed are numbers above 0. '
                "Leave a source out to have none of it."
            )
    return Mixture(tuple(map(one, mixture)), tuple(map(float, mixture.values())))


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    whole = dict.fromkeys(("tokens", "targets", "segments", "positions"), "int32")
    return {
        name: ((fields["length"],), of) for name, of in (whole | {"weights": "float32"}).items()
    }


def _keeping(names: Sequence[str], own: Mapping[str, filters.Filter] | None):
    return filters.find(names, own)


def _plan(tokens: cache.Cache, length: int, name: str) -> packing.Plan:
    pieces = len(tokens.offsets) + len(tokens.tokens) // max(length, 1)
    if name != "best_fit" or pieces < PIECES_TO_KEEP:
        return packing.plan(tokens.offsets, length, name)

    def write(scratch: pathlib.Path) -> dict[str, Any]:
        made = packing.plan(tokens.offsets, length, name)
        for field in ("first", "starts", "lengths"):
            np.save(scratch / f"{field}.npy", getattr(made, field))
        return {"length": length}

    folder = tokens.folder.with_name(f"{tokens.folder.name}-{name}-{length}")
    arrays, _ = store.build(folder, write)
    return packing.Packed(**arrays, length=length)
