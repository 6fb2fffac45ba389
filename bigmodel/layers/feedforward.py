"""The layer between attentions: two or three products and a nonlinearity."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers.linear import Einsum, Initializer


def relu_squared(x: jax.Array) -> jax.Array:
    """max(x, 0)^2; So et al. 2021, "Primer" (arXiv:2109.08668)."""
    return jnp.square(jax.nn.relu(x))


def gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), exact; Hendrycks and Gimpel 2016 (arXiv:1606.08415)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh form of GELU, that of GPT-2."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), GELU's first approximation in its paper; that of CLIP's weights."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu_squared": relu_squared,
    "silu": jax.nn.silu,
}

# The gated layers of Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), by the
# activation of their gate.
GATES = {"swiglu": "silu", "geglu": "gelu_tanh", "reglu": "relu"}


class FeedForward(nn.Module):
    """W_down f(W_up x).  [B, T, D] -> [B, T, D]

    Vaswani et al. 2017 (arXiv:1706.03762), eq. 2.

    Attributes:
        hidden: F, the width between the two products.
        activation: a name of ACTIVATIONS.
        bias: whether the products have one.
        initializer: of the kernel that goes up.
        out_initializer: of the kernel that comes back.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    hidden: int
    activation: str
    bias: bool
    initializer: Initializer
    out_initializer: Initializer
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        up = wide(self, x, "up")
        return narrow(self, ACTIVATIONS[self.activation](up), x.shape[-1])


class GatedFeedForward(nn.Module):
    """W_down (f(W_gate x) * W_up x).  [B, T, D] -> [B, T, D]

    Shazeer 2020, "GLU Variants Improve Transformer" (arXiv:2002.05202), eq. 6.

    Attributes:
        hidden: F, the width between the products; 8/3 D keeps the parameter count of a plain
            feed-forward layer with F = 4 D.
        activation: of the gate, a name of ACTIVATIONS.
        bias: whether the products have one.
        initializer: of the kernels that go up.
        out_initializer: of the kernel that comes back.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    hidden: int
    activation: str
    bias: bool
    initializer: Initializer
    out_initializer: Initializer
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = wide(self, x, "gate")
        up = wide(self, x, "up")
        return narrow(self, ACTIVATIONS[self.activation](gate) * up, x.shape[-1])


def wide(layer: FeedForward | GatedFeedForward, x: jax.Array, name: str) -> jax.Array:
    """A product from the width to the hidden width, under a name that remat policies may save."""
    shape, axes = (x.shape[-1], layer.hidden), ("embed", "mlp")
    bias_axes = ("mlp",) if layer.bias else None
    how = (layer.dtype, layer.param_dtype, layer.einsum)
    product = Einsum("BTD,DF->BTF", shape, axes, layer.initializer, bias_axes, *how, name=name)
    y = nn.with_logical_constraint(product(x), ("batch", "length", "act_mlp"))
    return checkpoint_name(y, name)


def narrow(layer: FeedForward | GatedFeedForward, hidden: jax.Array, width: int) -> jax.Array:
    """The product back to the width."""
    shape, axes = (layer.hidden, width), ("mlp", "embed")
    bias_axes = ("norm",) if layer.bias else None
    how = (layer.dtype, layer.param_dtype, layer.einsum)
    equation, initializer = "BTF,FD->BTD", layer.out_initializer
    product = Einsum(equation, shape, axes, initializer, bias_axes, *how, name="down")
    return checkpoint_name(product(hidden), "down")
