"""What families share: the layer of a transformer, its norms and initializers, from their fields.

Each function takes a family's module, such as `Decoder`, and reads the fields that it is about.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bigmodel.layers import (
    attention,
    block,
    cross_attention,
    experts,
    feedforward,
    latent_attention,
    modulated,
    norm,
    router,
    self_attention,
)


def dtypes(of: Any) -> dict[str, Any]:
    return dict(dtype=jnp.dtype(of.dtype), param_dtype=jnp.dtype(of.param_dtype))


def make_norm(of: Any) -> Callable[..., nn.Module]:
    """Makes a norm, given its name."""
    if of.norm == "rms":
        options = dict(epsilon=of.norm_epsilon, offset=of.norm_offset)
        return functools.partial(norm.RMSNorm, **options, **dtypes(of))
    options = dict(epsilon=of.norm_epsilon, bias=of.norm_bias)
    return functools.partial(norm.LayerNorm, **options, **dtypes(of))


def initializers(of: Any) -> tuple:
    """Of kernels that read the residual stream, and of those that add to it."""
    if not of.init_std:
        return None, None
    scaled = (2 * of.layers) ** -0.5 if of.init_residual == "scaled" else 1.0
    normal = nn.initializers.normal
    return normal(of.init_std), normal(of.init_std * scaled)


def make_block(
    of: Any,
    *,
    dense: bool = True,
    causal: bool = True,
    cross: bool = False,
    key_bias: bool = True,
) -> block.Block:
    """One layer, outside of the family's module: its parameters are a slice of the stack."""
    return block.Block(
        attention=make_attention(of, causal=causal, key_bias=key_bias),
        feedforward=make_feedforward(of),
        experts=None if dense else make_experts(of),
        norm=make_norm(of),
        placement=of.norm_placement,
        dropout=of.dropout,
        cross=make_cross_attention(of, key_bias=key_bias) if cross else None,
        parent=None,
    )


def make_modulated_block(of: Any, *, causal: bool = True) -> modulated.ModulatedBlock:
    """One layer that a condition modulates, outside of the family's module."""
    return modulated.ModulatedBlock(
        attention=make_attention(of, causal=causal),
        feedforward=make_feedforward(of),
        modulation=functools.partial(modulated.Modulation, einsum=of.einsum, **dtypes(of)),
        epsilon=of.norm_epsilon,
        dropout=of.dropout,
        parent=None,
    )


def products(of: Any) -> dict[str, Any]:
    """What all products with kernels share."""
    kernel, out_kernel = initializers(of)
    return dict(initializer=kernel, out_initializer=out_kernel, einsum=of.einsum, **dtypes(of))


def make_attention(
    of: Any, *, causal: bool = True, key_bias: bool = True
) -> Callable[..., nn.Module]:
    """Makes the attention layer, given its name."""
    attend = attention.recomputed(of.attend) if of.remat == "attention" else of.attend
    if of.kv_rank:
        return functools.partial(
            latent_attention.LatentAttention,
            heads=of.heads,
            query_rank=of.query_rank,
            kv_rank=of.kv_rank,
            plain_dim=of.head_dim,
            rope_dim=of.rope_dim,
            value_dim=of.head_dim,
            norm_epsilon=of.norm_epsilon,
            scale=of.attention_scale or None,
            attend=attend,
            **products(of),
        )
    return functools.partial(
        self_attention.Attention,
        heads=of.heads,
        kv_heads=of.kv_heads or of.heads,
        head_dim=of.head_dim or of.width // of.heads,
        bias=of.bias if of.qkv_bias is None else of.qkv_bias,
        out_bias=of.bias,
        qk_norm=of.qk_norm,
        qk_norm_epsilon=of.norm_epsilon,
        qk_norm_offset=of.norm_offset,
        scale=of.attention_scale or None,
        softcap=of.attention_softcap,
        dropout=of.attention_dropout,
        attend=attend,
        causal=causal,
        key_bias=key_bias,
        **products(of),
    )


def make_cross_attention(of: Any, *, key_bias: bool = True) -> Callable[..., nn.Module]:
    """Makes the attention to another sequence, given its name."""
    attend = attention.recomputed(of.attend) if of.remat == "attention" else of.attend
    return functools.partial(
        cross_attention.CrossAttention,
        heads=of.heads,
        head_dim=of.head_dim or of.width // of.heads,
        bias=of.bias,
        scale=of.attention_scale or None,
        attend=attend,
        key_bias=key_bias,
        **products(of),
    )


def make_feedforward(of: Any) -> Callable[..., nn.Module]:
    """Makes the feed-forward layer, given its name."""
    gate = feedforward.GATES.get(of.feedforward)
    return functools.partial(
        feedforward.GatedFeedForward if gate else feedforward.FeedForward,
        hidden=of.hidden or 4 * of.width,
        activation=gate or of.feedforward,
        bias=of.bias,
        **products(of),
    )


def make_experts(of: Any) -> Callable[..., nn.Module]:
    """Makes the mixture of experts, given its name."""
    make_router = functools.partial(
        router.Router,
        experts=of.experts,
        chosen=of.experts_per_token,
        scores=of.router,
        normalize=of.router_normalize,
        scale=of.router_scale,
        balance=of.router_balance,
        groups=of.expert_groups,
        groups_chosen=of.expert_groups_per_token,
        capacity=of.expert_capacity,
        initializer=initializers(of)[0],
        param_dtype=jnp.dtype(of.param_dtype),
    )

    def room(length: int) -> int:
        given = (length, of.experts, of.experts_per_token, of.expert_capacity)
        return router.capacity_of(*given) if of.expert_capacity else 0

    return functools.partial(
        experts.Experts,
        experts=of.experts,
        hidden=of.expert_hidden or of.hidden or 4 * of.width,
        activation=feedforward.GATES[of.feedforward],
        shared=of.shared_experts,
        router=make_router,
        room=room,
        compute=of.compute_experts,
        **products(of),
    )
