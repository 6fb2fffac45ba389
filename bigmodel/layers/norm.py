"""Normalisation over the width, in float32 whatever comes in."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers.parameter import parameter


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias.  [..., D] -> [..., D]

    Ba, Kiros and Hinton 2016, "Layer Normalization" (arXiv:1607.06450), eq. 4.

    Attributes:
        epsilon: added to the variance.
        bias: whether there is one.
        axis: logical axis of scale and bias.
        dtype: dtype of what comes out.
        param_dtype: dtype of scale and bias as stored.
    """

    epsilon: float = 1e-5
    bias: bool = True
    axis: str = "norm"
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = parameter(self, "scale", (self.axis,), ones, shape, self.param_dtype)
        y = standardised(x, self.epsilon) * scale
        if self.bias:
            y = y + parameter(self, "bias", (self.axis,), zeros, shape, self.param_dtype)
        return y.astype(self.dtype)


def standardised(x: jax.Array, epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon), without parameters.  [..., D] -> float32 [..., D]"""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * (offset + scale).  [..., D] -> [..., D]

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv:1910.07467), eq. 4.

    Attributes:
        epsilon: added to the mean square.
        offset: 1 where the scale is stored as its distance from one (Gemma), else 0.
        axis: logical axis of the scale.
        dtype: dtype of what comes out.
        param_dtype: dtype of the scale as stored.
    """

    epsilon: float = 1e-6
    offset: float = 0.0
    axis: str = "norm"
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.constant(1.0 - self.offset)
        given = (self.axis,), start, x.shape[-1:], self.param_dtype
        scale = parameter(self, "scale", *given) + self.offset
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale).astype(self.dtype)
