"""Dropout whose masks are addressed by row and place in it: whatever the mesh, order or loop."""

import jax
import jax.numpy as jnp


def row_keys(key: jax.Array | None, layer: jax.Array | int, rows: jax.Array) -> jax.Array | None:
    """One key per row of the batch for a layer: fold_in(fold_in(key, layer), row).

    Args:
        key: the step's key; None: no dropout, and None comes back.
        layer: number of the layer in its stack.
        rows: int32 [B], each row's index in the global batch.

    Returns:
        Keys [B].
    """
    if key is None:
        return None
    layer_key = jax.random.fold_in(key, layer)
    return jax.vmap(lambda row: jax.random.fold_in(layer_key, row))(rows)


def site_keys(keys: jax.Array | None, site: int) -> jax.Array | None:
    """Keys of one place inside the layer, from those of the layer: two places draw other masks."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, site))(keys)


def dropout(
    x: jax.Array,
    keys: jax.Array | None,
    *,
    rate: float,
    site: int,
    indices: jax.Array | None = None,
) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".
    Each token draws with a key of its own, so that a length in another order, or cut over a mesh,
    draws the same masks, each device its own part of them.

    Args:
        x: [B, T, D].
        keys: one key per row [B] from `row_keys`; None: x comes back unchanged.
        rate: probability that an element is dropped.
        site: number of the place inside the layer; attention's probabilities are number 3.
        indices: int32 [B or 1, T], each token's index in its row; None: 0 to T - 1.
    """
    if keys is None or rate == 0.0:
        return x
    indices = jnp.arange(x.shape[1])[None] if indices is None else indices
    indices = jnp.broadcast_to(indices, x.shape[:2])

    def keep_token(key, index):
        return jax.random.bernoulli(jax.random.fold_in(key, index), 1.0 - rate, x.shape[2:])

    def keep_row(key, indices):
        return jax.vmap(lambda index: keep_token(key, index))(indices)

    keep = jax.vmap(keep_row)(site_keys(keys, site), indices)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
