"""Attention from one sequence to another, whose keys and values a cache may hold already."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import attention
from bigmodel.layers.linear import Einsum, Initializer


class CrossAttention(nn.Module):
    """W_out attend(W_q x, W_k m, W_v m): each of x sees all of a memory m.  [B, T, D] -> [B, T, D]

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.3, "encoder-decoder attention".

    Attributes:
        heads: H.
        head_dim: C.
        bias: whether the products have one.
        key_bias: whether that of the keys has one too.
        scale: of the scores; None: C^-1/2.
        attend: the implementation, `attention.reference` or one with its contract.
        initializer: of the kernels in.
        out_initializer: of the kernel out.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    heads: int
    head_dim: int
    bias: bool
    scale: float | None
    attend: attention.Attend
    initializer: Initializer
    out_initializer: Initializer
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array | None,
        memory: jax.Array | None,
        memory_segments: jax.Array | None,
        *,
        layer: jax.Array | int,
        cache: dict[str, jax.Array] | None,
    ) -> jax.Array:
        """x with what it saw.

        Args:
            x: [B, T, D].
            segments: int32 [B, T]; a token sees the memory of its own number. None: all is one.
            memory: [B, S, D]; not read with a cache.
            memory_segments: int32 [B, S], 0 for padding; None: all is one.
            layer: number of this layer in the cache.
            cache: None, or with `memory_key`, `memory_value` [layers, B, S, H, C] and
                `memory_segments`, as `keys_and_values` made them.
        """
        q = project(self, "query", x)
        if cache is None:
            k, v = project(self, "key", memory), project(self, "value", memory)
        else:
            k, v = cache["memory_key"][layer], cache["memory_value"][layer]
            memory_segments = cache["memory_segments"]
        # Without segments of its own a token sees all that is no padding.
        if segments is None and memory_segments is not None:
            segments = jnp.ones(x.shape[:2], jnp.int32)
        out = self.attend(q, k, v, segments, memory_segments, causal=False, scale=self.scale)
        out = nn.with_logical_constraint(out, ("batch", "length", "act_heads", None))
        return Einsum(
            equation="BTHC,HCD->BTD",
            shape=(self.heads, self.head_dim, x.shape[-1]),
            axes=("heads", "head_dim", "embed"),
            initializer=self.out_initializer,
            bias_axes=("norm",) if self.bias else None,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            einsum=self.einsum,
            name="out",
        )(out)


def project(layer: CrossAttention, name: str, x: jax.Array | None) -> jax.Array:
    """The heads of a query, key or value.  [B, T, D] -> [B, T, H, C]"""
    if x is None:
        raise ValueError("cross attention needs a memory, or a cache that holds its keys")
    biased = layer.bias and (layer.key_bias or name != "key")
    product = Einsum(
        equation="BTD,DHC->BTHC",
        shape=(x.shape[-1], layer.heads, layer.head_dim),
        axes=("embed", "heads", "head_dim"),
        initializer=layer.initializer,
        bias_axes=("heads", "head_dim") if biased else None,
        dtype=layer.dtype,
        param_dtype=layer.param_dtype,
        einsum=layer.einsum,
        name=name,
    )
    return nn.with_logical_constraint(product(x), ("batch", "length", "act_heads", None))


def keys_and_values(params: dict, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of all layers, for a cache.  [B, S, D] -> two of [layers, B, S, H, C]

    Args:
        params: of a stack's cross attention, each with a leading axis of layers.
        memory: what the encoder made.
    """

    def one(name: str) -> jax.Array:
        kernel = params[name]["kernel"].astype(memory.dtype)
        heads = jnp.einsum("BSD,LDHC->LBSHC", memory, kernel)
        if "bias" in params[name]:
            heads += params[name]["bias"].astype(memory.dtype)[:, None, None]
        return nn.with_logical_constraint(heads, ("layers", "batch", None, "act_heads", None))

    return one("key"), one("value")
