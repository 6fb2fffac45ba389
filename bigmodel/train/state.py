"""All that a run is at a step, and how it is born: sharded, on no host as a whole."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import optimizers, trees
from bigmodel import recipe as recipes
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

Params = Any

# Random numbers are much code that runs once. On CPU it compiles in a third of the time like this,
# and runs as fast (docs/performance.md); other platforms do not read the option.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}


class TrainState(flax.struct.PyTreeNode):
    """Everything that a checkpoint must hold to go on, and nothing else."""

    step: jax.Array  # int32 scalar; also the position in the data
    params: Params  # what trains
    frozen: Params  # what the objective needs besides: a LoRA base, a teacher, frozen layers
    opt_state: optax.OptState
    rng: jax.Array  # folded with `step`, never consumed
    ema: Params | None = None  # float32 moving average of `params`, where the config asks for one


def create(recipe: recipes.Recipe, like: TrainState | None = None) -> TrainState:
    """The state at step 0, each array made where it lies; `like`: `abstract`'s, if at hand."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like or abstract(recipe))
    with meshes.use(recipe.mesh, recipe.rules):
        program = jax.jit(initializer(recipe), out_shardings=shardings).lower()
        return program.compile(compiler_options=QUICK)()


def abstract(recipe: recipes.Recipe) -> TrainState:
    """Shapes, dtypes and shardings of a run's state; nothing is computed or compiled."""
    mesh = recipe.mesh
    shapes = jax.eval_shape(initializer(recipe))
    params = rules.shardings(recipe.boxed_params, recipe.rules, mesh)
    of_state = rules.shardings(recipe.boxed_params, rules.of_state(recipe.rules), mesh)
    if recipe.config.optimizer.offload:
        of_state = jax.tree.map(lambda s: s.with_memory_kind("pinned_host"), of_state)
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = TrainState(
        step=whole,
        params=params,
        frozen=jax.tree.map(lambda _: whole, shapes.frozen),
        opt_state=rules.like_params(shapes.opt_state, shapes.params, of_state, mesh),
        rng=whole,
        ema=None if shapes.ema is None else params,
    )

    def place(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(place, shapes, shardings)


def initializer(recipe: recipes.Recipe):
    """() -> the state at step 0."""

    def init() -> TrainState:
        rng = jax.random.key(recipe.seed)
        init_rng, step_rng = jax.random.split(rng)
        params = nn.unbox(recipe.model.init(init_rng, recipe.example))
        if (order := recipe.layer_order) is not None:
            params = trees.map_with_path(
                lambda p, x: x[order] if trees.is_stacked(p, x, len(order)) else x, params
            )
        return TrainState(
            step=jnp.int32(0),
            params=params,
            frozen={},
            opt_state=recipe.optimizer.init(params),
            rng=step_rng,
            # 8 bits would round away what each step adds to it.
            ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32), params) if recipe.ema else None,
        )

    return init


def eval_parts(state: TrainState) -> dict[str, Any]:
    """What `eval_params` needs of a state, abstract or not; the names are a checkpoint's."""
    if state.ema is not None:
        return {"ema": state.ema}
    if optimizers.schedule_free_states(state.opt_state):
        return {"opt_state": state.opt_state, "params": state.params}
    return {"params": state.params}


def eval_params(parts: dict[str, Any], like: Params) -> Params:
    """The parameters to evaluate with: the moving average, schedule-free's, or those that train.

    Args:
        parts: as `eval_parts` chose them.
        like: the parameters, abstract or not: what is evaluated has their dtypes.
    """
    if "ema" in parts:
        return jax.tree.map(lambda x, y: x.astype(y.dtype), parts["ema"], like)
    if "opt_state" in parts:
        return jax.jit(optimizers.eval_params)(parts["opt_state"], parts["params"])
    return parts["params"]


def describe(state: TrainState) -> str:
    """One line: parameters, and bytes of the whole state."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return f"{trees.count(state.params):,} parameters, {size / 2**20:,.0f} MiB of state"
