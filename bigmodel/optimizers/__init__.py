"""Optimizers and learning-rate schedules by name: optax chains, told where a matrix lies.

schedule = SCHEDULES["warmup_cosine"](steps, peak=3e-4, warmup=100)
optimizer = make(OPTIMIZERS["adamw"], schedule, axes, clip=1.0, weight_decay=0.1)
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigmodel import trees
from bigmodel.config import InputError
from bigmodel.optimizers import chains, mup, schedules

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": chains.sgd,
    "adam": chains.adam,
    "adamw": chains.adamw,
    "adafactor": chains.adafactor,
    "lion": chains.lion,
    "muon": chains.muon,
    "schedule_free_adamw": chains.schedule_free_adamw,
}

SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "warmup_cosine": schedules.warmup_cosine,
    "warmup_linear": schedules.warmup_linear,
    "constant": schedules.constant,
    "inverse_sqrt": schedules.inverse_sqrt,
    "warmup_stable_decay": schedules.warmup_stable_decay,
}


def make(
    builder: Callable[..., optax.GradientTransformation],
    schedule: optax.Schedule,
    axes: optax.Params,
    *,
    clip: float = 0.0,
    offload: bool = False,
    factors: Mapping[str, Any] | None = None,
    widths: Mapping[str, float] | None = None,
    **fields,
) -> optax.GradientTransformation:
    """Clipping by the global norm, then the optimizer; all of it in float32.

    Args:
        builder: a row of OPTIMIZERS, or a user's function of the same kind: it takes
            (learning_rate, axes, **fields) and returns an optax transformation.
        schedule: step -> learning rate; step 0 is the first update.
        axes: like the parameters, each leaf the tuple of that parameter's logical axes.
        clip: the largest norm of all gradients together; 0 leaves them as they are.
        offload: whether the state is kept in the host's memory, and comes for the update alone.
        factors: path of a parameter -> what its learning rate is multiplied by, a number or an
            array that spreads over it.
        widths: the same of `mup`, which leaves decay as it is.
        **fields: the builder's own.
    """
    if clip < 0:
        raise InputError(f"optimizer.clip={clip}: must be 0 (no clipping) or positive.")
    # A chain of two either way, so that a checkpoint's state has one form whatever `clip` is.
    clipping = clip_by_global_norm(clip) if clip else optax.identity()
    updates = builder(schedule, axes, **fields)
    chain = optax.chain(clipping, mup.with_rates(updates, widths) if widths else updates)
    chain = with_factors(chain, factors) if factors else chain
    optimizer = in_float32(balanced(chain))
    return offloaded(optimizer) if offload else optimizer


def offloaded(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer with the arrays of its state in the host's memory before and after an update.

    Ren et al. 2021, ZeRO-Offload (arXiv:2101.06840), but the update is computed on the device.
    """

    def moved(state: optax.OptState, space: Any) -> optax.OptState:
        return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, state)

    def update(updates, state, params):
        updates, state = optimizer.update(updates, moved(state, jax.memory.Space.Device), params)
        return updates, moved(state, jax.memory.Space.Host)

    return optax.GradientTransformation(optimizer.init, update)


def with_factors(
    optimizer: optax.GradientTransformation, factors: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The optimizer with each parameter's learning rate, and so its decay, times a factor.

    What it keeps is as without: the factors may change when a run goes on.
    """

    def init(params):
        state = optimizer.init(params)
        if schedule_free_states(state):
            raise InputError(
                "rates, layer_decay: a schedule-free optimizer averages what it does itself, and "
                "takes one rate for all; allowed are rates = {} and layer_decay = 1.0."
            )
        return state

    def update(updates, state, params):
        steps, state = optimizer.update(updates, state, params)
        return trees.map_with_path(lambda path, s: s * factors.get(path, 1.0), steps), state

    return optax.GradientTransformation(init, update)


# Step of a router's balance bias: gamma of DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2.
BALANCE_RATE = 1e-3


def balanced(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer for all but parameters named "balance", which move against their sign.

    Their gradient says only which experts are loaded more than the mean (`layers.router`); it
    enters no norm and no moment.
    """

    def update(updates, state, params):
        rest = trees.map_with_path(
            lambda path, g: jnp.zeros_like(g) if is_balance(path) else g, updates
        )
        steps, state = optimizer.update(rest, state, params)

        def choose(path, step, gradient):
            return -BALANCE_RATE * jnp.sign(gradient) if is_balance(path) else step

        return trees.map_with_path(choose, steps, updates), state

    return optax.GradientTransformation(optimizer.init, update)


def is_balance(path: str) -> bool:
    return path.split("/")[-1] == "balance"


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """g min(1, largest / |g|): optax's of the same name, as a factor that fuses into what follows.

    optax divides by the norm and then selects, which XLA does in one more array and loop for each
    gradient: clipped AdamW takes 1.28 times as long so (two CPU cores, 7 million parameters).
    """

    def clip(updates, params):
        del params
        return trees.scale(updates, jnp.minimum(1.0, largest / optax.tree.norm(updates)))

    return optax.stateless(clip)


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer with float32 state and arithmetic, whatever dtype the parameters have.

    optax keeps second moments in the parameters' dtype, and bfloat16 has 8 bits: at b2 = 0.999 an
    average moves by less than its own rounding and stays where it is. Updates are float32 too, so
    that `optax.apply_updates` rounds once, after the sum.
    """

    def float32(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    def init(params):
        return optimizer.init(float32(params))

    def update(updates, state, params):
        return optimizer.update(float32(updates), state, float32(params))

    return optax.GradientTransformation(init, update)


def schedule_free_states(opt_state: optax.OptState) -> list[optax.contrib.ScheduleFreeState]:
    """Those of schedule-free optimizers anywhere in a state, abstract or not; mostly none."""

    def found(node):
        return isinstance(node, optax.contrib.ScheduleFreeState)

    return [node for node in jax.tree.leaves(opt_state, is_leaf=found) if found(node)]


def eval_params(opt_state: optax.OptState, params: optax.Params) -> optax.Params:
    """The parameters to evaluate with: schedule-free's average, else `params` themselves.

    Schedule-free optimizers take gradients at y, between the average x and the fast iterate z; x is
    what they promise to be good (Defazio et al. 2024, arXiv:2405.15682). A balance bias has no z.
    """

    def choose(path, average, param):
        return param if is_balance(path) else average.astype(param.dtype)

    for node in schedule_free_states(opt_state):
        average = optax.contrib.schedule_free_eval_params(node, params)
        return trees.map_with_path(choose, average, params)
    return params
