"""The attention layer: projections, what is done to queries and keys, and the cache."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers import attention, attention_bands
from bigmodel.layers.dropout import site_keys
from bigmodel.layers.linear import Einsum, Initializer
from bigmodel.layers.norm import LayerNorm, RMSNorm
from bigmodel.layers.positions import rotate


class Attention(nn.Module):
    """W_out attend(W_q x, W_k x, W_v x).  [B, T, D] -> [B, T, D]

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2; with K < H key and value heads: Ainslie
    et al. 2023 (arXiv:2305.13245); QK-norm: Dehghani et al. 2023 (arXiv:2302.05442), section 2.

    Attributes:
        heads: H.
        kv_heads: K, divides H.
        head_dim: C.
        bias: whether the products into q, k and v have one.
        key_bias: whether that of k has one too; the softmax does not feel it.
        out_bias: whether the product out has one.
        qk_norm: "none", or how each head's query and key are normalised: "rms", "layer".
        qk_norm_epsilon: of that normalisation.
        qk_norm_offset: see `RMSNorm`.
        scale: of the scores; None: C^-1/2.
        softcap: 0, or the bound of the scores.
        dropout: rate for probabilities.
        causal: whether a token sees no later one.
        attend: the implementation, `attention.reference` or one with its contract.
        initializer: of the kernels in.
        out_initializer: of the kernel out.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `Einsum`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool
    out_bias: bool
    qk_norm: str
    qk_norm_epsilon: float
    qk_norm_offset: float
    scale: float | None
    softcap: float
    dropout: float
    attend: attention.Attend
    initializer: Initializer
    out_initializer: Initializer
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum
    causal: bool = True
    key_bias: bool = True

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
        q = self.project(x, "query", self.heads, "heads")
        k = self.project(x, "key", self.kv_heads, "kv_heads")
        v = self.project(x, "value", self.kv_heads, "kv_heads")
        if self.qk_norm != "none":
            q, k = self.normalise(q, "query_norm"), self.normalise(k, "key_norm")
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)

        options: dict[str, Any] = dict(window=window, scale=self.scale, softcap=self.softcap)
        options |= seen
        if not self.causal:
            options["causal"] = False
        if cache is None:
            options |= dict(dropout=self.dropout, keys=site_keys(keys, 3))
        out, cache = attend_or_extend(self.attend, q, k, v, segments, layer, cache, **options)
        out = nn.with_logical_constraint(out, ("batch", "length", "act_heads", None))

        product = Einsum(
            equation="BTHC,HCD->BTD",
            shape=(self.heads, self.head_dim, x.shape[-1]),
            axes=("heads", "head_dim", "embed"),
            initializer=self.out_initializer,
            bias_axes=("norm",) if self.out_bias else None,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            einsum=self.einsum,
            name="out",
        )
        return checkpoint_name(product(out), "out"), cache

    def project(self, x: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        biased = self.bias and (self.key_bias or name != "key")
        product = Einsum(
            equation="BTD,DHC->BTHC",
            shape=(x.shape[-1], heads, self.head_dim),
            axes=("embed", axis, "head_dim"),
            initializer=self.initializer,
            bias_axes=(axis, "head_dim") if biased else None,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            einsum=self.einsum,
            name=name,
        )
        y = nn.with_logical_constraint(product(x), ("batch", "length", f"act_{axis}", None))
        return checkpoint_name(y, name)

    def normalise(self, x: jax.Array, name: str) -> jax.Array:
        dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        if self.qk_norm == "rms":
            options = dict(epsilon=self.qk_norm_epsilon, offset=self.qk_norm_offset)
            return RMSNorm(**options, axis="head_dim", **dtypes, name=name)(x)
        return LayerNorm(self.qk_norm_epsilon, bias=False, axis="head_dim", **dtypes, name=name)(x)


def attend_or_extend(
    attend: attention.Attend,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    layer: jax.Array | int,
    cache: dict[str, jax.Array] | None,
    **options: Any,
) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """Attention among the tokens that are here, or with a cache to all that came before them."""
    if cache is None:
        return attend(q, k, v, segments, **options), None
    cache = extend(cache, layer, k, v)
    k, v = cache["key"][layer], cache["value"][layer]
    # A prompt is long, one token more is not.
    attend = attention_bands.chunked if q.shape[1] > 1 else attention.reference
    options |= dict(offset=cache["index"])
    return attend(q, k, v, segments, cache["segments"], **options), cache


def extend(cache: dict, layer: jax.Array | int, k: jax.Array, v: jax.Array) -> dict:
    """The cache with keys and values [B, T, K, C] of one layer written at its index.

    The whole stack [layers, B, S, K, C] is the carry of the layers' loop, written in place: as a
    scanned input and output all of it would be copied for every token.
    """
    at = (layer, 0, cache["index"], 0, 0)

    def write(stack, new):
        return jax.lax.dynamic_update_slice(stack, new[None].astype(stack.dtype), at)

    return cache | {"key": write(cache["key"], k), "value": write(cache["value"], v)}
