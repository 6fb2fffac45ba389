"""Multi-head latent attention: queries, keys and values out of narrow vectors."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers import attention
from bigmodel.layers.linear import Einsum, Initializer
from bigmodel.layers.norm import RMSNorm
from bigmodel.layers.positions import rotate
from bigmodel.layers.self_attention import attend_or_extend


class LatentAttention(nn.Module):
    """Attention whose heads are made from a latent query and a latent key-value.  [B, T, D] -> same

    DeepSeek-AI 2024, DeepSeek-V2 (arXiv:2405.04434), section 2.1 and eq. 37 to 47: a head's
    query and key have a part without position, and one that is turned by it; the turned key is one
    for all heads. The cache holds the heads' own keys and values.

    Attributes:
        heads: H.
        query_rank: width of the latent query.
        kv_rank: width of the latent key-value.
        plain_dim: of the part of a head's query and key without position.
        rope_dim: of the part that is turned.
        value_dim: of a head's value.
        norm_epsilon: of the norms of the latents.
        scale: of the scores; None: (plain_dim + rope_dim)^-1/2.
        attend: the implementation, `attention.reference` or one with its contract.
        initializer: of the kernels in.
        out_initializer: of the kernel out.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `linear.Einsum`.
    """

    heads: int
    query_rank: int
    kv_rank: int
    plain_dim: int
    rope_dim: int
    value_dim: int
    norm_epsilon: float
    scale: float | None
    attend: attention.Attend
    initializer: Initializer | None
    out_initializer: Initializer | None
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array | None,
        angles: tuple[jax.Array, jax.Array] | None,
        keys: jax.Array | None,
        *,
        window: int,
        layer: jax.Array | int,
        cache: dict[str, jax.Array] | None,
        seen: Mapping[str, jax.Array] = types.MappingProxyType({}),
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        del keys  # no probability is dropped
        plain, H = self.plain_dim, self.heads
        latent = self.narrow(x, "query_down", self.query_rank)
        q = self.widen(self.normalise(latent, "query_norm"), "query", plain + self.rope_dim)
        latent = self.narrow(x, "kv_down", self.kv_rank + self.rope_dim)
        latent, turned_k = latent[..., : self.kv_rank], latent[..., None, self.kv_rank :]
        kv = self.widen(self.normalise(latent, "kv_norm"), "key_value", plain + self.value_dim)
        plain_k, v = kv[..., :plain], kv[..., plain:]
        plain_q, turned_q = q[..., :plain], q[..., plain:]
        if angles is not None:
            turned_q, turned_k = rotate(turned_q, angles), rotate(turned_k, angles)
        turned_k = jnp.broadcast_to(turned_k, (*turned_k.shape[:2], H, self.rope_dim))
        q = jnp.concatenate([plain_q, turned_q], axis=-1)
        k = jnp.concatenate([plain_k, turned_k], axis=-1)

        options: dict[str, Any] = dict(window=window, scale=self.scale) | dict(seen)
        out, cache = attend_or_extend(self.attend, q, k, v, segments, layer, cache, **options)
        out = nn.with_logical_constraint(out, ("batch", "length", "act_heads", None))
        product = Einsum(
            equation="BTHC,HCD->BTD",
            shape=(H, self.value_dim, x.shape[-1]),
            axes=("heads", "head_dim", "embed"),
            initializer=self.out_initializer,
            **self.how(),
            name="out",
        )
        return checkpoint_name(product(out), "out"), cache

    def narrow(self, x: jax.Array, name: str, rank: int) -> jax.Array:
        shape, axes = (x.shape[-1], rank), ("embed", "latent")
        how = self.how()
        return Einsum("BTD,DR->BTR", shape, axes, self.initializer, **how, name=name)(x)

    def widen(self, latent: jax.Array, name: str, dim: int) -> jax.Array:
        """Heads of a width, under a name that remat policies may save."""
        shape, axes = (latent.shape[-1], self.heads, dim), ("latent", "heads", "head_dim")
        product = Einsum("BTR,RHC->BTHC", shape, axes, self.initializer, **self.how(), name=name)
        y = nn.with_logical_constraint(product(latent), ("batch", "length", "act_heads", None))
        return checkpoint_name(y, name)

    def normalise(self, x: jax.Array, name: str) -> jax.Array:
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return RMSNorm(self.norm_epsilon, **dtypes, name=name)(x)

    def how(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype, einsum=self.einsum)
