"""A layer whose norms are shifted and scaled, and its sums gated, by a condition of the row."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers.block import Block
from bigmodel.layers.dropout import dropout
from bigmodel.layers.linear import Einsum
from bigmodel.layers.norm import standardised


class Modulation(nn.Module):
    """Shifts, scales and gates of a condition: W silu(c) + b, in parts.  [B, D] -> n of [B, 1, D]

    Peebles and Xie 2023 (arXiv:2212.09748), section 3.2, "adaLN-Zero": all zero at the start.

    Attributes:
        parts: n.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    parts: int
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, condition: jax.Array) -> list[jax.Array]:
        D = condition.shape[-1]
        product = Einsum(
            equation="BD,DF->BF",
            shape=(D, self.parts * D),
            axes=("embed", "mlp"),
            initializer=nn.initializers.zeros,
            bias_axes=("mlp",),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            einsum=self.einsum,
            name="product",
        )
        # Brought together where it is cut: a vector a row, beside the [B, T, D] that it modulates.
        made = nn.with_logical_constraint(product(nn.silu(condition)), ("batch", "act_embed"))
        return jnp.split(made[:, None], self.parts, axis=-1)


class ModulatedBlock(nn.Module):
    """Attention, then feed-forward, modulated by a condition.  [B, T, D], [B, D] -> [B, T, D]

    x + gate * f(norm(x) (1 + scale) + shift), of each of the two its own gate, scale and shift; at
    the start the gates are zero and the block changes nothing. Peebles and Xie 2023
    (arXiv:2212.09748), section 3.2 and figure 3; the norm has no parameters.

    Attributes:
        attention: makes the attention layer, given its name.
        feedforward: makes the feed-forward layer, given its name.
        modulation: makes the `Modulation`, given its parts and name.
        epsilon: of the norms.
        dropout: rate on what each of the two layers adds.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    modulation: Callable[..., nn.Module]
    epsilon: float
    dropout: float

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array | None,
        angles: tuple[jax.Array, jax.Array] | None,
        keys: jax.Array | None,
        *,
        condition: jax.Array,
        indices: jax.Array | None = None,
        layer: jax.Array | int = 0,
        cache: dict[str, jax.Array] | None = None,
        seen: Mapping[str, jax.Array] = types.MappingProxyType({}),
    ) -> tuple[jax.Array, dict[str, jax.Array] | None, dict[str, Any]]:
        """As `Block`, whose arguments these are, with the row's condition [B, D]."""

        def drop(x: jax.Array, site: int) -> jax.Array:
            return dropout(x, keys, rate=self.dropout, site=site, indices=indices)

        shift, scale, gate, *rest = self.modulation(6, name="modulation")(condition)

        x = checkpoint_name(x, "input")
        added = modulated(x, shift, scale, epsilon=self.epsilon)
        how: dict[str, Any] = dict(window=0, layer=layer, cache=cache, seen=seen)
        added, cache = self.attention(name="attention")(added, segments, angles, keys, **how)
        x = x + gate * drop(added, 1)
        x = checkpoint_name(Block.constrain(x), "residual")

        shift, scale, gate = rest
        added = modulated(x, shift, scale, epsilon=self.epsilon)
        x = x + gate * drop(self.feedforward(name="feedforward")(added), 2)
        return Block.constrain(x), cache, {}


def modulated(x: jax.Array, shift: jax.Array, scale: jax.Array, *, epsilon: float) -> jax.Array:
    """norm(x) (1 + scale) + shift, in float32.  [B, T, D] -> [B, T, D]"""
    return (standardised(x, epsilon) * (1 + scale) + shift).astype(x.dtype)
