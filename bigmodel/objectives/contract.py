"""What an objective is.

It is `objective(params, batch, rng) -> (loss sum, sums)` with `sums["weight"]`: the step divides
one by the other over the whole mesh, so that accumulation, padding and meshes cannot change the
number.
`rng` is None where nothing is random (evaluation).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]
Objective = Callable[[Any, dict, jax.Array | None], tuple[jax.Array, Sums]]


NEVER = -1e30  # a logit that no softmax feels; finite, so that a weight of 0 makes it nothing


def weights_of(batch: dict[str, jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """What counts of each target: "weights", float of that shape; without them all count."""
    return batch.get("weights", jnp.ones(shape, jnp.float32))


def rngs(rng: jax.Array | None) -> dict[str, jax.Array] | None:
    """The step's key as a model's `apply` takes it: for dropout."""
    return None if rng is None else {"dropout": rng}
