"""Laws of the sampler: it reaches the data, and how its error falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.decode import flow

MEAN, STD = 1.5, 0.4


def to_a_point(given, x, t):
    """Of data that is one point, on the way x_t = (1 - t) point + t noise."""
    return (x - given) / t[:, None]


def to_a_normal(given, x, t):
    """E[noise - data | x_t] of data with a normal distribution.

    x_t is normal too, with variance (1 - t)^2 STD^2 + t^2: both expectations are linear in it.
    """
    t = t[:, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    return (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN) - MEAN


def test_of_one_point_every_sample_is_it():
    noise = flow.noise(0, np.arange(6)[:, None], (3,))
    point = jnp.array([1.0, -2.0, 0.5])
    for solver in flow.SOLVERS:
        for steps in (1, 2, 7):
            found = flow.sample(to_a_point, point, noise, steps=steps, solver=solver)
            np.testing.assert_allclose(found, jnp.broadcast_to(point, (6, 3)), atol=1e-5)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_an_error_falls_by_the_order_of_the_solver(solver, order):
    with jax.enable_x64():
        noise = jnp.asarray(np.random.default_rng(0).normal(size=(16, 4)))
        exact = MEAN + STD * noise
        errors = [
            np.abs(flow.sample(to_a_normal, None, noise, steps=n, solver=solver) - exact).max()
            for n in (32, 64, 128)
        ]
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 2**order, rtol=0.1)


def test_samples_of_a_normal_distribution_have_its_mean_and_spread():
    noise = flow.noise(1, np.arange(4000)[:, None], (1,))
    found = flow.sample(to_a_normal, None, noise, steps=32, solver="heun")
    assert found.mean() == pytest.approx(MEAN, abs=0.03)
    assert found.std() == pytest.approx(STD, abs=0.02)


def test_noise_belongs_to_the_numbers_of_its_sample():
    addresses = np.array([[i, j] for i in range(3) for j in range(3)])
    whole = flow.noise(3, addresses, (2, 2))
    np.testing.assert_array_equal(flow.noise(3, addresses[[5, 2]], (2, 2)), whole[np.array([5, 2])])
    assert len(np.unique(np.asarray(whole[:, 0, 0]))) == 9
    assert np.abs(flow.noise(4, addresses, (2, 2)) - whole).min() > 0


def test_guidance_goes_on_from_no_class_through_the_class():
    x, y = jnp.array([2.0]), jnp.array([1.0])
    assert [float(flow.guided(x, y, scale)[0]) for scale in (0.0, 1.0, 3.0)] == [1.0, 2.0, 4.0]
