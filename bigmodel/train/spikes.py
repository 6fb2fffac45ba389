"""Spikes: a loss or gradient norm far above its running mean, found on the devices in the step."""

from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.train.state import TrainState
from bigmodel.train.step import Batch, Metrics, TrainStep, undone

WATCHED = ("loss", "grad_norm")


def watching(
    train_step: TrainStep, *, factors: dict[str, float], steps: int, skips: bool
) -> TrainStep:
    """The step, and a verdict on it: metric `spike`, 1 where a figure is above its limit.

    Args:
        train_step: whose metrics are judged.
        factors: of each of WATCHED, how many times its running mean is its limit.
        steps: length of the mean, and how many steps must have been seen before a verdict.
        skips: undoes the update of a spike (but for the step's number), told as `skipped`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        after, metrics = train_step(state, batch)
        before = state.spikes or {}
        spike, means = judge(before, metrics, factors, steps)
        metrics |= {f"{name}_mean": before[name] for name in WATCHED}
        metrics |= {"spike": spike.astype(jnp.float32)}
        if skips:
            after, metrics = undone(~spike, after, state, metrics)
        return after.replace(spikes=means), metrics

    return step


def judge(
    means: dict[str, jax.Array], metrics: Metrics, factors: dict[str, float], steps: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Whether a step is a spike, and the means with it.

    A figure enters its mean no higher than its limit, so that a spike does not hide the next one,
    and a level that stays becomes the new one after some steps. What is no number, or of a batch
    of nothing but padding, does not count.
    """
    counts = metrics["weight"] > 0
    for name in WATCHED:
        counts &= jnp.isfinite(metrics[name])
    above, after = jnp.bool_(False), {}
    share = 1 / jnp.minimum(means["seen"] + 1, steps).astype(jnp.float32)
    for name in WATCHED:
        mean, value = means[name], metrics[name].astype(jnp.float32)
        limit = mean + (factors[name] - 1) * jnp.abs(mean)  # a mean below 0 has one as well
        limit = jnp.where((means["seen"] == 0) | (mean == 0), jnp.inf, limit)
        above |= value > limit
        after[name] = jnp.where(counts, mean + share * (jnp.minimum(value, limit) - mean), mean)
    after["seen"] = jnp.minimum(means["seen"] + counts, steps)
    return above & counts & (means["seen"] >= steps), after


def ask(config: Any) -> dict[str, Any]:
    """`watching`'s arguments, as a config's `spikes` says them."""
    factors = {"loss": config.loss_factor, "grad_norm": config.factor}
    return {"factors": factors, "steps": config.steps, "skips": config.action == "skip"}
