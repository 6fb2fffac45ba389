"""What is compiled: the very functions that train, evaluate and write, on shapes alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import costs, trees
from bigmodel import recipe as recipes
from bigmodel.decode import generate, sampling
from bigmodel.evaluate import make_eval_step
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules
from bigmodel.train import compiled
from bigmodel.train import state as states

TASKS = ("train", "evaluate", "prefill", "decode")


def lower(recipe: recipes.Recipe, task: str, prompt: int) -> tuple[jax.stages.Lowered, dict]:
    """The program of a task, and what it is about.

    Args:
        recipe: on devices that need not be here.
        task: of TASKS.
        prompt: tokens of a prompt; of "decode" those that the cache has room for.
    """
    state = states.abstract(recipe)
    with meshes.use(recipe.mesh, recipe.rules):
        if task == "train":
            traced = compiled.trace(recipe, state, recipes.batch_spec(recipe))
        elif task == "evaluate":
            step: Any = make_eval_step(recipe)
            batch = compiled.placed(recipe, recipes.batch_spec(recipe))
            traced = step.trace(states.whole(state).params, batch)
        else:
            own = trees.flatten(recipe.boxed_params, is_leaf=rules.is_box)
            params = trees.pick(states.whole(state).params, own)  # without adapters
            traced = trace_decoding(recipe, params, task, prompt)
        return traced.lower(), about(recipe, state, traced)


def about(recipe: recipes.Recipe, state: states.TrainState, traced: Any) -> dict[str, Any]:
    """What a plan tells of the step besides its program."""
    pipeline = recipe.pipeline
    return {
        "parameters": trees.count((state.params, state.frozen)),
        "sharding": sharding_of(recipe, state),
        "traced_flops": costs.jaxpr_flops(traced.jaxpr),
        "slice_axis": meshes.slice_axis(recipe.mesh.shape, slices)
        if (slices := recipe.config.mesh_slices) > 1
        else None,
        "pipeline": {"ticks": pipeline.ticks, "bubble": pipeline.bubble} if pipeline else None,
    }


def sharding_of(recipe: recipes.Recipe, state: states.TrainState) -> dict[str, Any]:
    """Of each parameter where it is cut, by its path."""
    names = trees.flatten(recipe.tuning.boxed, is_leaf=rules.is_box)
    found = {}
    for path, leaf in trees.flatten(states.whole(state).params).items():
        spec = [*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec))]
        local = leaf.sharding.shard_shape(leaf.shape)
        found[f"params/{path}"] = {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "logical": list(names[path].names),
            "axes": [list(rules.as_tuple(cut)) for cut in spec],
            "bytes": leaf.size * leaf.dtype.itemsize,
            "bytes_per_device": int(np.prod(local)) * leaf.dtype.itemsize,
        }
    return found


def at(spec: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=sharding)


def trace_decoding(recipe: recipes.Recipe, params: Any, task: str, prompt: int) -> Any:
    """Reading prompts into a cache, or one more token of each row with a cache."""
    how = dict(model=recipe.model, rules=generate.Rules(sampling.Sampling(), (), None))
    B = recipe.batch
    length = -(-prompt // generate.CACHE_STEP) * generate.CACHE_STEP
    names = ("tokens", "segments", "positions")
    batch = {name: jax.ShapeDtypeStruct((B, prompt), jnp.int32) for name in names}
    who = at(jax.ShapeDtypeStruct((B, 3), jnp.uint32), recipe.batch_sharding)
    left = at(jax.ShapeDtypeStruct((B,), jnp.int32), recipe.batch_sharding)
    given = (params, compiled.placed(recipe, batch), who, left)
    if task == "prefill":
        return generate.prefill.trace(*given, **how, length=length)
    fill = functools.partial(generate.prefill, **how, length=length)
    state, _ = jax.eval_shape(fill, *given)
    known = dict(recipe.rules)

    def cached(leaf):
        axes = {5: (known["layers"], known["batch"], None, known["act_kv_heads"], None)}
        cut = axes.get(leaf.ndim, (known["batch"],) if leaf.ndim else ())
        return at(leaf, NamedSharding(recipe.mesh, PartitionSpec(*cut)))

    return generate.decode.trace(params, jax.tree.map(cached, state), who, **how, block=1)
