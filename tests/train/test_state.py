"""The state: which of its parts are evaluated, and with what."""

import jax
import jax.numpy as jnp
import pytest

from bigmodel import recipe as recipes
from bigmodel.sharding import mesh as meshes
from bigmodel.train import state as states
from tests import runs

SCHEDULE_FREE = dict(name="schedule_free_adamw")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (dict(), {"params"}),
        (dict(ema=0.9), {"ema"}),
        (dict(optimizer=SCHEDULE_FREE), {"params", "opt_state"}),
        (dict(optimizer=SCHEDULE_FREE, ema=0.9), {"ema"}),
    ],
    ids=["parameters", "average", "schedule_free", "schedule_free_average"],
)
def test_only_the_parts_that_are_evaluated_are_restored(overrides, parts):
    abstract = states.abstract(recipes.make(runs.config(**overrides)))
    assert set(states.eval_parts(abstract)) == parts


@pytest.mark.parametrize(
    "overrides",
    [
        dict(),
        dict(ema=0.9, model=dict(param_dtype="bfloat16"), spikes=dict(action="skip")),
        dict(lora=dict(rank=2), frozen_dtype="bfloat16"),
        dict(mesh=dict(stage=2), pipeline=dict(microbatches=2), optimizer=dict(name="muon")),
    ],
    ids=["plain", "means", "adapters", "stages"],
)
def test_a_state_is_born_of_the_shapes_that_were_told(overrides):
    recipe = recipes.make(runs.config(**overrides))
    with meshes.use(recipe.mesh, recipe.rules):
        told, born = states.abstract(recipe), jax.eval_shape(states.initializer(recipe))
    assert jax.tree.structure(told) == jax.tree.structure(born)
    assert shapes(told) == shapes(born)


def test_parameters_that_train_are_evaluated_where_they_lie():
    state = states.create(recipes.make(runs.config()))
    chosen = states.eval_params(states.eval_parts(state), state)
    own = zip(jax.tree.leaves(chosen), jax.tree.leaves(state.params), strict=True)
    assert all(one is other for one, other in own)


def test_an_average_is_float32_and_evaluated_in_the_dtype_of_the_parameters():
    recipe = recipes.make(runs.config(ema=0.9, model=dict(param_dtype="bfloat16")))
    state = jax.eval_shape(states.initializer(recipe))
    assert dtypes(state.params) == {jnp.dtype("bfloat16")}
    assert dtypes(state.ema) == {jnp.dtype("float32")}
    chosen = jax.eval_shape(lambda state: states.eval_params({"ema": state.ema}, state), state)
    assert dtypes(chosen) == {jnp.dtype("bfloat16")}


def shapes(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}
