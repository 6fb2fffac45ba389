"""Feed-forward layers against their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from scipy import special

from bigmodel.layers import feedforward

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32) * 2

EQUATIONS = {
    "gelu": lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def test_every_activation_has_its_equation_here_and_every_gate_its_activation():
    assert set(EQUATIONS) == set(feedforward.ACTIVATIONS)
    assert set(feedforward.GATES.values()) <= set(EQUATIONS)


@pytest.mark.parametrize("name", EQUATIONS)
def test_an_activation_is_its_equation(name):
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    found = feedforward.ACTIVATIONS[name](x)
    np.testing.assert_allclose(found, EQUATIONS[name](x.astype(np.float64)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "kind, name",
    [
        (feedforward.FeedForward, "relu_squared"),
        (feedforward.GatedFeedForward, "silu"),
        (feedforward.GatedFeedForward, "gelu_tanh"),
    ],
)
def test_a_layer_is_its_equation(kind, name, bias):
    init = jax.nn.initializers.normal(0.5)
    layer = kind(6, name, bias, init, init, dtype=jnp.float32)
    params = meta.unbox(layer.init(jax.random.key(0), X)["params"])
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + draw.normal(size=x.shape).astype(np.float32), params)

    def product(x, part):
        return x @ np.float64(params[part]["kernel"]) + (params[part]["bias"] if bias else 0)

    gated = kind is feedforward.GatedFeedForward
    hidden = EQUATIONS[name](product(X, "gate" if gated else "up"))
    hidden = hidden * product(X, "up") if gated else hidden
    found = layer.apply({"params": params}, X)
    np.testing.assert_allclose(found, product(hidden, "down"), rtol=1e-4, atol=1e-4)
