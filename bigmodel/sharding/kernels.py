"""Attention kernels of a platform, under `jax.shard_map` on the mesh: same contract, other place.

Each takes and returns what `layers.attention.reference` does. Batch and heads are cut as the rules
say, and the length where they say that (sharding/context.py). What a kernel cannot do (a length
that its blocks do not divide, queries that start at an offset) `attention_bands.chunked` does.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from bigmodel import config
from bigmodel.layers import attention, attention_bands, attention_parts
from bigmodel.sharding import context, rules, splash

PLAIN = {
    "reference": attention.reference,
    "banded": attention_bands.banded,
    "chunked": attention_bands.chunked,
}
PLATFORMS = {"splash": "tpu", "cudnn": "gpu"}


# What attention asks of a model whose config does not say it.
PLAIN_FIELDS: dict[str, Any] = {
    **dict(attention_dropout=0.0, attention_softcap=0.0, head_dim=0, rope_dim=0),
    **dict(context_attention="none", prefix=False),
}


def attention_for(name: str, platform: str, fields: Mapping[str, Any]) -> str:
    """The implementation that "auto" stands for; every other name stands for itself.

    The choice for CPU is measured (docs/performance.md). Elsewhere it is the platform's kernel, or
    where that cannot run the model the form whose memory grows with the length, not its square.
    """
    if name != "auto":
        return name
    if platform == "cpu":
        return "banded"
    if fields.get("prefix"):  # what no kernel knows
        return "chunked"
    if platform == "tpu" and not fields["attention_dropout"]:
        return "splash"
    if platform == "gpu" and not fields["attention_dropout"] and not beyond_cudnn(fields):
        return "cudnn"
    return "chunked"


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
        fields: the model's, and `prefix`: whether its rows have one.
        blocks: of the splash kernel, keyword arguments of `splash`; None: its own.

    Raises:
        InputError: the kernel is of another platform than the mesh, or cannot run this model.
    """
    fields = PLAIN_FIELDS | dict(fields)
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
    if name in PLATFORMS and fields["prefix"]:
        raise config.InputError(
            f"model.attention = {name!r}: the kernel is causal, and rows of this data have a "
            f"prefix; allowed are auto, {', '.join(PLAIN)}."
        )
    local = local_kernel(name, blocks)
    known = dict(table)
    how: Callable[..., jax.Array]
    if rules.parts(mesh, known["length"]) > 1:
        check_context(mesh, known, fields)
        if fields["context_attention"] == "ring":
            how = functools.partial(context.ring, parts_for(name, blocks), mesh, known)
        else:
            how = functools.partial(context.all_to_all, local, mesh, known)
    elif name in PLAIN:
        return PLAIN[name]
    else:
        how = functools.partial(on_each_device, local, mesh, known)
    rows, length = (rules.parts(mesh, known[axis]) for axis in ("batch", "length"))
    return functools.partial(aligned, how, (rows, length))


def local_kernel(name: str, blocks: Mapping[str, Any] | None) -> attention.Attend:
    """The implementation for one device."""
    if name == "splash":
        return functools.partial(splash.splash, **(blocks or {}))
    return cudnn if name == "cudnn" else PLAIN[name]


def parts_for(name: str, blocks: Mapping[str, Any] | None) -> attention_parts.Parts:
    """What computes a part of a ring's keys: the TPU's kernel, or plain products."""
    if name == "splash":
        return splash.Parts(tuple((blocks or {}).items()))
    return attention_parts


def check_context(mesh: Mesh, known: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuses what attention over a length that is cut cannot do."""
    if rules.as_tuple(known["length"]) != (context.AXIS,):
        raise config.InputError(
            f"rules: logical axis 'length' lies on {known['length']!r}; attention knows how to go "
            f"over mesh axis {context.AXIS!r} alone, or None."
        )
    n, tensor = mesh.shape[context.AXIS], rules.parts(mesh, known["act_heads"])
    if fields["prefix"]:
        raise config.InputError(
            f"mesh.context = {n}: attention over a length that is cut is causal, and rows of this "
            "data have a prefix; allowed is 1."
        )
    if fields["context_attention"] == "none":
        raise config.InputError(
            f"mesh.context = {n}: this model's attention does not go over a length that is cut; "
            "allowed is 1."
        )
    if fields["attention_dropout"]:
        raise config.InputError(
            f"model.attention_dropout = {fields['attention_dropout']}: probabilities cannot be "
            f"dropped where the length is cut (mesh.context = {n}); allowed is 0."
        )
    if fields["context_attention"] == "all_to_all" and fields["heads"] % (n * tensor):
        raise config.InputError(
            f"model.heads = {fields['heads']} does not divide over mesh.context x tensor = {n} x "
            f"{tensor}, as model.context_attention = 'all_to_all' cuts them; multiples of "
            f"{n * tensor} do, or 'ring', which cuts none."
        )


def beyond_cudnn(fields: Mapping[str, Any]) -> str:
    """What of a model cuDNN's attention cannot run: "model.field = value (what it can)", or ""."""
    head_dim = fields["head_dim"] or fields["width"] // fields["heads"]
    head_dim += fields["rope_dim"]
    if fields["dtype"] not in ("bfloat16", "float16"):
        return f"model.dtype = {fields['dtype']!r} (only bfloat16, float16)"
    if fields["attention_softcap"]:
        return f"model.attention_softcap = {fields['attention_softcap']} (only 0)"
    if head_dim > 128 or head_dim % 8:
        return f"heads of width {head_dim} (only multiples of 8 up to 128)"
    return ""


def aligned(
    how: attention.Attend,
    multiples: tuple[int, int],
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
    """`how`, or where rows or length do not come apart over the mesh plain attention.

    Args:
        how: attention on a mesh.
        multiples: of rows and of the length that it can cut.
        q: see `attention.reference`, also for all that follow.
    """
    if dropout and keys is not None:
        raise ValueError("this attention kernel cannot drop probabilities")
    if multiples[1] > 1 and "prefix" in options:  # a ring's rows lie in another order
        raise ValueError("attention over a length that is cut knows no prefix")
    # What no kernel knows: a bias, a prefix.
    from_start = isinstance(offset, int) and offset == 0 and not options.keys() & {"bias", "prefix"}
    fits = q.shape[0] % multiples[0] == q.shape[1] % multiples[1] == 0
    if from_start and fits:
        return how(q, k, v, segments, kv_segments, **options)
    # Decoding; or parameters are made, from one row.
    return attention_bands.chunked(q, k, v, segments, kv_segments, offset=offset, **options)


def on_each_device(
    local: attention.Attend,
    mesh: Mesh,
    known: Mapping[str, Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """A kernel on each device's own rows and heads.  [B, T, H, C] -> [B, T, H, C]

    Args:
        local: the kernel for one device.
        mesh: of the run.
        known: mesh axes of the logical axes "batch" and "act_heads".
        q: see `attention.reference`, also for all that follow.
    """
    run = functools.partial(local, **options)
    devices = rules.parts(mesh, known["act_heads"])
    return context.per_device(run, mesh, known, devices, q, k, v, segments, kv_segments)


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
        return attention_bands.chunked(q, k, v, segments, kv_segments, **options)

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
