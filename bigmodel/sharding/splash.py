"""Splash attention: the TPU's own kernel (Pallas), whole and in the parts that a ring needs.

It skips blocks of keys that no query of a block sees. A length that its blocks do not divide is
left to plain products.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import compat
from bigmodel.layers import attention, attention_bands, attention_parts

LANES = 128  # of a TPU's vector unit: blocks are multiples of it


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    interpret: bool = False,
    **blocks: Any,
) -> jax.Array:
    """The kernel for one device.

    Args:
        q: see `attention.reference`, also for all that follow up to `softcap`.
        interpret: runs the kernel on any platform, for tests.
        **blocks: lengths of the kernel's blocks, see `block_sizes`.
    """
    T, S, H, C = q.shape[1], k.shape[1], q.shape[2], q.shape[3]
    kv_segments = segments if kv_segments is None else kv_segments
    if T % LANES or S % LANES:
        options: dict[str, Any] = dict(causal=causal, window=window, scale=scale, softcap=softcap)
        return attention_bands.chunked(q, k, v, segments, kv_segments, **options)
    sizes = block_sizes(T, S, **blocks)
    seen: dict[str, Any] = dict(causal=causal, window=window)
    kernel = make(
        mask(T, S, **seen),
        *(H, sizes),
        softcap=softcap,
        # What remat keeps under this name is all that the gradient reads: no kernel runs twice.
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
    scale = 1 / math.sqrt(C) if scale is None else scale
    arrays = heads_first(q * jnp.asarray(scale, q.dtype), k, v)
    with jax.named_scope(pairs_name(T, S, sizes, **seen)):
        out = jax.vmap(kernel)(*arrays, ids(segments, kv_segments))
    return jnp.swapaxes(out, 1, 2)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The kernel as `layers.attention_parts`, which runs in its place where blocks do not divide.

    Attributes:
        blocks: lengths of the kernel's blocks, see `block_sizes`.
        interpret: runs the kernel on any platform, for tests.
    """

    blocks: tuple[tuple[str, Any], ...] = ()
    interpret: bool = False

    def forward(self, seen, q, k, v, segments, kv_segments):
        if q.shape[1] % LANES or k.shape[1] % LANES:
            return attention_parts.forward(seen, q, k, v, segments, kv_segments)
        kernel = self.kernel(seen, q, k, save_residuals=True)
        arrays = heads_first(q * jnp.asarray(seen.scale, q.dtype), k, v)
        with jax.named_scope(self.name(seen, q, k)):
            out, (lse,) = jax.vmap(kernel)(*arrays, ids(segments, kv_segments))
        out, lse = jnp.swapaxes(out, 1, 2).astype(jnp.float32), jnp.swapaxes(lse, 1, 2)
        # Where a block of queries sees no block of keys, the kernel divides by nothing.
        # Zeros made of q: what depends on nothing is made for all turns of a ring, and kept.
        some, zeros = lse > attention.MASKED, 0 * q[..., :1].astype(jnp.float32)
        out = jnp.where(some[..., None], out, zeros)
        return out, jnp.where(some, lse, attention_parts.NOTHING)

    def backward(self, seen, q, k, v, segments, kv_segments, out, lse, grad):
        if q.shape[1] % LANES or k.shape[1] % LANES:
            given = (q, k, v, segments, kv_segments, out, lse, grad)
            return attention_parts.backward(seen, *given)
        kernel = self.kernel(seen, q, k)
        scale = jnp.asarray(seen.scale, q.dtype)
        arrays = heads_first(q * scale, k, v)
        out, lse, grad = (jnp.swapaxes(x, 1, 2) for x in (out, lse, grad))

        of_row: Callable = functools.partial(compat.splash_gradient, kernel)
        with jax.named_scope(self.name(seen, q, k)):
            grads = jax.vmap(of_row)(*arrays, ids(segments, kv_segments), out, lse, grad)
        dq, dk, dv = (jnp.swapaxes(x, 1, 2).astype(jnp.float32) for x in grads)
        return dq * seen.scale, dk, dv

    def kernel(self, seen, q, k, **more: Any) -> Any:
        T, S, H = q.shape[1], k.shape[1], q.shape[2]
        who = mask(T, S, causal=seen.causal, window=seen.window, offset=seen.offset)
        sizes = block_sizes(T, S, **dict(self.blocks))
        return make(who, H, sizes, softcap=seen.softcap, interpret=self.interpret, **more)

    def name(self, seen, q, k) -> str:
        T, S = q.shape[1], k.shape[1]
        sizes = block_sizes(T, S, **dict(self.blocks))
        return pairs_name(T, S, sizes, causal=seen.causal, window=seen.window, offset=seen.offset)


