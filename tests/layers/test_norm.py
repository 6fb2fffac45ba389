"""Norms against their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel.layers import norm

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(2, 3, 8)).astype(np.float32) * 3 + 1
SCALE, BIAS = DRAW.normal(size=(2, 8)).astype(np.float32)


def layer_norm(x, scale, bias, epsilon):
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(
        x.var(-1, keepdims=True) + epsilon
    ) * scale + bias


def rms_norm(x, scale, epsilon):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


CASES = {
    "layer": (
        norm.LayerNorm(epsilon=1e-2, dtype=jnp.float32),
        {"scale": SCALE, "bias": BIAS},
        lambda x: layer_norm(x, SCALE, BIAS, 1e-2),
    ),
    "layer_without_bias": (
        norm.LayerNorm(bias=False, dtype=jnp.float32),
        {"scale": SCALE},
        lambda x: layer_norm(x, SCALE, 0, 1e-5),
    ),
    "rms": (
        norm.RMSNorm(epsilon=1e-2, dtype=jnp.float32),
        {"scale": SCALE},
        lambda x: rms_norm(x, SCALE, 1e-2),
    ),
    "rms_from_one": (
        norm.RMSNorm(offset=1.0, dtype=jnp.float32),
        {"scale": SCALE},
        lambda x: rms_norm(x, 1 + SCALE, 1e-6),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_norm_is_its_equation(name):
    module, params, equation = CASES[name]
    found = module.apply({"params": params}, X)
    np.testing.assert_allclose(found, equation(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_norm_starts_as_the_identity_on_normalised_rows(name):
    module, params, _ = CASES[name]
    initial = meta.unbox(module.init(jax.random.key(0), X)["params"])
    assert set(initial) == set(params)
    x = layer_norm(X, 1.0, 0.0, 0.0)
    np.testing.assert_allclose(module.apply({"params": initial}, x), x, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_norm_is_taken_in_float32_whatever_comes_in(name):
    module, params, equation = CASES[name]
    large = jnp.asarray(X * 300, jnp.bfloat16)  # whose squares lose all in bfloat16
    found = module.apply({"params": params}, large)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, equation(np.asarray(large, np.float64)), rtol=1e-4, atol=1e-4)
    assert module.clone(dtype=jnp.bfloat16).apply({"params": params}, X).dtype == jnp.bfloat16
