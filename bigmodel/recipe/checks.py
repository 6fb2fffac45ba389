"""Impossible combinations, refused in one line before anything is compiled."""

from collections.abc import Iterable, Mapping
from typing import Any

from bigmodel import config
from bigmodel.layers import stack

POSITIVE = (
    *("steps", "batch", "accumulate", "mesh_slices", "data.length", "log.every"),
    "checkpoint.keep",
)
NOT_NEGATIVE = (
    *("checkpoint.every", "checkpoint.every_minutes", "optimizer.clip", "data.workers"),
    *("profile.start", "profile.steps", "objective.chunk"),
)
CHOICES = {
    "nonfinite": ("stop", "skip"),
    "checkpoint.best_is": ("lowest", "highest"),
    "data.packing": ("concat", "best_fit", "none"),
    "data.normalize": ("NFC", "NFKC", "NFD", "NFKD", "none"),
    "model.norm": ("layer", "rms"),
    "model.norm_placement": ("pre", "post", "both"),
    "model.qk_norm": ("none", "rms", "layer"),
    "model.position": ("learned", "rope", "sinusoidal", "none"),
    "model.feedforward": (
        *("swiglu", "geglu", "reglu"),
        *("gelu", "gelu_tanh", "relu", "relu_squared", "silu"),
    ),
    "model.init_residual": ("same", "scaled"),
    "model.dtype": ("bfloat16", "float32", "float16"),
    "model.param_dtype": ("bfloat16", "float32"),
    "model.remat": stack.REMAT_POLICIES,
    "model.attention": ("auto", "reference", "banded", "chunked", "splash", "cudnn"),
    "optimizer.mu_dtype": ("bfloat16", "float32", "float16"),
}
MOST = 2**31 - 1  # steps, shapes and places are int32 on devices
# Of a decoder.
COUNTS = ("vocab", "width", "layers", "heads", "length")
SIZES = (
    *("kv_heads", "head_dim", "hidden", "window", "rope_original_length", "init_std"),
    *("norm_epsilon", "rope_local_theta", "attention_softcap", "logit_softcap"),
)


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
    for field, value in flat.items():
        if value != value:
            raise config.InputError(f"{field} = {value}: must be a number.")
    for field in POSITIVE:
        at_least(1, field, flat[field])
    for field in NOT_NEGATIVE:
        at_least(0, field, flat.get(field) or 0)
    if not 0 <= flat["seed"] < 2**32:
        raise config.InputError(f"seed = {flat['seed']}: must lie between 0 and 2^32 - 1.")
    if not 0 <= flat["ema"] < 1:
        raise config.InputError(f"ema = {flat['ema']}: a decay is at least 0 (none) and below 1.")
    if flat["init_from"]:
        raise config.InputError(
            f"init_from = {flat['init_from']!r}: starting from other weights is not there yet; "
            f"allowed is only ''."
        )
    for field, allowed in CHOICES.items():
        if flat.get(field) is not None:
            known(field, flat[field], allowed)
    for row in flat["extra_rules"]:
        rule(row)


def at_least(least: int, field: str, value: float) -> None:
    law = f"be at least {least}" if least else "not be negative"
    if isinstance(value, int) and value > MOST:
        law = f"be at most {MOST:,}"
    elif value >= least:
        return
    raise config.InputError(f"{field} = {value}: must {law}.")


def rule(row: Any) -> None:
    """A row of `extra_rules`: a logical axis, and None, a mesh axis or several."""
    pair = row if isinstance(row, tuple | list) and len(row) == 2 else (None, None)
    cuts = pair[1] if isinstance(pair[1], tuple | list) else [pair[1] or ""]
    if not all(isinstance(axis, str) for axis in [pair[0], *cuts]):
        raise config.InputError(
            f"extra_rules: {row!r} is no row; a row is (logical axis, None or a mesh axis or "
            f'several of them), such as ("embed", ("fsdp", "tensor")).'
        )


def decoder(fields: Mapping[str, Any], *, length: int) -> None:
    """Checks the fields of a decoder against each other and the length of its rows."""
    for name in COUNTS:
        at_least(1, f"model.{name}", fields[name])
    for name in SIZES:
        at_least(0, f"model.{name}", fields[name])
    for name in ("rope_theta", "rope_factor"):
        if not fields[name] > 0:
            raise config.InputError(f"model.{name} = {fields[name]}: must be above 0.")
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
    if fields["attention_dropout"] and fields["attention"] in ("splash", "cudnn"):
        raise config.InputError(
            f"model.attention_dropout = {fields['attention_dropout']}: the kernel "
            f"{fields['attention']!r} cannot drop probabilities; model.attention allowed are "
            f"reference, banded, chunked."
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
