"""What decoders that see another sequence share: whose it is, and the cache that holds it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import cross_attention
from bigmodel.models.handle import Batch, Params


def segments_of(memory: jax.Array, segments: jax.Array | None, batch: Batch) -> jax.Array | None:
    """The documents of a memory [B, S, D] where its own are not said: all of one, as the tokens'.

    None: neither has any, and all is seen.
    """
    if segments is None and "segments" in batch:
        return jnp.ones(memory.shape[:2], jnp.int32)
    return segments


def new(
    of: Any, params: Params, memory: jax.Array, segments: jax.Array | None, length: int
) -> dict[str, jax.Array]:
    """A cache that is empty, but for the memory's keys and values in every layer.

    Args:
        of: the family's module, of whose fields it reads `layers`, `heads` and `dtype`.
        params: the family's.
        memory: what the encoder made [B, S, D].
        segments: of the memory, int32 [B, S]; None: all is one.
        length: tokens a row that it has room for.
    """
    B, S = memory.shape[:2]
    memory_key, memory_value = cross_attention.keys_and_values(params["layers"]["cross"], memory)
    axes = ("layers", "batch", None, "act_kv_heads", None)
    empty = jnp.zeros((of.layers, B, length, *memory_key.shape[3:]), jnp.dtype(of.dtype))
    empty = nn.with_logical_constraint(empty, axes)
    return {
        "key": empty,
        "value": empty,
        "segments": jnp.zeros((B, length), jnp.int32),
        "index": jnp.int32(0),
        "memory_key": memory_key,
        "memory_value": memory_value,
        "memory_segments": jnp.ones((B, S), jnp.int32) if segments is None else segments,
    }


def noted(
    cache: dict[str, jax.Array], segments: jax.Array | None, tokens: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The segments of the next tokens [B, T], None for all of one, and the cache with them in."""
    segments = jnp.ones_like(tokens) if segments is None else segments
    seen = jax.lax.dynamic_update_slice(cache["segments"], segments, (0, cache["index"]))
    return segments, cache | {"segments": seen}
