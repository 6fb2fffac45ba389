"""Attention to a part of the keys, and how parts become the whole: what a ring of devices needs.

With s the scores that a query gives to the keys of one part, a part is known by its output and by
log sum exp s; outputs of two parts, weighed by those, give the output over both (Milakov and
Gimelshein 2018, arXiv:1805.02867). The gradient of a part needs only that of the whole (Dao et al.
2022, FlashAttention, arXiv:2205.14135, algorithm 4): P = exp(s - lse), and no softmax again.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bigmodel.layers.attention import MASKED, visible

Part = tuple[jax.Array, jax.Array]  # output [B, T, H, C] float32, log sum exp [B, T, H] float32
NOTHING = 2 * MASKED  # log sum exp over no key
QUERIES = 1024  # whose scores exist at one time


class Seen(NamedTuple):
    """Who sees whom between queries and the keys of one part, as `attention.reference` says it.

    Attributes:
        offset: index of the first query, counted from the part's first key; may be negative.
        causal: a query sees no later key.
        window: 0, or how many keys a query sees.
        scale: of the scores.
        softcap: 0, or their bound.
    """

    offset: int
    causal: bool
    window: int
    scale: float
    softcap: float


class Parts(Protocol):
    """An implementation: the plain one is this module, a kernel's has the same two functions."""

    def forward(self, seen: Seen, q, k, v, segments, kv_segments) -> Part: ...

    def backward(
        self, seen: Seen, q, k, v, segments, kv_segments, out, lse, grad
    ) -> tuple[jax.Array, jax.Array, jax.Array]: ...


def nothing(q: jax.Array, v: jax.Array) -> Part:
    """The part without a key: it weighs nothing in `join`."""
    shape = q.shape[:3]
    return jnp.zeros((*shape, v.shape[-1]), jnp.float32), jnp.full(shape, NOTHING, jnp.float32)


def join(a: Part, b: Part) -> Part:
    """One part out of two whose keys are others."""
    lse = jnp.logaddexp(a[1], b[1])
    weigh_a, weigh_b = (jnp.exp(part[1] - lse)[..., None] for part in (a, b))
    return a[0] * weigh_a + b[0] * weigh_b, lse


def forward(
    seen: Seen,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    kv_segments: jax.Array | None,
) -> Part:
    """A part, from q [B, T, H, C], k and v [B, S, K, C] and the documents of both."""

    def some(q, segments, start):
        scores, _ = scores_of(seen, start, q, k, segments, kv_segments)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1)
        out = jnp.einsum("BKGTS,BSKC->BTKGC", weights.astype(v.dtype), v, **F32)
        out = out / to_last(total)[..., None]
        return merge_heads(out), merge_heads(to_last(jnp.log(total) + top[..., 0]))

    return by_queries(some, q, segments)


def backward(
    seen: Seen,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    kv_segments: jax.Array | None,
    out: jax.Array,
    lse: jax.Array,
    grad: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a part gives to the gradients of q, k and v, in float32.

    Args:
        seen: as forward, also for all that follow up to `kv_segments`.
        out: of attention over all parts [B, T, H, C].
        lse: log sum exp over all parts [B, T, H].
        grad: of the loss with respect to `out`.
    """
    K = k.shape[2]

    def some(q, segments, start, lse, delta, grad):
        scores, slope = scores_of(seen, start, q, k, segments, kv_segments)
        weights = jnp.exp(scores - heads_to_front(lse, K)[..., None])
        grad = split_heads(grad, K)
        of_weights = jnp.einsum("BTKGC,BSKC->BKGTS", grad, v, **F32)
        of_scores = (
            weights * (of_weights - heads_to_front(delta, K)[..., None]) * slope * seen.scale
        )
        of_scores, weights = of_scores.astype(q.dtype), weights.astype(q.dtype)
        dq = jnp.einsum("BKGTS,BSKC->BTKGC", of_scores, k, **F32)
        dk = jnp.einsum("BKGTS,BTKGC->BSKC", of_scores, split_heads(q, K), **F32)
        dv = jnp.einsum("BKGTS,BTKGC->BSKC", weights, grad, **F32)
        return merge_heads(dq), dk, dv

    grad = grad.astype(q.dtype)
    delta = (out.astype(jnp.float32) * grad.astype(jnp.float32)).sum(-1)
    return by_queries(some, q, segments, lse, delta, grad, summed=(1, 2))


F32 = {"preferred_element_type": jnp.float32}


def scores_of(
    seen: Seen, start, q, k, segments, kv_segments
) -> tuple[jax.Array, jax.Array | float]:
    """Scores [B, K, G, T, S] under the mask, and their slope by what the soft cap was given."""
    K = k.shape[2]
    scores = jnp.einsum("BTKGC,BSKC->BKGTS", split_heads(q, K), k, **F32) * seen.scale
    slope: jax.Array | float = 1.0
    if seen.softcap:
        bent = jnp.tanh(scores / seen.softcap)
        scores, slope = seen.softcap * bent, 1.0 - jnp.square(bent)
    mask = visible(
        *(q.shape[1], k.shape[1], segments, kv_segments),
        causal=seen.causal,
        window=seen.window,
        offset=seen.offset + start,
    )
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, MASKED)
    return scores, slope


def by_queries(some, q, segments, *more, summed: tuple[int, ...] = ()):
    """`some(queries, segments, start, ...)` for at most QUERIES of them at a time.

    What comes out is put together along the queries, or added up where `summed` names it.
    """
    T = q.shape[1]
    size = next(n for n in range(min(T, QUERIES), 0, -1) if T % n == 0)
    if size == T:
        return some(q, segments, 0, *more)

    def in_parts(x):
        return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

    def step(totals, part):
        start, (q, segments, *more) = part
        found = some(q, segments, start, *more)
        totals = [total + found[i] for total, i in zip(totals, summed, strict=True)]
        return totals, [x for i, x in enumerate(found) if i not in summed]

    arrays = jax.tree.map(in_parts, (q, segments, *more))
    starts = jnp.arange(0, T, size)
    first = jax.tree.map(lambda x: x[0], arrays)
    shapes = jax.eval_shape(lambda arrays: some(arrays[0], arrays[1], 0, *arrays[2:]), first)
    zeros = [jnp.zeros(shapes[i].shape, shapes[i].dtype) for i in summed]
    totals, stacked = jax.lax.scan(step, zeros, (starts, arrays))
    whole = [jnp.moveaxis(x, 0, 1).reshape(x.shape[1], T, *x.shape[3:]) for x in stacked]
    return tuple(whole + totals)


def split_heads(x: jax.Array, K: int) -> jax.Array:
    """[B, T, H, ...] -> [B, T, K, G, ...]"""
    return x.reshape(*x.shape[:2], K, -1, *x.shape[3:])


def merge_heads(x: jax.Array) -> jax.Array:
    """[B, T, K, G, ...] -> [B, T, H, ...]"""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def heads_to_front(x: jax.Array, K: int) -> jax.Array:
    """[B, T, H] -> [B, K, G, T]"""
    return jnp.moveaxis(split_heads(x, K), 1, 3)


def to_last(x: jax.Array) -> jax.Array:
    """[B, K, G, T] -> [B, T, K, G]"""
    return jnp.moveaxis(x, 3, 1)
