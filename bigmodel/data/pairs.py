"""Rows of pairs: a source text for the encoder, and its target for the decoder.

Prepared once: all pairs of a split as two flat arrays of tokens. What is too long or empty is seen
when rows are opened, so that other lengths need no other preparation.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import cache, pair_sources, paired, prepare, row_numbers, sources, tokenizers
from bigmodel.data.parts import OnePart

FORMAT = 1  # raise it when the same inputs would give another preparation
AT_A_TIME = 2**12  # pairs whose texts go to the tokenizer together

TOO_LONG, EMPTY = ("refuse", "skip", "cut"), ("refuse", "skip")
PACKINGS = ("none", "best_fit")


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Pairs, one a row or as many as fit; see `open_rows` for how long the two sides are.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        arrays: what is prepared, memory-mapped: "source" and "target" [N] tokens, their
            "..._offsets" [pairs + 1], and "bytes" [pairs] of the targets.
        content: hash of the prepared texts and the tokenizer.
        chosen: numbers of the pairs that are used, those of a row together.
        first: [rows + 1] row k holds chosen[first[k]:first[k + 1]].
        source_length: S, the end token counted.
        length: T, the end token counted.
        skipped: pairs that are not used.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    arrays: Mapping[str, np.ndarray]
    content: str
    chosen: np.ndarray
    first: np.ndarray
    source_length: int
    length: int
    skipped: int

    def __len__(self) -> int:
        return len(self.first) - 1

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> `source`, ... [b, S] and `tokens`, `targets`, ... [b, T]; every epoch."""
        indices = row_numbers.within(indices, len(self))
        rows = [
            [self.pair(number) for number in self.chosen[self.first[row] : self.first[row + 1]]]
            for row in indices
        ]
        return paired.batch_of(rows, self.source_length, self.length, self.tokenizer.bos)

    def pair(self, number: int) -> paired.Pair:
        """The ids of both sides with their end, as long as they may be."""
        S, T, end = self.source_length, self.length, self.tokenizer.eos
        source, target = self.side("source", number), self.side("target", number)
        return [*source[: S - 1], end], [*target, end][:T]

    def side(self, name: str, pair: int) -> np.ndarray:
        """A pair's "source" or "target", without an end token."""
        start, stop = self.arrays[f"{name}_offsets"][pair : pair + 2]
        return self.arrays[name][start:stop]

    def describe(self) -> str:
        """One line of what they are."""
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        pairs = len(self.chosen)
        rows = f" in {len(self):,} rows" if len(self) < pairs else ""
        return f"{self.source} {self.split}: {pairs:,} pairs{rows}{skipped}"

    @functools.cached_property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of text for each target, to tell bits per byte; 0 where some are cut."""
        targets = np.diff(self.arrays["target_offsets"])[self.chosen] + 1
        if (targets > self.length).any():
            return 0.0
        return float(self.arrays["bytes"][self.chosen].sum() / targets.sum())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = [self.content, self.source_length, self.length, len(self)]
        chosen = np.ascontiguousarray(self.chosen).tobytes()
        if len(self) < len(self.chosen):
            chosen += self.first.tobytes()
        return hashlib.sha256(json.dumps(known).encode() + chosen).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    source_length: int = 128,
    length: int = 128,
    too_long: str = "refuse",
    empty: str = "refuse",
    packing: str = "none",
    source_field: str = "source",
    target_field: str = "target",
    normalize: str = "NFC",
    cache_dir: str = "",
    progress: cache.Progress | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Rows:
    """The pairs of a source, prepared on first use.

    Args:
        source: see `pair_sources.find`, also for split, source_field, target_field, extensions.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        source_length: S, of the encoder's side with the token that ends it.
        length: T, of the decoder's side: what it reads begins with bos, what it is to say ends
            with the end token.
        too_long: what becomes of a pair a side of which does not fit: "refuse", "skip" or "cut".
        empty: what becomes of a pair a side of which has no text: "refuse" or "skip".
        packing: "none": a pair is a row; "best_fit": a row has as many pairs as fit in both of its
            sides, none of which sees another.
        normalize: a Unicode form, or "none".
        cache_dir, progress: see `cache.open_cache`.
    """
    for field, value, allowed in (
        ("too_long", too_long, TOO_LONG),
        ("empty", empty, EMPTY),
        ("packing", packing, PACKINGS),
        ("normalize", normalize, cache.FORMS),
    ):
        config.known(f"data.{field}", value, allowed)
    for field, size in (("source_length", source_length), ("length", length)):
        if size < 2:
            raise config.InputError(f"data.{field} = {size}: a token and its end need at least 2.")
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    found = pair_sources.find(
        source, split, fields=(source_field, target_field), extensions=extensions
    )
    how: dict[str, Any] = dict(normalize=normalize, cache_dir=cache_dir, progress=progress)
    arrays, notes = prepared(found, split, tokenizer, **how)
    limits = {"source": source_length - 1, "target": length - 1}
    chosen = _usable(arrays, notes, limits, too_long, empty)
    skipped = len(arrays["bytes"]) - len(chosen)
    if not len(chosen):
        raise config.InputError(
            f'source "{source}" has no pairs in the split "{split}" that can be used; {skipped:,} '
            "were skipped."
        )
    S, T, first = source_length, length, np.arange(len(chosen) + 1)
    if packing == "best_fit":
        source_sizes, target_sizes = (
            np.diff(arrays[f"{name}_offsets"])[chosen] + 1 for name in ("source", "target")
        )
        order, first = paired.best_fit(source_sizes, target_sizes, S, T)
        chosen = chosen[order]
    return Rows(
        source, split, tokenizer, arrays, notes["content"], chosen, first, S, T, skipped
    )  # fmt: skip


def prepared(
    found: pair_sources.PairSource,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    *,
    normalize: str,
    cache_dir: str,
    progress: cache.Progress | None,
) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
    """All pairs of a split as arrays, made on first use, and what was noted of them."""
    shaped_by = [FORMAT, found.name, found.fingerprint, split, tokenizer.fingerprint, normalize]
    shaped_by += [unicodedata.unidata_version]
    key = hashlib.sha256(json.dumps(["pairs", *shaped_by]).encode()).hexdigest()[:32]
    write = functools.partial(_prepare, found, split, tokenizer, normalize, progress)
    return cache.built(key, cache_dir, write)[1:]


def texts(data: Mapping[str, Any], extensions: Any = None) -> Iterator[str]:
    """Both sides of each pair, by the fields of a config's `data`: for training a tokenizer."""
    fields = data["source_field"], data["target_field"]
    found = pair_sources.find(data["source"], data["split"], fields=fields, extensions=extensions)
    for pair in _of_split(found, data["normalize"]):
        yield from pair[:2]


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    S, T = (fields["source_length"],), (fields["length"],)
    found = dict.fromkeys(("source", "source_segments", "source_positions"), (S, "int32"))
    found |= dict.fromkeys(("tokens", "targets", "segments", "positions"), (T, "int32"))
    return found | {"weights": (T, "float32")}


