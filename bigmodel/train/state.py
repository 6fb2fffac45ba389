"""All that a run is at a step, and how it is born: sharded, on no host as a whole."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import checkpoint, optimizers, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import lora
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules
from bigmodel.train import saved

Params = Any

# Random numbers are much code that runs once. On CPU it compiles in a third of the time like this,
# and runs as fast (docs/performance.md); other platforms do not read the option. What XLA_FLAGS say
# of it goes first.
LEVEL = "xla_backend_optimization_level"
QUICK: dict[str, str | bool] = {} if LEVEL in os.environ.get("XLA_FLAGS", "") else {LEVEL: "1"}


class TrainState(flax.struct.PyTreeNode):
    """Everything that a checkpoint must hold to go on, and nothing else."""

    step: jax.Array  # int32 scalar; also the position in the data
    params: Params  # what trains
    frozen: Params  # what the objective needs besides: a LoRA base, a teacher, frozen layers
    opt_state: optax.OptState
    rng: jax.Array  # folded with `step`, never consumed
    ema: Params | None = None  # float32 moving average of `params`, where the config asks for one
    spikes: dict[str, jax.Array] | None = None  # running means (spikes.py), where it asks for them


def create(
    recipe: recipes.Recipe,
    like: TrainState | None = None,
    given: Mapping[str, jax.Array] | None = None,
    kept: saved.Place | None = None,
) -> TrainState:
    """The state at step 0, each array made where it lies.

    Args:
        recipe: of the run.
        like: `abstract`'s, if at hand.
        given: parameters by path that are there already, of the state's dtypes and shardings; they
            are given up. Only the rest is drawn.
        kept: where the run's step is; beside it lies the program that makes the state.
    """
    given = dict(given or {})
    place = kept and kept.of_state(given)
    if place and (found := place.load()):
        return place.guarded(found)(given)[0]
    since = saved.moment()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like or abstract(recipe))

    def made(given: Mapping[str, jax.Array]) -> tuple[TrainState, dict]:
        return initializer(recipe)(given), {}  # as a step gives its state

    with meshes.use(recipe.mesh, recipe.rules):
        initial = jax.jit(made, out_shardings=(shardings, {}), donate_argnums=0)
        program = initial.lower(given).compile(compiler_options=QUICK)
    if place:
        place.save(program, since=since)
    return program(given)[0]


def abstract(recipe: recipes.Recipe) -> TrainState:
    """Shapes, dtypes and shardings of a run's state; nothing is computed or compiled."""
    mesh = recipe.mesh
    # The recipe knows the parameters already: tracing how they are drawn would take as long again.
    drawn = jax.tree.map(lambda box: box.value, recipe.tuning.boxed, is_leaf=rules.is_box)
    first = functools.partial(at_start, recipe)
    shapes = jax.eval_shape(first, drawn, jax.eval_shape(jax.random.key, 0))
    boxed, boxed_frozen = recipe.tuning.split(recipe.tuning.boxed, rules.is_box)
    params = rules.shardings(boxed, recipe.rules, mesh)
    of_state = rules.shardings(boxed, rules.of_state(recipe.rules), mesh)
    if recipe.config.optimizer.offload:
        of_state = jax.tree.map(lambda s: s.with_memory_kind("pinned_host"), of_state)
    everywhere = NamedSharding(mesh, PartitionSpec())
    shardings = TrainState(
        step=everywhere,
        params=params,
        frozen=rules.shardings(boxed_frozen, recipe.rules, mesh),
        opt_state=rules.like_params(shapes.opt_state, shapes.params, of_state, mesh),
        rng=everywhere,
        ema=None if shapes.ema is None else params,
        spikes=jax.tree.map(lambda _: everywhere, shapes.spikes),
    )

    def place(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(place, shapes, shardings)


def initializer(recipe: recipes.Recipe):
    """(parameters that are there, by path) -> the state at step 0."""

    def init(given: Mapping[str, jax.Array] | None = None) -> TrainState:
        rng = jax.random.key(recipe.seed)
        init_rng, step_rng = jax.random.split(rng)
        params = nn.unbox(recipe.model.init(init_rng, recipe.example))
        if recipe.tuning.adapts:
            params = trees.merge(params, lora.init(init_rng, recipe.tuning.boxed, rules.is_box))
        if (order := recipe.layer_order) is not None:
            params = trees.map_with_path(
                lambda p, x: x[order] if trees.is_stacked(p, x, len(order)) else x, params
            )
        params = trees.map_with_path(lambda p, x: (given or {}).get(p, x), params)
        return at_start(recipe, params, step_rng)

    return init


def at_start(recipe: recipes.Recipe, params: Params, rng: jax.Array) -> TrainState:
    """The state at step 0 of parameters, those of adapters too."""
    params, frozen = recipe.tuning.split(params)
    if dtype := recipe.tuning.frozen_dtype:
        frozen = jax.tree.map(lambda x: x.astype(dtype), frozen)
    return TrainState(
        step=jnp.int32(0),
        params=params,
        frozen=frozen,
        opt_state=recipe.optimizer.init(params),
        rng=rng,
        # 8 bits would round away what each step adds to it.
        ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32), params) if recipe.ema else None,
        spikes=no_means() if recipe.config.spikes.action != "off" else None,
    )


