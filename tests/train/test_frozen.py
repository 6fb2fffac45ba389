"""Frozen parameters: they never move and cost no gradient, no optimizer state and no average."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bigmodel
from bigmodel import recipe as recipes
from bigmodel import trees
from bigmodel.data import pipeline
from bigmodel.plan import steps as plan_steps
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled
from bigmodel.train import state as states
from tests import runs

FROZEN = ("^embed/", "^layers/feedforward/")
SGD = dict(optimizer=dict(name="sgd", clip=0.0, momentum=0.0), schedule=dict(warmup=0, peak=1.0))
TINY = dict(width=16, heads=2, kv_heads=2, hidden=16, layers=4, scan=True, dropout=0.1)
SHORT = dict(steps=2, evals={}, checkpoint=dict(every=1, keep=3))


def made(model=(), **overrides):
    return recipes.make(runs.config(model=dict(TINY, **dict(model)), **{**SHORT, **overrides}))


@functools.cache
def batches():
    return recipes.train_batches(made())


def after(recipe, steps):
    """The states before and after some steps, and the last metrics."""
    with meshes.use(recipe.mesh, recipe.rules):
        first = state = states.create(recipe)
        step = jax.jit(compiled.train_step(recipe))
        metrics = {}
        for at in range(steps):
            batch = pipeline.place(batches(), at, lambda *_: recipe.batch_sharding)
            state, metrics = step(state, batch)
    return jax.device_get((first, state, metrics))


@functools.cache
def plain():
    return after(made(**SGD), 1)


@functools.cache
def partly():
    return after(made(**SGD, frozen=FROZEN), 2)


def test_frozen_parameters_do_not_move_by_a_bit_and_the_rest_does():
    first, last, _ = partly()
    assert set(trees.flatten(first.frozen)) == {
        "embed/table",
        *(f"layers/feedforward/{name}/kernel" for name in ("down", "gate", "up")),
    }
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    for path, value in trees.flatten(last.params).items():
        assert not np.array_equal(value, trees.flatten(first.params)[path]), path


def test_gradients_of_the_rest_are_those_of_training_everything():
    whole, moved, _ = plain()
    first, last, _ = after(made(**SGD, frozen=FROZEN), 1)
    for path, value in trees.flatten(last.params).items():
        step = trees.flatten(first.params)[path] - value
        expected = trees.flatten(whole.params)[path] - trees.flatten(moved.params)[path]
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-7, err_msg=path)


def test_the_optimizer_and_the_average_have_no_leaf_for_what_is_frozen():
    recipe = made(frozen=FROZEN, ema=0.9)
    state, full = states.abstract(recipe), states.abstract(made(ema=0.9))
    frozen = trees.flatten(state.frozen)
    for path in trees.flatten((state.opt_state, state.ema)):
        assert not any(path.endswith(name) for name in frozen), path
    saved = size(full) - size(state)
    assert saved == 3 * sum(leaf.size * 4 for leaf in frozen.values())  # two moments, one average


def size(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_frozen_parameters_may_have_a_dtype_of_their_own():
    state = states.abstract(made(frozen=FROZEN, frozen_dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "layout",
    [
        dict(mesh=dict(fsdp=2, tensor=2)),
        dict(accumulate=2),
        pytest.param(
            dict(mesh=dict(stage=2), pipeline=dict(microbatches=2, repeats=2)),
            marks=pytest.mark.families,  # for its time
        ),
    ],
    ids=["mesh", "accumulate", "pipeline"],
)
def test_a_layout_changes_no_number_of_a_partly_frozen_step(layout):
    recipe = made(**SGD, frozen=FROZEN, **layout)
    state = states.abstract(recipe)
    if layout.get("mesh", {}).get("fsdp"):
        for path, leaf in trees.flatten(state.frozen).items():
            assert not leaf.sharding.is_fully_replicated, path
    _, expected, metrics = partly()
    _, last, found = after(recipe, 2)
    order = recipe.layer_order
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    for path, value in trees.flatten(states.whole(last).params).items():
        known = trees.flatten(states.whole(expected).params)[path]
        if order is not None and trees.is_stacked(path, value, len(order)):
            known = known[order]
        np.testing.assert_allclose(value, known, rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_run_with_frozen_parameters_goes_on_bit_for_bit_and_can_be_loaded(tmp_path):
    frozen = dict(frozen=FROZEN, frozen_dtype="bfloat16", ema=0.5)
    values = runs.config(model=TINY, **SHORT, **frozen)
    bigmodel.train(values, tmp_path / "run")
    kept = runs.checksums(tmp_path / "run", 2)
    (tmp_path / "run/checkpoints/2").rename(tmp_path / "2")
    bigmodel.train(values, tmp_path / "run")
    assert runs.checksums(tmp_path / "run", 2) == kept
    assert kept["params/embed/table"]["dtype"] == "bfloat16"
    assert not any(name.startswith("frozen/") for name in kept)
    loaded = trees.flatten(bigmodel.load(tmp_path / "run").params)
    assert loaded.keys() == trees.flatten(states.abstract(made()).params).keys()
    with pytest.raises(bigmodel.InputError, match="frozen = .*another state"):
        bigmodel.train(runs.config(model=TINY, **SHORT, ema=0.5), tmp_path / "run")


def test_schedule_free_training_evaluates_what_is_frozen_too():
    recipe = made(frozen=FROZEN, optimizer=dict(name="schedule_free_adamw"))
    state = states.create(recipe)
    params = states.eval_params(states.eval_parts(state), state)
    whole = states.whole(state).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, whole)
    assert trees.flatten(params)["embed/table"] is trees.flatten(whole)["embed/table"]


def test_a_plan_counts_frozen_parameters_without_optimizer_state():
    recipe, full = made(frozen=FROZEN), made()
    state = states.abstract(recipe)
    found = plan_steps.sharding_of(recipe, state)
    assert found.keys() == plan_steps.sharding_of(full, states.abstract(full)).keys()
    with meshes.use(recipe.mesh, recipe.rules):
        lowered, about = plan_steps.lower(recipe, "train", 0)
    assert about["parameters"] == trees.count(states.abstract(full).params)
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(lowered.in_avals[0][0]))
    assert taken == size(jax.tree.map(lambda x: x, state))
