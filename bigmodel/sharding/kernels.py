"""Attention kernels of a platform, under `jax.shard_map` on the mesh: same contract, other place.

Each takes and returns what `layers.attention.reference` does. Batch and heads are cut as the rules
say; the length is whole on each device. What a kernel cannot do (a length that its blocks do not
divide, queries that start at an offset) `layers.attention.chunked` does in its place.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from bigmodel import config
from bigmodel.layers import attention
from bigmodel.sharding import rules

PLAIN = {
    "reference": attention.reference,
    "banded": attention.banded,
    "chunked": attention.chunked,
}
PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}
LANES = 128  # of a TPU's vector unit: blocks of the splash kernel are multiples of it


def attention_for(name: str, platform: str, fields: Mapping[str, Any]) -> str:
    """The implementation that "auto" stands for; every other name stands for itself.

    The choice of each platform is measured: docs/performance.md.
    """
    if name != "auto":
        return name
    if platform == "cpu":
        return "banded"
    if fields["attention_dropout"]:
        return "reference"
    if platform == "tpu":
        return "splash"
    if platform == "gpu" and not beyond_cudnn(fields):
        return "cudnn"
    return "reference"


def make_attention(
    name: str,
    mesh: Mesh,
    table: rules.Rules,
    fields: Mapping[str, Any],
    blocks: Mapping[str, Any] | None = None,
) -> attention.Attend:
    """The implementation of attention by name, bound to a mesh.

    Args:
        name: "auto", a name of PLAIN, "splash" or "cudnn".
        mesh: of the run.
        table: its rules.
        fields: the model's.
        blocks: of the splash kernel, keyword arguments of `splash`; None: its own.

    Raises:
        InputError: the kernel is of another platform than the mesh, or cannot run this model.
    """
    platform = mesh.devices.flat[0].platform
    platform = "gpu" if platform in ("cuda", "rocm") else platform
    name = attention_for(name, platform, fields)
    if PLATFORMS.get(name, platform) != platform:
        raise config.InputError(
            f"model.attention = {name!r} runs on {PLATFORMS[name]} and the mesh is of {platform} "
            f"devices; allowed here are auto, {', '.join(PLAIN)}."
        )
    if name == "cudnn" and (why := beyond_cudnn(fields)):
        raise config.InputError(
            f"model.attention = 'cudnn' cannot run {why}; "
            f"allowed here are auto, {', '.join(PLAIN)}."
        )
    if name in PLAIN:
        return PLAIN[name]
    local = cudnn if name == "cudnn" else functools.partial(splash, **(blocks or {}))
    return functools.partial(sharded, local, mesh, dict(table))


def beyond_cudnn(fields: Mapping[str, Any]) -> str:
    """What of a model cuDNN's attention cannot run: "model.field = value (what it can)", or ""."""
    head_dim = fields["head_dim"] or fields["width"] // fields["heads"]
    if fields["dtype"] not in ("bfloat16", "float16"):
        return f"model.dtype = {fields['dtype']!r} (only bfloat16, float16)"
    if fields["attention_softcap"]:
        return f"model.attention_softcap = {fields['attention_softcap']} (only 0)"
    if head_dim > 128 or head_dim % 8:
        return f"heads of width {head_dim} (only multiples of 8 up to 128)"
    return ""


