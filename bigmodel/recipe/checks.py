"""Impossible combinations, refused in one line before anything is compiled."""

from collections.abc import Iterable, Mapping
from typing import Any

from bigmodel import config
from bigmodel.checkpoint import schedule
from bigmodel.data import cache, packing
from bigmodel.layers import block, feedforward, router, stack
from bigmodel.sharding import kernels

POSITIVE = (
    *("steps", "batch", "accumulate", "mesh_slices", "data.length", "log.every"),
    *("checkpoint.keep", "pipeline.repeats"),
)
NOT_NEGATIVE = (
    *("checkpoint.every", "checkpoint.every_minutes", "optimizer.clip", "data.workers"),
    *("profile.start", "profile.steps", "objective.chunk", "pipeline.microbatches"),
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
    "model.router": router.SCORES,
    "model.init_residual": ("same", "scaled"),
    "model.dtype": ("bfloat16", "float32", "float16"),
    "model.param_dtype": ("bfloat16", "float32"),
    "model.remat": stack.REMAT_POLICIES,
    "model.context_attention": ("ring", "all_to_all"),
    "model.attention": ("auto", *kernels.PLAIN, *kernels.PLATFORMS),
    "optimizer.mu_dtype": ("bfloat16", "float32", "float16"),
}
MOST = 2**31 - 1  # steps, shapes and places are int32 on devices
# Of a decoder.
COUNTS = ("vocab", "width", "layers", "heads", "length")
SIZES = (
    *("kv_heads", "head_dim", "hidden", "window", "rope_original_length", "init_std"),
    *("norm_epsilon", "rope_local_theta", "attention_softcap", "logit_softcap"),
    *("kv_rank", "query_rank", "rope_dim", "experts", "expert_hidden", "shared_experts"),
    *("dense_layers", "expert_groups", "expert_groups_per_token", "expert_capacity"),
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
    if flat["optimizer.offload"] and flat["nonfinite"] == "skip":
        raise config.InputError(
            "nonfinite = 'skip': a state in the host's memory (optimizer.offload = True) cannot "
            "be taken back; allowed is 'stop'."
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
    if fields["attention_dropout"] and fields["attention"] in kernels.PLATFORMS:
        raise config.InputError(
            f"model.attention_dropout = {fields['attention_dropout']}: the kernel "
            f"{fields['attention']!r} cannot drop probabilities; model.attention allowed are "
            f"{', '.join(kernels.PLAIN)}."
        )
    latent(fields)
    experts(fields)
    for name in ("remat_save", "remat_offload"):
        for activation in fields[name]:
            known(f"model.{name}", activation, stack.ACTIVATIONS)


def latent(fields: Mapping[str, Any]) -> None:
    """Checks the fields of latent attention against each other."""
    if not fields["kv_rank"]:
        return
    for name in ("query_rank", "rope_dim", "head_dim"):
        if fields[name] < 1:
            raise config.InputError(
                f"model.{name} = {fields[name]}: latent attention (model.kv_rank = "
                f"{fields['kv_rank']}) needs at least 1."
            )
    wanted = {"position": "rope", "qk_norm": "none", "attention_softcap": 0.0, "kv_heads": 0}
    for name, value in wanted.items():
        if fields[name] != value:
            raise config.InputError(
                f"model.{name} = {fields[name]!r}: with latent attention (model.kv_rank = "
                f"{fields['kv_rank']}) allowed is only {value!r}."
            )
    if fields["rope_dim"] % 2 or fields["attention_dropout"]:
        raise config.InputError(
            f"model.rope_dim = {fields['rope_dim']}, model.attention_dropout = "
            f"{fields['attention_dropout']}: latent attention turns pairs and drops no "
            f"probabilities; allowed are even numbers, and 0."
        )


def experts(fields: Mapping[str, Any]) -> None:
    """Checks the fields of a mixture of experts against each other."""
    E, k = fields["experts"], fields["experts_per_token"]
    if not E:
        return
    if not 1 <= k <= E:
        raise config.InputError(
            f"model.experts_per_token = {k}: allowed are 1 to model.experts = {E}."
        )
    if fields["feedforward"] not in feedforward.GATES:
        raise config.InputError(
            f"model.feedforward = {fields['feedforward']!r}: experts (model.experts = {E}) are "
            f"gated; allowed are {', '.join(feedforward.GATES)}."
        )
    if not 0 <= fields["dense_layers"] < fields["layers"]:
        raise config.InputError(
            f"model.dense_layers = {fields['dense_layers']}: allowed are 0 to "
            f"{fields['layers'] - 1}, fewer than model.layers."
        )
    groups, chosen = fields["expert_groups"], fields["expert_groups_per_token"]
    if groups and E % groups:
        raise config.InputError(
            f"model.expert_groups = {groups} does not divide model.experts = {E}; allowed are "
            f"{divisors(E)}."
        )
    if (groups and not 1 <= chosen <= groups) or (groups and chosen * (E // groups) < k):
        raise config.InputError(
            f"model.expert_groups_per_token = {chosen}: of {groups} groups of {E // groups} "
            f"experts so many must hold the {k} of a token; allowed are "
            f"{-(-k // (E // groups))} to {groups}."
        )


def batch(size: int, *, accumulate: int, parts: int, mesh_axes: str, microbatches: int = 1) -> None:
    """The batch must come apart evenly over the mesh, in `accumulate` parts, and microbatches."""
    multiple = parts * accumulate * microbatches
    if size % multiple:
        by = f"{parts} parts of the mesh ({mesh_axes})"
        by += f" x accumulate = {accumulate}" if accumulate > 1 else ""
        by += f" x pipeline.microbatches = {microbatches}" if microbatches > 1 else ""
        raise config.InputError(
            f"batch = {size} does not divide over {by}; allowed are multiples of "
            f"{multiple}, such as {near(size, multiple)}."
        )


def length(size: int, *, multiple: int, mesh_axes: str) -> None:
    """A row's length must come apart evenly over the mesh."""
    if size % multiple:
        raise config.InputError(
            f"data.length = {size} does not divide over the mesh ({mesh_axes}); allowed are "
            f"multiples of {multiple}, such as {near(size, multiple)}."
        )


def pipeline(fields: Mapping[str, Any], *, stages: int, microbatches: int, repeats: int) -> None:
    """Layers must come apart evenly over the stages, in whole patterns, and have work for all."""
    dense = fields["dense_layers"] if fields["experts"] else 0
    layers = fields["layers"] - dense
    runs, period = stages * repeats, len(fields["pattern"])
    if layers % (runs * period):
        each = f"mesh.stage x pipeline.repeats = {stages} x {repeats}"
        pattern = f" in patterns of {period} (model.pattern)" if period > 1 else ""
        below = fields["layers"] - layers % (runs * period)
        above = below + runs * period
        near = f"{below} or {above}" if below > dense else str(above)
        raise config.InputError(
            f"model.layers = {fields['layers']}: the {layers} that go through the pipeline do not "
            f"divide over {each}{pattern}; {near} would."
        )
    if repeats > 1 and microbatches < stages:
        raise config.InputError(
            f"pipeline.microbatches = {microbatches}: with pipeline.repeats = {repeats} there must "
            f"be one for each stage at least; allowed are {stages} and more."
        )


def near(size: int, multiple: int) -> str:
    """The multiples on both sides of a size, or the first one."""
    below = size - size % multiple
    return f"{below} or {below + multiple}" if below else str(multiple)


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