def no_means() -> dict[str, jax.Array]:
    """What `TrainState.spikes` is before the first step: means of nothing, and how many steps."""
    return {"loss": jnp.float32(0), "grad_norm": jnp.float32(0), "seen": jnp.int32(0)}


def restore(
    checkpoints: checkpoint.Tiers, like: TrainState, warn: Callable[[str], None]
) -> TrainState:
    """The state of the newest sound checkpoint.

    Running means begin anew where the run that wrote it had none: spikes may be asked for later.
    """
    stored = checkpoints.restore(wanted(checkpoints, like), warn=warn).tree
    params, frozen = parted(stored.params, like)
    stored = stored.replace(params=params, frozen=frozen)
    if like.spikes and not stored.spikes:
        placed = jax.tree.map(lambda leaf: leaf.sharding, like.spikes)
        stored = stored.replace(spikes=jax.jit(no_means, out_shardings=placed)())
    return stored


def wanted(checkpoints: checkpoint.Tiers, like: TrainState) -> TrainState:
    """What is to be read of the newest checkpoint: running means, where it has some."""
    known = checkpoints.leaves()
    return whole(
        like if any(name.startswith("spikes/") for name in known) else like.replace(spikes=None)
    )


def whole(state: TrainState) -> TrainState:
    """The state as checkpoints hold it: all parameters together, whether they train or not."""
    return state.replace(params=trees.merge(state.params, state.frozen), frozen={})


def parted(params: Params, like: TrainState) -> tuple[Params, Params]:
    """All parameters as those that train and those that are frozen; `like` says which."""
    return trees.pick(params, trees.flatten(like.params)), trees.pick(
        params, trees.flatten(like.frozen)
    )


def eval_parts(state: TrainState) -> dict[str, Any]:
    """What `eval_params` needs of a state, abstract or not; the names are a checkpoint's."""
    if state.ema is not None:
        return {"ema": state.ema} | ({"params": state.frozen} if state.frozen else {})
    params = whole(state).params
    if optimizers.schedule_free_states(state.opt_state):
        return {"opt_state": state.opt_state, "params": params}
    return {"params": params}


def eval_params(parts: dict[str, Any], like: TrainState) -> Params:
    """The parameters to evaluate with: the moving average, schedule-free's, or those that train.

    Those that are frozen are among them.

    Args:
        parts: as `eval_parts` chose them.
        like: the state, abstract or not: what is evaluated has the dtypes of its parameters.
    """
    if "ema" in parts:
        average = jax.tree.map(lambda x, y: x.astype(y.dtype), parts["ema"], like.params)
        return trees.merge(average, parts["params"]) if like.frozen else average
    if "opt_state" in parts:
        params, frozen = parted(parts["params"], like)
        return trees.merge(jax.jit(optimizers.eval_params)(parts["opt_state"], params), frozen)
    return parts["params"]


def describe(state: TrainState) -> str:
    """One line: parameters, and bytes of the whole state."""
    count = trees.count((state.params, state.frozen))
    train = f" ({trees.count(state.params):,} train)" if state.frozen else ""
    return f"{count:,} parameters{train}, {trees.nbytes(state) / 2**20:,.0f} MiB of state"
