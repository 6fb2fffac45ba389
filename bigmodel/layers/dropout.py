"""Dropout whose masks are addressed by row: any mesh, microbatch or loop draws the same ones."""

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


def dropout(x: jax.Array, keys: jax.Array | None, *, rate: float, site: int) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".

    Args:
        x: [B, ...].
        keys: one key per row [B] from `row_keys`; None: x comes back unchanged.
        rate: probability that an element is dropped.
        site: number of the place inside the layer, so that two places draw other masks.
    """
    if keys is None or rate == 0.0:
        return x

    def keep_row(key):
        return jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(keep_row)(keys), x / (1.0 - rate), 0).astype(x.dtype)
