"""Impossible combinations, refused in one line before anything is compiled."""

from collections.abc import Iterable, Mapping
from typing import Any

from bigmodel import config
from bigmodel.checkpoint import schedule
from bigmodel.data import cache, packing
from bigmodel.layers import block, feedforward, stack
from bigmodel.sharding import kernels

POSITIVE = (
    *("steps", "batch", "accumulate", "mesh_slices", "data.length", "log.every"),
    "checkpoint.keep",
)
NOT_NEGATIVE = (
    "checkpoint.every",
    "profile.start",
    "profile.steps",
    "data.workers",
)
CHOICES: dict[str, Iterable[str]] = {
    "nonfinite": ("stop", "skip"),
    "checkpoint.best_is": schedule.SIGNS,
    "data.packing": packing.PACKINGS,
    "data.normalize": cache.FORMS,
    "model.norm": ("layer", "rms"),
    "model.norm_placement": block.PLACEMENTS,
    "model.qk_norm": ("none", "rms", "layer"),
    "model.position": ("learned", "rope", "sinusoidal", "none"),
    "model.feedforward": (*feedforward.GATES, *feedforward.ACTIVATIONS),
    "model.init_residual": ("same", "scaled"),
    "model.dtype": ("bfloat16", "float32", "float16"),
    "model.param_dtype": ("bfloat16", "float32"),
    "model.remat": stack.REMAT_POLICIES,
    "model.attention": ("auto", *kernels.PLAIN, *kernels.PLATFORMS),
}


def known(field: str, value: str, allowed: Iterable[str]) -> None:
    """Refuses a value that is not among those allowed, with the nearest one."""
    allowed = list(allowed)
    if value not in allowed:
        raise config.InputError(
            f"{field} = {value!r}: allowed are {', '.join(map(str, allowed))}."
            f"{config.nearest(value, allowed)}"
        )


def values(flat: Mapping[str, Any]) -> None:
    """Checks what can be told from single fields, given as {"model.width": 64}."""
    for field in POSITIVE:
        if flat[field] < 1:
            raise config.InputError(f"{field} = {flat[field]}: must be at least 1.")
    for field in NOT_NEGATIVE:
        if flat[field] < 0:
            raise config.InputError(f"{field} = {flat[field]}: must not be negative.")
    if not 0 <= flat["ema"] < 1:
        raise config.InputError(f"ema = {flat['ema']}: a decay is at least 0 (none) and below 1.")
    if flat["init_from"]:
        raise config.InputError(
            f"init_from = {flat['init_from']!r}: starting from other weights is not there yet; "
            f"allowed is only ''."
        )
    for field, allowed in CHOICES.items():
        if field in flat:
            known(field, flat[field], allowed)


def decoder(fields: Mapping[str, Any], *, length: int) -> None:
    """Checks the fields of a decoder against each other and the length of its rows."""
    for name in ("vocab", "width", "layers", "heads", "length"):
        if fields[name] < 1:
            raise config.InputError(f"model.{name} = {fields[name]}: must be at least 1.")
    width, heads = fields["width"], fields["heads"]
    kv_heads = fields["kv_heads"] or heads
    if not fields["head_dim"] and width % heads:
        raise config.InputError(
            f"model.heads = {heads} does not divide model.width = {width}; allowed are "
            f"{divisors(width)}, or set model.head_dim."
        )
    if heads % kv_heads:
        raise config.InputError(
            f"model.kv_heads = {kv_heads} does not divide model.heads = {heads}; allowed are "
            f"{divisors(heads)}."
        )
    head_dim = fields["head_dim"] or width // heads
    if fields["position"] == "rope" and head_dim % 2:
        raise config.InputError(
            f"model.head_dim = {head_dim}: rotary positions turn pairs, so it must be even."
        )
    if fields["position"] == "learned" and length > fields["length"]:
        raise config.InputError(
            f"data.length = {length} is longer than model.length = {fields['length']}, the number "
            f"of learned positions; allowed are 1 to {fields['length']}."
        )
    for kind in fields["pattern"] or ("",):
        known("model.pattern", kind, ("global", "local"))
    if "local" in fields["pattern"] and fields["window"] < 1:
        raise config.InputError(
            f"model.window = {fields['window']}: local layers (model.pattern) need at least 1."
        )
    for name in ("dropout", "attention_dropout"):
        if not 0 <= fields[name] < 1:
            raise config.InputError(f"model.{name} = {fields[name]}: a rate is in [0, 1).")
    if fields["attention_dropout"] and fields["attention"] in kernels.PLATFORMS:
        raise config.InputError(
            f"model.attention_dropout = {fields['attention_dropout']}: the kernel "
            f"{fields['attention']!r} cannot drop probabilities; model.attention allowed are "
            f"{', '.join(kernels.PLAIN)}."
        )
    for name in ("remat_save", "remat_offload"):
        for activation in fields[name]:
            known(f"model.{name}", activation, stack.ACTIVATIONS)


def batch(size: int, *, accumulate: int, parts: int, mesh_axes: str) -> None:
    """The batch must come apart evenly, first over the mesh, then in `accumulate` parts."""
    if size % (parts * accumulate):
        by = f"{parts} parts of the mesh ({mesh_axes})" + (
            f" x accumulate = {accumulate}" if accumulate > 1 else ""
        )
        below = size - size % (parts * accumulate)
        near = f"{below} or {below + parts * accumulate}" if below else str(parts * accumulate)
        raise config.InputError(
            f"batch = {size} does not divide over {by}; allowed are multiples of "
            f"{parts * accumulate}, such as {near}."
        )


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
