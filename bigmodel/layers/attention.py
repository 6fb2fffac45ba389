"""Attention: one contract and its plain statements.

Every implementation takes and returns the same (`Attend`): q [B, T, H, C], k and v [B, S, K, C]
with H a multiple of K, who may see whom, and gives [B, T, H, C]. A query at index i of the key
sequence sees the key at index j when all of these hold:

    causal: j <= i        window > 0: |i - j| < window        segments: both in the same one

     keys 0 1 2 3 4 5                causal, window 3, segments 1 1 1 1 2 2
    q 0   x . . . . .
    q 1   x x . . . .
    q 2   x x x . . .
    q 3   . x x x . .
    q 4   . . . . x .
    q 5   . . . . x x

Padding is segment 0: it sees padding alone, itself at least, so that no row of the softmax is
empty. What an implementation would keep for the gradient it names "attention" (stack.ACTIVATIONS).
Kernels that need the mesh (TPU, cuDNN) have the same contract: sharding/kernels.py.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Attend = Callable[..., jax.Array]
MASKED = -1e30  # finite: a row that is wholly masked gives a mean, not NaN


def reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    offset: jax.Array | int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """softmax(Q K^T scale) V, the softmax in float32.  [B, T, H, C] -> [B, T, H, C]

    Vaswani et al. 2017 (arXiv:1706.03762), eq. 1; grouped queries: Ainslie et al. 2023
    (arXiv:2305.13245); soft cap: Gemma 2 (arXiv:2408.00118), section 2.

    Args:
        q: queries [B, T, H, C].
        k: keys [B, S, K, C].
        v: values [B, S, K, C].
        segments: int32 [B, T], the queries' documents; None: all in one.
        kv_segments: int32 [B, S], the keys' documents; None: the same as `segments`.
        causal: a query sees no later key.
        window: 0, or how many keys a query sees, itself included (to each side if not causal).
        offset: index of the first query in the sequence of keys (decoding with a cache).
        scale: of the scores; None: C^-1/2.
        softcap: 0, or the bound c of scores c tanh(score / c).
        dropout: rate at which probabilities are dropped, when there are keys.
        keys: one random key per row [B], or None.
    """
    T, S = q.shape[1], k.shape[1]
    kv_segments = segments if kv_segments is None else kv_segments
    seen = visible(T, S, segments, kv_segments, causal=causal, window=window, offset=offset)
    drop = drop_factors(keys, offset, (T, q.shape[2], S), dropout)
    out = weigh(q, k, v, seen, drop, scale=scale, softcap=softcap)
    return checkpoint_name(out, "attention")


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
    outs = []
    for band in cut(q, k, bands=bands, **options):
        rows = None if segments is None else segments[:, band.begin : band.end]
        part = functools.partial(attend_part, k=k, v=v, segments=segments, kv_segments=kv_segments)
        q_band = q[:, band.begin : band.end]
        outs.append(part(band.begin, q_band, rows, low=band.low, high=band.high, **options))
    return checkpoint_name(jnp.concatenate(outs, axis=1), "attention")


def chunked(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    chunk: int = 128,
    bands: int = 8,
    **options: Any,
) -> jax.Array:
    """`banded`, and in a band `chunk` queries at a time: memory linear in the length.

    After Rabe and Staats 2021 (arXiv:2112.05682): the scores of a chunk are thrown away and made
    again for its gradient.
    """
    B, T, H, C = q.shape
    outs = []
    for band in cut(q, k, bands=min(bands, -(-T // chunk)), multiple=chunk, **options):
        arrays: dict[str, Any] = dict(k=k, v=v, segments=segments, kv_segments=kv_segments)
        among = functools.partial(attend_part, low=band.low, high=band.high, **arrays, **options)
        part = jax.checkpoint(among, prevent_cse=False)
        whole = (band.end - band.begin) // chunk
        middle = band.begin + whole * chunk
        if whole:

            def chunks(x, begin=band.begin, middle=middle, whole=whole):
                x = x[:, begin:middle]
                return jnp.moveaxis(x.reshape(B, whole, chunk, *x.shape[2:]), 1, 0)

            each = lambda args, part=part: part(*args)  # noqa: E731
            starts = band.begin + chunk * jnp.arange(whole)
            rows = None if segments is None else chunks(segments)
            out = jax.lax.map(each, (starts, chunks(q), rows))
            outs.append(jnp.moveaxis(out, 0, 1).reshape(B, middle - band.begin, H, C))
        if middle < band.end:
            rows = None if segments is None else segments[:, middle : band.end]
            outs.append(part(middle, q[:, middle : band.end], rows))
    return checkpoint_name(jnp.concatenate(outs, axis=1), "attention")


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
    **_: Any,
) -> Iterator[Band]:
    """The queries in at most `bands` parts of a `multiple`, the last one shorter."""
    T, S = q.shape[1], k.shape[1]
    size = multiple * -(-T // (bands * multiple))
    for begin in range(0, T, size):
        end, low, high = min(T, begin + size), 0, S
        if isinstance(offset, int) and window:
            low = max(0, offset + begin - window + 1)
        if isinstance(offset, int) and (causal or window):
            high = min(S, offset + end + (0 if causal else window - 1))
        yield Band(begin, end, low, high)


def attend_part(
    start: jax.Array | int,
    q: jax.Array,
    rows: jax.Array | None,
    *,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    kv_segments: jax.Array | None,
    low: int,
    high: int,
    causal: bool = True,
    window: int = 0,
    offset: jax.Array | int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Queries from index `start` on, with segments `rows`, over the keys low to high."""
    kv_segments = segments if kv_segments is None else kv_segments
    n, H, S = q.shape[1], q.shape[2], k.shape[1]
    at = offset + start
    columns = None if kv_segments is None else kv_segments[:, low:high]
    seen = visible(n, high - low, rows, columns, causal=causal, window=window, offset=at - low)
    drop = drop_factors(keys, at, (n, H, S), dropout)
    drop = None if drop is None else drop[..., low:high]
    return weigh(q, k[:, low:high], v[:, low:high], seen, drop, scale=scale, softcap=softcap)