def sharded(
    local: attention.Attend,
    mesh: Mesh,
    known: Mapping[str, Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    offset: jax.Array | int = 0,
    dropout: float = 0.0,
    keys: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """A kernel on each device's own rows and heads.  [B, T, H, C] -> [B, T, H, C]

    Args:
        local: the kernel for one device.
        mesh: of the run.
        known: mesh axes of the logical axes "batch" and "act_heads".
        q: see `attention.reference`, also for all that follow.
    """
    if dropout and keys is not None:
        raise ValueError("this attention kernel cannot drop probabilities")
    rows, heads = known["batch"], known["act_heads"]
    kv_segments = segments if kv_segments is None else kv_segments
    aligned = isinstance(offset, int) and offset == 0
    if not aligned or q.shape[0] % parts(mesh, rows):  # decoding; parameters made from one row
        return attention.chunked(q, k, v, segments, kv_segments, offset=offset, **options)

    k, v = spread(k, parts(mesh, heads)), spread(v, parts(mesh, heads))
    of_heads, of_rows = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
    arrays, specs = [q, k, v], [of_heads] * 3
    if segments is not None and kv_segments is not None:
        arrays, specs = [*arrays, segments, kv_segments], [*specs, of_rows, of_rows]
    run = jax.shard_map(
        functools.partial(local, **options),
        mesh=mesh,
        in_specs=tuple(specs),
        out_specs=of_heads,
        check_vma=False,
    )
    return run(*arrays)


def parts(mesh: Mesh, cut: str | tuple[str, ...] | None) -> int:
    """Into how many parts an axis is cut."""
    return math.prod(mesh.shape[axis] for axis in rules.as_tuple(cut))


def spread(x: jax.Array, devices: int) -> jax.Array:
    """Key or value heads repeated until `devices` divide them, each beside its own queries."""
    K = x.shape[2]
    return x if K % devices == 0 else jnp.repeat(x, math.lcm(K, devices) // K, axis=2)


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
    block_q: int = 512,
    block_kv: int = 512,
    block_kv_compute: int = 512,
    backward_block_q: int = 512,
    backward_block_kv: int = 512,
    backward_block_kv_compute: int = 512,
    fused_backward: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """The TPU's block-sparse flash attention (Pallas), for one device.

    Args:
        q: see `attention.reference`, also for all that follow up to `softcap`.
        block_q: most queries in memory at a time; cut down to what divides the length.
        block_kv: the same for keys.
        block_kv_compute: keys in one product, at most `block_kv`.
        backward_block_q: the same for the gradient.
        backward_block_kv: the same for the gradient.
        backward_block_kv_compute: the same for the gradient.
        fused_backward: gradients of q, k and v from one kernel: 5 products where two kernels need
            7, and S / backward_block_kv copies of q's gradient.
        interpret: run as plain jax on any platform, for tests.
    """
    (T, H, C), S = q.shape[1:], k.shape[1]
    kv_segments = segments if kv_segments is None else kv_segments
    if T % LANES or S % LANES:
        options: dict[str, Any] = dict(causal=causal, window=window, scale=scale, softcap=softcap)
        return attention.chunked(q, k, v, segments, kv_segments, **options)

    blocks = dict(block_q=fit(T, block_q), block_kv=fit(S, block_kv))
    blocks["block_kv_compute"] = fit(blocks["block_kv"], block_kv_compute)
    backward_q, backward_kv = fit(T, backward_block_q), fit(S, backward_block_kv)
    blocks |= dict(block_q_dkv=backward_q, block_kv_dkv=backward_kv)
    blocks["block_kv_dkv_compute"] = fit(backward_kv, backward_block_kv_compute)
    if not fused_backward:
        blocks |= dict(block_q_dq=backward_q, block_kv_dq=backward_kv)
    attend = make_splash(
        *(T, S, H, causal, window, softcap),
        blocks | dict(use_fused_bwd_kernel=fused_backward),
        interpret=interpret,
    )

    q = q * jnp.asarray(1 / math.sqrt(C) if scale is None else scale, q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = jax.vmap(attend)(q, k, v, segments, kv_segments)
    return jnp.swapaxes(out, 1, 2)


def fit(length: int, wanted: int) -> int:
    """The largest multiple of 128 that divides `length` and is at most `wanted`, or 128."""
    fitting = (b for b in range(LANES, min(length, wanted) + 1, LANES) if length % b == 0)
    return max(fitting, default=LANES)


def make_splash(
    T: int,
    S: int,
    H: int,
    causal: bool,
    window: int,
    softcap: float,
    blocks: Mapping[str, Any],
    *,
    interpret: bool,
) -> Callable[..., jax.Array]:
    """The kernel for one row: (q [H, T, C], k and v [K, S, C], segments, kv_segments)."""
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    one: library.Mask
    if window:
        one = library.LocalMask((T, S), (window - 1, 0 if causal else window - 1), offset=0)
    else:
        one = library.CausalMask((T, S)) if causal else library.FullMask((T, S))
    kernel = library.make_splash_mha_single_device(
        mask=library.MultiHeadMask([one] * H),
        block_sizes=library.BlockSizes(**blocks),
        attn_logits_soft_cap=softcap or None,
        # What remat keeps under this name is all that the gradient reads: no kernel runs twice.
        residual_checkpoint_name="attention",
        interpret=interpret,
    )

    def attend(q, k, v, segments, kv_segments):
        ids = None if segments is None else library.SegmentIds(q=segments, kv=kv_segments)
        return kernel(q, k, v, ids)

    return attend


def cudnn(
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
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """NVIDIA's fused flash attention, for one device.

    Segments, and windows to both sides, are no pattern it knows: they go in as a mask [B, 1, T, S],
    which is read as a bias of as many bfloat16 elements. Causal masks and windows cost nothing.

    Args:
        q: see `attention.reference`, also for all that follow up to `softcap`.
        implementation: "xla" runs the same call as plain jax on any platform, for tests.
    """
    if softcap:
        raise ValueError("cuDNN attention has no soft cap")
    T, S = q.shape[1], k.shape[1]
    kv_segments = segments if kv_segments is None else kv_segments
    if T % 2 or S % 2:  # its gradient under a mask wants even lengths
        options: dict[str, Any] = dict(causal=causal, window=window, scale=scale)
        return attention.chunked(q, k, v, segments, kv_segments, **options)

    native = causal and window > 0
    in_mask = 0 if native else window
    seen = attention.visible(*(T, S, segments, kv_segments), causal=False, window=in_mask, offset=0)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        mask=None if seen is None else seen[:, None],
        scale=scale,
        is_causal=causal,
        local_window_size=(window - 1, 0) if native else None,
        implementation=implementation,
    )
    return checkpoint_name(out, "attention")
