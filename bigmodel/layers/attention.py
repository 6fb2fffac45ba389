"""Attention: one contract and its plain statements.

Every implementation takes and returns the same (`Attend`): q [B, T, H, C], k and v [B, S, K, C]
with H a multiple of K, who may see whom, and gives [B, T, H, C]. A query at index i of the key
sequence sees the key at index j when all of these hold:

    causal: j <= i, or j in the prefix      window > 0: |i - j| < window      segments: the same

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
from collections.abc import Callable
from typing import Any

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
    bias: jax.Array | None = None,
    prefix: jax.Array | None = None,
) -> jax.Array:
    """softmax(Q K^T scale + bias) V, the softmax in float32.  [B, T, H, C] -> [B, T, H, C]

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
        bias: float32 [1 or B, H, T, S], added to the scores.
        prefix: bool [B, S]: a key that all queries see, later or not.
    """
    T, S = q.shape[1], k.shape[1]
    kv_segments = segments if kv_segments is None else kv_segments
    options: dict[str, Any] = dict(causal=causal, window=window, offset=offset, prefix=prefix)
    seen = visible(T, S, segments, kv_segments, **options)
    drop = drop_factors(keys, offset, (T, q.shape[2], S), dropout)
    q, k, v = heads_first(q, k, v)
    out = weigh(q, k, v, seen, drop, bias, scale=scale, softcap=softcap)
    return checkpoint_name(heads_last(out), "attention")


def recomputed(attend: Attend) -> Attend:
    """The same attention, nothing inside of which is kept for its gradient."""

    def attend_again(*arrays, **options):
        return jax.checkpoint(lambda *arrays: attend(*arrays, **options))(*arrays)

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
    prefix: jax.Array | None = None,
) -> jax.Array | None:
    """Which key each query sees: bool [B or 1, T, S], or None for all of them."""
    i = offset + jnp.arange(T)[:, None]
    j = jnp.arange(S)[None, :]
    rules = []
    if causal:
        rules.append((j <= i)[None] if prefix is None else (j <= i)[None] | prefix[:, None])
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


def heads_first(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """q [B, T, H, C] -> [B, K, T, H/K, C]; k, v [B, S, K, C] -> [B, K, S, C]

    As products take it. Transposed once here, where XLA's CPU compiler would else copy each band,
    its probabilities and their gradients (docs/performance.md).
    """
    (B, T, H, C), K = q.shape, k.shape[2]
    q_BKTGC = q.reshape(B, T, K, H // K, C).transpose(0, 2, 1, 3, 4)
    return q_BKTGC, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


def heads_last(out: jax.Array) -> jax.Array:
    """[B, K, T, G, C] -> [B, T, H, C]"""
    B, K, T, G, C = out.shape
    return out.transpose(0, 2, 1, 3, 4).reshape(B, T, K * G, C)


def weigh(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    seen: jax.Array | None,
    drop: jax.Array | None,
    bias: jax.Array | None = None,
    *,
    scale: float | None,
    softcap: float,
) -> jax.Array:
    """The arithmetic of attention under a mask.  q [B, K, T, G, C] -> [B, K, T, G, C]

    The softmax's division comes after the product with the values, where there is less to divide.
    """
    (B, K, T, G, C), S = q.shape, k.shape[2]
    q_BKRC = q.reshape(B, K, T * G, C)  # rows R: a key's queries, T before G, as T may be cut
    scores = jnp.einsum("BKRC,BKSC->BKRS", q_BKRC, k, preferred_element_type=jnp.float32)
    scores_BKTGS = scores.reshape(B, K, T, G, S) * (1 / math.sqrt(C) if scale is None else scale)
    if bias is not None:
        scores_BKTGS += bias.reshape(-1, K, G, T, S).transpose(0, 1, 3, 2, 4)
    if softcap:
        scores_BKTGS = softcap * jnp.tanh(scores_BKTGS / softcap)
    if seen is not None:
        scores_BKTGS = jnp.where(seen[:, None, :, None], scores_BKTGS, MASKED)
    top = jax.lax.stop_gradient(scores_BKTGS.max(-1, keepdims=True))
    weights_BKTGS = jnp.exp(scores_BKTGS - top)
    total_BKTG1 = weights_BKTGS.sum(-1, keepdims=True)
    if drop is not None:
        weights_BKTGS *= drop.reshape(B, T, K, G, S).transpose(0, 2, 1, 3, 4)
    weights_BKRS = weights_BKTGS.astype(v.dtype).reshape(B, K, T * G, S)
    out = jnp.einsum("BKRS,BKSC->BKRC", weights_BKRS, v, preferred_element_type=jnp.float32)
    return (out.reshape(B, K, T, G, -1) / total_BKTG1).astype(v.dtype)