def heads_first(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, H, C] -> [B, H, T, C], as the kernel takes them."""
    return tuple(jnp.swapaxes(x, 1, 2) for x in arrays)


def ids(segments: jax.Array | None, kv_segments: jax.Array | None) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    if segments is None or kv_segments is None:
        return None
    return library.SegmentIds(q=segments, kv=kv_segments)


def mask(T: int, S: int, *, causal: bool, window: int, offset: int = 0) -> Any:
    """The library's mask of one head; the first query stands at index `offset` of the keys."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    if window:
        return library.LocalMask((T, S), (window - 1, 0 if causal else window - 1), offset=offset)
    return library.CausalMask((T, S), offset=offset) if causal else library.FullMask((T, S))


def pairs_name(
    T: int, S: int, blocks: Mapping[str, Any], *, causal: bool, window: int, offset: int = 0
) -> str:
    """How many pairs of query and key a head computes, forward and backward, as a scope's name.

    A compiled program says nothing of what its kernels do; who reads one finds it there.
    """

    def computed(of_q: int, of_kv: int) -> int:
        """Blocks in which a query sees a key are computed whole."""
        first = np.arange(0, T, of_q)[:, None] + offset
        begin, last = np.arange(0, S, of_kv)[None], first + of_q - 1
        seen = np.ones(np.broadcast_shapes(first.shape, begin.shape), bool)
        if causal:
            seen &= begin <= last
        if window:
            seen &= begin + of_kv - 1 > first - window
            seen &= causal | (begin < last + window)
        return int(seen.sum()) * of_q * of_kv

    forward = computed(blocks["block_q"], blocks["block_kv"])
    backward = computed(blocks["block_q_dkv"], blocks["block_kv_dkv"])
    fused = "_fused" if blocks["use_fused_bwd_kernel"] else ""
    return f"pairs_{forward}_{backward}{fused}"


def block_sizes(
    T: int,
    S: int,
    *,
    block_q: int = 512,
    block_kv: int = 512,
    block_kv_compute: int = 512,
    backward_block_q: int = 512,
    backward_block_kv: int = 512,
    backward_block_kv_compute: int = 512,
    fused_backward: bool = False,
) -> dict[str, Any]:
    """The largest blocks up to these that divide the lengths of queries and keys.

    Args:
        T: of the queries.
        S: of the keys.
        block_q: queries that are in the chip's memory at one time.
        block_kv: keys and values that are.
        block_kv_compute: of those, as many as one product takes.
        backward_block_q: the same for the gradients, and the next two.
        backward_block_kv: see there.
        backward_block_kv_compute: see there.
        fused_backward: gradients of q, k and v from one kernel: 5 products where two kernels need
            7, and S / backward_block_kv copies of q's gradient.
    """
    blocks = dict(block_q=fit(T, block_q), block_kv=fit(S, block_kv))
    blocks["block_kv_compute"] = fit(blocks["block_kv"], block_kv_compute)
    of_q, of_kv = fit(T, backward_block_q), fit(S, backward_block_kv)
    blocks |= dict(block_q_dkv=of_q, block_kv_dkv=of_kv)
    blocks["block_kv_dkv_compute"] = fit(of_kv, backward_block_kv_compute)
    if not fused_backward:
        blocks |= dict(block_q_dq=of_q, block_kv_dq=of_kv)
    return blocks | dict(use_fused_bwd_kernel=fused_backward)


# What a config's section `compiler` may say of the kernel.
BLOCKS = tuple(inspect.signature(block_sizes).parameters)[2:]


def fit(length: int, wanted: int) -> int:
    """The largest multiple of 128 that divides `length` and is at most `wanted`, or 128."""
    fitting = (b for b in range(LANES, min(length, wanted) + 1, LANES) if length % b == 0)
    return max(fitting, default=LANES)


def make(
    who: Any, H: int, blocks: Mapping[str, Any], *, softcap: float, **more: Any
) -> Callable[..., Any]:
    """The kernel for one row: (q [H, T, C], k and v [K, S, C], segments of both)."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    return library.make_splash_mha_single_device(
        mask=library.MultiHeadMask([who] * H),
        block_sizes=library.BlockSizes(**blocks),
        attn_logits_soft_cap=softcap or None,
        **more,
    )
