"""The step: accumulation, averages and skipped updates change what they say and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel import recipe as recipes
from bigmodel import trees
from bigmodel.data import pipeline
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled, state, step
from tests import runs


@functools.cache
def start():
    """A state at step 0 and two batches, on one device, dropout on and best-fit packing."""
    recipe = recipes.make(runs.config())
    batches = recipes.train_batches(recipe)
    with meshes.use(recipe.mesh, recipe.rules):
        born = state.create(recipe)
    return born, [pipeline.place(batches, at, lambda *_: recipe.batch_sharding) for at in (0, 1)]


def step_of(**overrides):
    return jax.jit(compiled.train_step(recipe_of(**overrides)))


def recipe_of(**overrides):
    """Of a config without a warmup: at its first rate, 0, nothing would move."""
    return recipes.make(runs.config(**{"schedule": dict(warmup=0), **overrides}))


@functools.cache
def plain():
    born, batches = start()
    return step_of()(born, batches[0])


def norm_of_difference(one, other):
    return {
        path: float(jnp.linalg.norm(a - b))
        for (path, a), b in zip(
            trees.flatten(one).items(), trees.flatten(other).values(), strict=True
        )
    }


@pytest.mark.parametrize(
    "accumulate", [2, *(pytest.param(n, marks=pytest.mark.families) for n in (4, 8))]
)
def test_accumulation_equals_the_large_batch(accumulate):
    born, batches = start()
    after, metrics = step_of(accumulate=accumulate, **SGD)(born_for_sgd(), batches[0])
    expected, expected_metrics = sgd()
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], expected_metrics["grad_norm"], rtol=1e-5)
    moved = norm_of_difference(expected.params, born.params)
    for path, off in norm_of_difference(after.params, expected.params).items():
        assert off <= 2e-5 * moved[path] + 1e-9, path


# What moves is then the gradient itself, and by far more than parameters round.
SGD = dict(optimizer=dict(name="sgd", clip=0.0), schedule=dict(warmup=0, peak=100.0))


def born_for_sgd():
    born, _ = start()
    return born.replace(opt_state=recipe_of(**SGD).optimizer.init(born.params))


@functools.cache
def sgd():
    return step_of(**SGD)(born_for_sgd(), start()[1][0])


def test_a_step_counts_and_keeps_its_key():
    born, _ = start()
    after, metrics = plain()
    assert int(after.step) == 1
    assert (jax.random.key_data(after.rng) == jax.random.key_data(born.rng)).all()
    assert float(metrics["weight"]) > 0


def test_masks_differ_from_step_to_step():
    born, batches = start()
    step = step_of()
    one = step(born, batches[0])[1]["loss"]
    other = step(born.replace(step=jnp.int32(1)), batches[0])[1]["loss"]
    assert float(one) != float(other)


def test_the_average_moves_by_its_decay():
    born, batches = start()
    after, _ = step_of(ema=0.75)(born.replace(ema=born.params), batches[0])
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, born.params, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), after.ema, expected)
    jax.tree.map(np.testing.assert_array_equal, after.params, plain()[0].params)


def test_the_average_of_bfloat16_parameters_moves_with_them():
    overrides = dict(ema=0.999, model=dict(param_dtype="bfloat16"))
    _, batches = start()
    step, after = step_of(**overrides), state.create(recipe_of(**overrides))
    expected = jax.device_get(after.ema)
    for _ in range(5):
        after, _ = step(after, batches[0])
        expected = jax.tree.map(
            lambda a, p: 0.999 * a + 0.001 * np.float32(p), expected, after.params
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, expected)


def test_an_update_that_is_not_finite_is_skipped_when_asked():
    born, batches = start()
    step = step_of(nonfinite="skip")
    bad = batches[0] | {"weights": batches[0]["weights"].at[0, 0].set(jnp.nan)}
    after, metrics = step(born, bad)
    assert float(metrics["skipped"]) == 1.0
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, born.params)
    good, metrics = step(born, batches[0])
    assert float(metrics["skipped"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, good.params, plain()[0].params)


def test_a_batch_of_padding_changes_nothing_but_decay():
    born, batches = start()
    empty = jax.tree.map(jnp.zeros_like, batches[0]) | {"rows": batches[0]["rows"]}
    after, metrics = step_of(optimizer=dict(weight_decay=0.0))(born, empty)
    assert float(metrics["loss"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, born.params)


@pytest.mark.parametrize("factor", [2.0, 1e-4])
def test_all_weights_times_a_number_give_the_same_step(factor):
    def objective(params, batch, rng):
        loss = jnp.sum(batch["weights"] * (params["kernel"] - batch["targets"]) ** 2)
        return loss, {"weight": jnp.sum(batch["weights"])}

    optimizer = optax.sgd(0.1)
    train_step = step.make_train_step(objective, optimizer, lambda _: 0.1)
    params = {"kernel": jnp.float32(3)}
    born = state.TrainState(jnp.int32(0), params, {}, optimizer.init(params), rng=jax.random.key(0))
    batch = {"weights": jnp.array([0.25, 1.0]), "targets": jnp.array([1.0, 2.0])}
    expected, of_one = train_step(born, batch)
    after, metrics = train_step(born, batch | {"weights": factor * batch["weights"]})
    np.testing.assert_allclose(metrics["loss"], of_one["loss"], rtol=1e-6)
    np.testing.assert_allclose(after.params["kernel"], expected.params["kernel"], rtol=1e-6)
