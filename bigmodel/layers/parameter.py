"""The parameters of layers, each with the names of its axes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike


def parameter(
    of: nn.Module,
    name: str,
    axes: tuple[str, ...],
    initializer: Initializer,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """A parameter of the module in whose `__call__` this is.

    One that was drawn before is held to its shape alone: flax would trace how it is drawn to do so,
    whenever a step is traced.

    Args:
        axes: their logical names, one for each of the shape (see sharding/rules.py).

    Raises:
        ValueError: what was drawn before has another shape.
    """
    if not of.has_variable("params", name):
        return of.param(
            name, nn.with_logical_partitioning(initializer, axes), shape, jnp.dtype(dtype)
        )
    there = nn.meta.unbox(of.get_variable("params", name))
    if there.shape != shape:
        path = "/".join((*of.path, name))
        raise ValueError(f"{path}: the model's is {shape}, the parameters' {there.shape}")
    return there
