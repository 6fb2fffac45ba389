"""Attention a band or a chunk of queries at a time: less to compute, and memory as the length.

Both keep the contract of `attention.reference`.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers.attention import (
    Attend,
    drop_factors,
    heads_first,
    heads_last,
    visible,
    weigh,
)


def banded(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    bands: int = 2,
    **options: Any,
) -> jax.Array:
    """`reference` for one band of queries after another, each with the keys that it may see.

    Of a causal square, two bands compute three quarters and four bands five eighths.
    """
    parts = cut(q, k, bands=bands, **options)
    q, k, v = heads_first(q, k, v)
    kv_segments = segments if kv_segments is None else kv_segments
    outs = []
    for band in parts:
        rows = None if segments is None else segments[:, band.begin : band.end]
        among = among_keys_of(band, k, v, kv_segments, **options)
        outs.append(among(band.begin, q[:, :, band.begin : band.end], rows))
    return checkpoint_name(heads_last(jnp.concatenate(outs, axis=2)), "attention")


def chunked(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    chunk: int = 128,
    bands: int = 4,
    **options: Any,
) -> jax.Array:
    """`banded`, and in a band `chunk` queries at a time: memory linear in the length.

    After Rabe and Staats 2021 (arXiv:2112.05682): the scores of a chunk are thrown away and made
    again for its gradient. Each band adds gradients of keys and values to be held until the end.
    """
    T = q.shape[1]
    parts = cut(q, k, bands=min(bands, -(-T // chunk)), multiple=chunk, **options)
    q, k, v = heads_first(q, k, v)
    kv_segments = segments if kv_segments is None else kv_segments
    outs = []
    for band in parts:
        part = jax.checkpoint(among_keys_of(band, k, v, kv_segments, **options), prevent_cse=False)
        whole = (band.end - band.begin) // chunk
        middle = band.begin + whole * chunk
        if whole:
            each = lambda args, part=part: part(*args)  # noqa: E731
            starts = band.begin + chunk * jnp.arange(whole)
            here = slice(band.begin, middle)
            rows = None if segments is None else in_chunks(segments[:, here], chunk, axis=1)
            q_chunks = in_chunks(q[:, :, here], chunk, axis=2)
            out = jnp.moveaxis(jax.lax.map(each, (starts, q_chunks, rows)), 0, 2)
            outs.append(out.reshape(*q.shape[:2], middle - band.begin, q.shape[3], -1))
        if middle < band.end:
            rows = None if segments is None else segments[:, middle : band.end]
            outs.append(part(middle, q[:, :, middle : band.end], rows))
    return checkpoint_name(heads_last(jnp.concatenate(outs, axis=2)), "attention")


def in_chunks(x: jax.Array, length: int, axis: int) -> jax.Array:
    """An axis in chunks of a length that divides it, the chunks in front."""
    shape = (*x.shape[:axis], -1, length, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


class Band(NamedTuple):
    """Queries begin to end, and the keys low to high that some of them see."""

    begin: int
    end: int
    low: int
    high: int


def cut(
    q: jax.Array,
    k: jax.Array,
    *,
    bands: int,
    multiple: int = 1,
    causal: bool = True,
    window: int = 0,
    offset: jax.Array | int = 0,
    prefix: jax.Array | None = None,
    **_: Any,
) -> Iterator[Band]:
    """The queries in at most `bands` parts of a `multiple`, the last one shorter."""
    T, S = q.shape[1], k.shape[1]
    size = multiple * -(-T // (bands * multiple))
    for begin in range(0, T, size):
        end, low, high = min(T, begin + size), 0, S
        if isinstance(offset, int) and window:
            low = max(0, offset + begin - window + 1)
        later = not causal or prefix is not None  # whether a query may see later keys
        if isinstance(offset, int) and (window or not later):
            high = min(S, offset + end + (window - 1 if later else 0))
        yield Band(begin, end, low, high)


def among_keys_of(
    band: Band, k: jax.Array, v: jax.Array, kv_segments: jax.Array | None, **options: Any
) -> Attend:
    """`attend_part` with those of the keys [B, K, S, C] that a band sees: (start, q, rows)."""
    seen = slice(band.low, band.high)
    return functools.partial(
        attend_part,
        k=k[:, :, seen],
        v=v[:, :, seen],
        columns=None if kv_segments is None else kv_segments[:, seen],
        low=band.low,
        length=k.shape[2],
        **options,
    )


def attend_part(
    start: jax.Array | int,
    q: jax.Array,
    rows: jax.Array | None,
    *,
    k: jax.Array,
    v: jax.Array,
    columns: jax.Array | None,
    low: int,
    length: int,
    causal: bool = True,
    window: int = 0,
    offset: jax.Array | int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout: float = 0.0,
    keys: jax.Array | None = None,
    bias: jax.Array | None = None,
    prefix: jax.Array | None = None,
) -> jax.Array:
    """Queries from index `start` on over keys from `low` on, of `length` keys in all.

    Arrays as `heads_first` gives them; segments of queries (`rows`) and of keys (`columns`).
    """
    (K, T, G), S, at = q.shape[1:4], k.shape[2], offset + start
    among = slice(low, low + S)
    prefix = None if prefix is None else prefix[:, among]
    options: dict[str, Any] = dict(causal=causal, window=window, offset=at - low, prefix=prefix)
    seen = visible(T, S, rows, columns, **options)
    drop = drop_factors(keys, at, (T, K * G, length), dropout)
    drop = None if drop is None else drop[..., among]
    if bias is not None:
        bias = jax.lax.dynamic_slice_in_dim(bias, start, T, axis=2)[..., among]
    return weigh(q, k, v, seen, drop, bias, scale=scale, softcap=softcap)
