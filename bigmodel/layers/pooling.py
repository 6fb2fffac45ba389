"""A sequence into one vector, by attention."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers.parameter import parameter


class AttentionPooling(nn.Module):
    """A learned query sees all tokens; a feed-forward layer follows.  [B, T, D] -> [B, D]

    Zhai et al. 2022, "Scaling Vision Transformers" (arXiv:2106.04560), section 2.2.

    Attributes:
        attention: makes the cross attention, given its name.
        norm: makes a norm, given its name.
        feedforward: makes the feed-forward layer, given its name.
        param_dtype: of the query as stored.
    """

    attention: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, segments: jax.Array | None = None) -> jax.Array:
        """x [B, T, D] with segments [B, T], 0 for padding, into [B, D]."""
        axes, init = ("positions", "norm"), nn.initializers.xavier_uniform()
        query = parameter(self, "query", axes, init, (1, x.shape[-1]), self.param_dtype)
        query = jnp.broadcast_to(query.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        pooled = self.attention(name="attention")(query, None, x, segments, layer=0, cache=None)
        pooled = pooled + self.feedforward(name="feedforward")(self.norm(name="norm")(pooled))
        return pooled[:, 0]
