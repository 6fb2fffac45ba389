"""One step: gradients of an objective, an optimizer's update, the next state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigmodel import trees
from bigmodel.objectives import Objective
from bigmodel.train.state import Params, TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulate: int = 1,
) -> TrainStep:
    """Binds the choices of a run; the result is ready for `jax.jit`."""
    gradient = make_gradient(objective, accumulate)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, sums), grads = gradient(state, batch)
        weight = sums["weight"]
        weight = jnp.where(weight == 0, 1.0, weight)  # nothing but padding: nothing to change
        grads = trees.scale(grads, 1 / weight)  # per token of the whole mesh, not per shard

        with jax.named_scope("optimizer"):  # for who reads the compiled program
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)

        metrics = {
            "loss": loss / weight,
            "grad_norm": optax.tree.norm(trees.split(grads, "(^|/)balance$")[1]),
            "param_norm": optax.tree.norm(params),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "weight": sums["weight"],
        }
        if "load" in sums:
            metrics |= routing(sums, weight)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return train_step


def make_gradient(
    objective: Objective, accumulate: int = 1
) -> Callable[[TrainState, Batch], tuple[Any, Params]]:
    """(state, batch) -> (summed loss, sums), their gradient by the parameters that train."""

    def loss_sum(params, frozen, batch, rng):
        return objective(trees.merge(params, frozen), batch, rng)

    summed = accumulated(jax.value_and_grad(loss_sum, has_aux=True), accumulate)

    def gradient(state: TrainState, batch: Batch) -> tuple[Any, Params]:
        rng = jax.random.fold_in(state.rng, state.step)
        return summed(state.params, state.frozen, batch, rng)

    return gradient


def routing(sums: Metrics, weight: jax.Array) -> Metrics:
    """What a mixture of experts did in a step, out of sums over its tokens.

    The losses are means over tokens; `busiest_expert` is the largest load by the mean one, and
    `dropped` the share of choices that found no room.
    """
    load = sums["load"]
    return {
        "balance": sums["balance"] / weight,
        "router_z": sums["router_z"] / weight,
        "busiest_expert": load.max() / jnp.maximum(load.mean(), 1.0),
        "dropped": sums["dropped"] / jnp.maximum(load.sum(), 1.0),
    }


def accumulated(gradient: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The gradient function over `times` parts of the batch, one after another: the same sums.

    Part i holds the rows i, i + times, i + 2 times, ...: each device cuts the rows that it has.
    """
    if times == 1:
        return gradient

    def summed(params, frozen, batch, rng):
        def part(x):
            return jnp.moveaxis(x.reshape(x.shape[0] // times, times, *x.shape[1:]), 1, 0)

        def step(total, rows):
            value, grads = gradient(params, frozen, rows, rng)
            grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            return jax.tree.map(jnp.add, total, (value, grads)), None

        parts = jax.tree.map(part, batch)
        first = jax.tree.map(lambda x: x[0], parts)
        value, _ = jax.eval_shape(gradient, params, frozen, first, rng)
        value = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), value)
        grads = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
        return jax.lax.scan(step, (value, grads), parts)[0]

    return summed


def with_average(train_step: TrainStep, decay: float) -> TrainStep:
    """The step, and `ema` moved a (1 - decay)-th of the way to the new parameters."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(state, batch)
        params = jax.tree.map(lambda p: p.astype(jnp.float32), state.params)
        average = optax.incremental_update(params, state.ema, 1 - decay)
        return state.replace(ema=average), metrics

    return step


def skipping_nonfinite(train_step: TrainStep) -> TrainStep:
    """The step, undone (but for its number) where the loss or the gradient is not finite."""

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        after, metrics = train_step(state, batch)
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return undone(good, after, state, metrics)

    return step


def undone(
    good: jax.Array, after: TrainState, before: TrainState, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The state after a step where it was good, else the one before it with the step's number."""
    chosen = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
    skipped = 1.0 - good.astype(jnp.float32)
    if "skipped" in metrics:  # for another reason
        skipped = jnp.maximum(skipped, metrics["skipped"])
    return chosen.replace(step=after.step), metrics | {"skipped": skipped}
