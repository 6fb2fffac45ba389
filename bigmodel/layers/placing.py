"""Vectors that are not of tokens, put into a sequence of those that are."""

import jax
import jax.numpy as jnp


def placed(x: jax.Array, patches: jax.Array, image_positions: jax.Array) -> jax.Array:
    """x with patch p of a row at its index image_positions[p]; one below 0 goes nowhere.

    A product, not a scatter: that and its gradient stay on the device of the row.

    Args:
        x: [B, T, D].
        patches: [B, P, D].
        image_positions: int32 [B, P], no index twice.
    """
    here = image_positions[:, None] == jnp.arange(x.shape[1])[None, :, None]  # [B, T, P]
    exact = jax.lax.Precision.HIGHEST  # each sum has one term, which is to stay as it is
    there = jnp.einsum(
        "BTP,BPD->BTD", here.astype(x.dtype), patches.astype(x.dtype), precision=exact
    )
    return jnp.where(here.any(-1)[..., None], there, x)