def _usable(
    arrays: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    limits: Mapping[str, int],
    too_long: str,
    empty: str,
) -> np.ndarray:
    """Numbers of the pairs that may be used; refuses the first one that may not be there."""
    pairs = len(arrays["bytes"])
    usable = np.ones(pairs, bool)
    for name, most in limits.items():
        lengths = np.diff(arrays[f"{name}_offsets"])
        field = "source_length" if name == "source" else "length"
        long, none = np.flatnonzero(lengths > most), np.flatnonzero(lengths == 0)
        if len(none) and empty == "refuse":
            raise config.InputError(
                f"{where(arrays, notes, none[0])}: its {name} is empty, as in {len(none):,} of "
                f"{pairs:,} pairs. Mend them, or leave them out by data.empty = 'skip'."
            )
        if len(long) and too_long == "refuse":
            raise config.InputError(
                f"{where(arrays, notes, long[0])}: its {name} has {lengths[long[0]]:,} tokens and "
                f"an end, as {len(long):,} of {pairs:,} pairs are longer than data.{field} = "
                f"{most + 1}; the longest has {lengths.max() + 1:,}. Allowed besides are "
                "data.too_long = 'skip' (leaves them out) and 'cut'."
            )
        usable[none] = False
        if too_long == "skip":
            usable[long] = False
    return np.flatnonzero(usable)


def where(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any], pair: int) -> str:
    return f"{notes['paths'][arrays['file'][pair]]}: line {arrays['row'][pair]}"


def _prepare(
    found: pair_sources.PairSource,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    normalize: str,
    progress: cache.Progress | None,
    scratch: pathlib.Path,
) -> dict[str, Any]:
    """Every pair's tokens, as flat arrays in `scratch`."""
    dtype = prepare.token_dtype(tokenizer.size)
    columns: dict[str, list] = {name: [] for name in ("source", "target", "bytes", "file", "row")}
    content = hashlib.sha256(tokenizer.fingerprint.encode())
    tokens: dict[str, list[np.ndarray]] = {"source": [], "target": []}
    done = 0
    for some in _batched(_of_split(found, normalize), AT_A_TIME):
        for name in ("source", "target"):
            texts = [getattr(pair, name) for pair in some]
            content.update("\0".join(texts).encode("utf-8", "replace") + b"\0")
            ids = tokenizer.encode_many(texts)
            columns[name] += map(len, ids)
            tokens[name].append(np.concatenate(ids).astype(dtype))
        sizes = [len(pair.target.encode("utf-8", "replace")) for pair in some]
        columns["bytes"] += sizes
        columns["file"] += [pair.file for pair in some]
        columns["row"] += [pair.row for pair in some]
        done += sum(sizes) + sum(len(pair.source) for pair in some)
        if progress:
            progress(f"{found.name} {split}", min(done, found.size or done), found.size)
    if not columns["row"]:
        raise config.InputError(f'source "{found.name}" has no pairs in the split "{split}".')
    for name, parts in tokens.items():
        np.save(scratch / f"{name}.npy", np.concatenate(parts))
        offsets = np.concatenate([[0], np.cumsum(columns[name])])
        np.save(scratch / f"{name}_offsets.npy", offsets.astype(np.int64))
    for name in ("bytes", "file", "row"):
        np.save(scratch / f"{name}.npy", np.array(columns[name], np.int64))
    return {"pairs": len(columns["row"]), "paths": found.files, "content": content.hexdigest()}


def _of_split(found: pair_sources.PairSource, normalize: str) -> Iterator[pair_sources.Pair]:
    """The pairs of a split, normalised; a side of nothing but white space is empty."""
    for pair in found.read():
        both = [text if text.strip() else "" for text in pair[:2]]
        if normalize != "none":
            both = [unicodedata.normalize(cast(sources.Form, normalize), text) for text in both]
        raw = both[0].encode("utf-8", "replace")
        if sources.in_split(hashlib.blake2b(raw, digest_size=16).digest(), found.split):
            yield pair._replace(source=both[0], target=both[1])


def _batched(pairs: Iterator[pair_sources.Pair], size: int) -> Iterator[list[pair_sources.Pair]]:
    some: list[pair_sources.Pair] = []
    for pair in pairs:
        some.append(pair)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
