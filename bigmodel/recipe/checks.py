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
    "data.source_length",
    *("checkpoint.keep", "checkpoint.local_every", "pipeline.repeats", "spikes.steps"),
)
NOT_NEGATIVE = (
    *("checkpoint.every", "checkpoint.every_minutes", "optimizer.clip", "data.workers"),
    *("rollbacks", "replay.every"),
    *("lora.rank", "profile.start", "profile.steps", "objective.chunk", "pipeline.microbatches"),
)
CHOICES: dict[str, Iterable[str]] = {
    "nonfinite": ("stop", "skip", "rollback"),
    "spikes.action": ("off", "tell", "skip", "rollback", "stop"),
    "frozen_dtype": ("", "bfloat16", "float32"),
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


def values(flat: Mapping[str, Any]) -> None:
    """Checks what can be told from single fields, given as {"model.width": 64}."""
    for field, value in flat.items():
        if value != value:
            raise config.InputError(f"{field} = {value}: must be a number.")
    for field in POSITIVE:
        at_least(1, field, flat.get(field, 1))
    # The one before has to stay while one is written.
    at_least(2, "checkpoint.local_keep", flat.get("checkpoint.local_keep", 2))
    for field in NOT_NEGATIVE:
        at_least(0, field, flat.get(field) or 0)
    if not 0 <= flat["seed"] < 2**32:
        raise config.InputError(f"seed = {flat['seed']}: must lie between 0 and 2^32 - 1.")
    if not 0 <= flat["ema"] < 1:
        raise config.InputError(f"ema = {flat['ema']}: a decay is at least 0 (none) and below 1.")
    if not 0 < flat["layer_decay"] <= 1:
        raise config.InputError(
            f"layer_decay = {flat['layer_decay']}: a factor above 0, up to 1 (all layers alike)."
        )
    if not 0 < flat["lora.alpha"] < float("inf"):
        raise config.InputError(f"lora.alpha = {flat['lora.alpha']}: must be above 0.")
    for field in ("fresh", "frozen", "lora.targets"):
        for pattern in flat[field]:
            config.fit(pattern, str, field)
    for field in ("spikes.factor", "spikes.loss_factor"):
        if not 1 < flat[field] < float("inf"):
            raise config.InputError(f"{field} = {flat[field]}: a multiple of a mean, above 1.")
    for field in ("nonfinite", "spikes.action"):
        if flat["optimizer.offload"] and flat[field] == "skip":
            raise config.InputError(
                f"{field} = 'skip': a state in the host's memory (optimizer.offload = True) cannot "
                "be taken back; take 'rollback' or 'stop'."
            )
    for field, allowed in CHOICES.items():
        if flat.get(field) is not None:
            config.known(field, flat[field], allowed)
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


def near(size: int, multiple: int) -> str:
    """The multiples on both sides of a size, or the first one."""
    below = size - size % multiple
    return f"{below} or {below + multiple}" if below else str(multiple)


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