def recomputed(attend: Attend) -> Attend:
    """The same attention, nothing inside of which is kept for its gradient."""

    def attend_again(*arrays, **options):
        return jax.checkpoint(lambda *arrays: attend(*arrays, **options), prevent_cse=False)(
            *arrays
        )

    return attend_again


def visible(
    T: int,
    S: int,
    segments: jax.Array | None,
    kv_segments: jax.Array | None,
    *,
    causal: bool,
    window: int,
    offset: jax.Array | int,
) -> jax.Array | None:
    """Which key each query sees: bool [B or 1, T, S], or None for all of them."""
    i = offset + jnp.arange(T)[:, None]
    j = jnp.arange(S)[None, :]
    rules = []
    if causal:
        rules.append((j <= i)[None])
    if window:
        rules.append((jnp.abs(i - j) < window)[None])
    if segments is not None and kv_segments is not None:
        rules.append(segments[:, :, None] == kv_segments[:, None, :])
    return functools.reduce(jnp.logical_and, rules) if rules else None


def drop_factors(
    keys: jax.Array | None, offset: jax.Array | int, shape: tuple[int, int, int], rate: float
) -> jax.Array | None:
    """0 or 1 / (1 - rate) for each probability, [B, T, H, S], addressed by row and query."""
    if keys is None or rate == 0.0:
        return None
    T, H, S = shape

    def of_query(key, i):
        return jax.random.bernoulli(jax.random.fold_in(key, i), 1.0 - rate, (H, S))

    keep = jax.vmap(lambda key: jax.vmap(lambda i: of_query(key, i))(offset + jnp.arange(T)))(keys)
    return keep / (1.0 - rate)


def weigh(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: jax.Array | None,
    drop: jax.Array | None,
    *,
    scale: float | None,
    softcap: float,
) -> jax.Array:
    """The arithmetic of attention under a mask.  q [B, T, H, C] -> [B, T, H, C]"""
    (B, T, H, C), K, S = q.shape, k.shape[2], k.shape[1]
    q_BTKGC = q.reshape(B, T, K, H // K, C)
    scores_BKGTS = jnp.einsum("BTKGC,BSKC->BKGTS", q_BTKGC, k, preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKGTS * (1 / math.sqrt(C) if scale is None else scale)
    if softcap:
        scores_BKGTS = softcap * jnp.tanh(scores_BKGTS / softcap)
    if seen is not None:
        scores_BKGTS = jnp.where(seen[:, None, None], scores_BKGTS, MASKED)
    probabilities = jax.nn.softmax(scores_BKGTS, axis=-1)
    if drop is not None:
        probabilities *= jnp.moveaxis(drop, 1, 2).reshape(B, K, H // K, T, S)
    out_BTKGC = jnp.einsum("BKGTS,BSKC->BTKGC", probabilities.astype(v.dtype), v)
    return out_BTKGC.reshape(B, T, H, C)
