"""Laws of flow matching: what the loss is, and that its draws belong to rows."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import config
from bigmodel.objectives import flow as flows
from bigmodel.train import step

B, SHAPE = 8, (4, 4, 2)


def linear():
    """A model whose velocity is a x + b t: what it was given can be told from its loss."""

    def apply(params, batch, rngs=None):
        time = batch["noise_time"][:, None, None, None]
        return {"velocity": params["a"] * batch["images"] + params["b"] * time}

    return types.SimpleNamespace(apply=apply)


PARAMS = {"a": jnp.float32(0.7), "b": jnp.float32(-0.3)}


def batch(rows=B):
    draw = np.random.default_rng(0)
    images = draw.normal(size=(rows, *SHAPE)).astype(np.float32)
    weights = np.ones(rows, np.float32)
    return {"images": images, "weights": weights, "rows": np.arange(rows, dtype=np.int32)}


def of_time_and_noise(rng, rows=B, start=0, **options):
    """What the objective gives to a model: x_t and t."""
    seen = {}

    def apply(params, batch, rngs=None):
        seen.update(batch)
        return {"velocity": jnp.zeros_like(batch["images"])}

    objective = flows.flow_matching(types.SimpleNamespace(apply=apply), **options)
    given = batch(rows)
    loss, sums = objective({}, given | {"rows": given["rows"] + np.int32(start)}, rng)
    return np.asarray(seen["images"]), np.asarray(seen["noise_time"]), float(loss)


@pytest.mark.parametrize("rng", [None, 5], ids=["evaluation", "training"])
def test_the_loss_is_the_squared_error_of_noise_less_data(rng):
    key = None if rng is None else jax.random.key(rng)
    given, time, loss_of_zero = of_time_and_noise(key)
    x, t = batch()["images"].astype(np.float64), time[:, None, None, None].astype(np.float64)
    noise = (given - (1 - t) * x) / t
    assert abs(noise.std() - 1) < 0.1
    wanted = ((noise - x) ** 2).mean((1, 2, 3)).sum()
    np.testing.assert_allclose(loss_of_zero, wanted, rtol=1e-3)

    found, sums = flows.flow_matching(linear())(PARAMS, batch(), key)
    error = 0.7 * given - 0.3 * t - (noise - x)
    np.testing.assert_allclose(found, (error**2).mean((1, 2, 3)).sum(), rtol=1e-3)
    assert sums["weight"] == B


def test_the_right_velocity_costs_nothing():
    """Of images that are all one point c the velocity is (x - c) / t."""

    def apply(params, batch, rngs=None):
        return {"velocity": (batch["images"] - 3.0) / batch["noise_time"][:, None, None, None]}

    one_point = batch() | {"images": np.full((B, *SHAPE), 3.0, np.float32)}
    objective = flows.flow_matching(types.SimpleNamespace(apply=apply))
    assert objective({}, one_point, jax.random.key(0))[0] < 1e-6


def test_draws_are_those_of_the_row_whatever_the_parts_order_and_mesh():
    gradient = jax.value_and_grad(flows.flow_matching(linear()), has_aux=True)

    def of_parts(times):
        split = step.accumulated(lambda p, _, *rest: gradient(p, *rest), times)
        return jax.jit(lambda b: split(PARAMS, {}, b, jax.random.key(2)))

    (whole, sums), grads = of_parts(1)(batch())
    turned = {name: array[::-1] for name, array in batch().items()}
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(batch(), NamedSharding(mesh, PartitionSpec("data")))
    for times, given in ((2, batch()), (4, batch()), (1, turned), (1, cut)):
        (loss, sums), others = of_parts(times)(given)
        np.testing.assert_allclose(loss, whole, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), others, grads)


def test_other_steps_draw_otherwise_and_evaluation_always_the_same():
    one, other = (of_time_and_noise(jax.random.key(n)) for n in (1, 2))
    assert not np.intersect1d(one[1], other[1]).size
    assert np.abs(one[0] - other[0]).min() > 0
    far = of_time_and_noise(None, 5, 10**7, time="uniform")[1]  # no rounding among so many rows
    np.testing.assert_allclose(np.diff(far) % 1, 0.618, atol=1e-3)
    again = [of_time_and_noise(None)[:2] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *again)


def test_rows_of_padding_count_nothing():
    padded = {name: array.copy() for name, array in batch().items()}
    padded["images"][5:], padded["weights"][5:] = 0, 0
    five = {name: array[:5] for name, array in batch().items()}
    objective = flows.flow_matching(linear())
    for rng in (None, jax.random.key(0)):
        (found, sums), (wanted, _) = objective(PARAMS, padded, rng), objective(PARAMS, five, rng)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert sums["weight"] == 5


@pytest.mark.parametrize("rng", [None, 0], ids=["evaluation", "training"])
def test_times_are_distributed_as_they_should_be(rng):
    rows = 2000
    key = None if rng is None else jax.random.key(rng)
    inside = np.arange(1, 10) / 10  # a tenth of the rows between two of them
    quantiles = {
        "uniform": inside,
        "logit_normal": 1 / (1 + np.exp(-(0.4 + 0.8 * NORMAL))),
    }
    for name, wanted in quantiles.items():
        options = dict(time=name, time_mean=0.4, time_std=0.8)
        times = of_time_and_noise(key, rows, **options)[1]
        assert ((times >= 0) & (times < 1)).all()
        np.testing.assert_allclose(np.quantile(times, inside), wanted, atol=0.03)


# Deciles of the normal distribution.
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(time="logit-normal"), "objective.time.*Did you mean .*logit_normal"),
        (dict(time_std=0.0), "objective.time_std = 0.0: must be above 0"),
    ],
)
def test_times_that_there_are_not_are_refused(options, words):
    with pytest.raises(config.InputError, match=words):
        flows.flow_matching(linear(), **options)
