"""What an objective is.

It is `objective(params, batch, rng) -> (loss sum, sums)` with `sums["weight"]`: the step divides
one by the other over the whole mesh, so that accumulation, padding and meshes cannot change the
number.
`rng` is None where nothing is random (evaluation).
"""

from collections.abc import Callable
from typing import Any

import jax

Sums = dict[str, jax.Array]
Objective = Callable[[Any, dict, jax.Array | None], tuple[jax.Array, Sums]]


def rngs(rng: jax.Array | None) -> dict[str, jax.Array] | None:
    """The step's key as a model's `apply` takes it: for dropout."""
    return None if rng is None else {"dropout": rng}
