"""Items that stand for all others: drawn on the device, each token's by a key of its own."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

# What a key is folded with before any row: no layer has this number (layers/dropout.py).
PLACE = 2**31 - 1


def uniform(key: jax.Array, number: int, items: int) -> jax.Array:
    """Items 1 to `items`, each as likely.  -> int32 [number]"""
    return jax.random.randint(key, (number,), 1, items + 1)


def log_uniform(key: jax.Array, number: int, items: int) -> jax.Array:
    """Item k with probability log(1 + 1/k) / log(items + 1), as if k were its rank by frequency."""
    place = jax.random.uniform(key, (number,)) * math.log(items + 1)
    return jnp.clip(jnp.exp(place).astype(jnp.int32), 1, items)


# name -> (what draws, log of an item's probability)
DRAWS: dict[str, tuple[Callable[..., jax.Array], Callable[..., jax.Array]]] = {
    "uniform": (uniform, lambda ids, items: jnp.full(ids.shape, -math.log(items))),
    "log_uniform": (
        log_uniform,
        lambda ids, items: jnp.log(jnp.log1p(1 / ids)) - math.log(math.log(items + 1)),
    ),
}


def drawn(
    key: jax.Array, how: str, *, number: int, items: int, rows: jax.Array, indices: jax.Array
) -> jax.Array:
    """Independent draws for each token, whatever the mesh and the order: int32 [B, T, number].

    Args:
        key: of the step.
        how: a name of DRAWS.
        number: of items a token.
        items: they are 1 to this.
        rows: int32 [B], each row's index in the global batch.
        indices: int32 [B, T], each token's index in its row.
    """
    key = jax.random.fold_in(key, PLACE)
    draw, _ = DRAWS[how]

    def of_row(row, indices):
        of_row = jax.random.fold_in(key, row)
        return jax.vmap(lambda i: draw(jax.random.fold_in(of_row, i), number, items))(indices)

    return jax.vmap(of_row)(rows, indices)
