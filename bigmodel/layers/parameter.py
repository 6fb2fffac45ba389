"""The parameters of layers, each with the names of its axes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike


def parameter(
    of: nn.Module,
    name: str,
    axes: tuple[str, ...],
    init: Initializer,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """A parameter of a module, as `nn.Module.param` makes it, boxed.

    One that was drawn before is held to its shape alone: flax would trace how it is drawn to do so,
    whenever a step is traced.

    Args:
        of: the module in whose `__call__` this is.
        name: of the parameter.
        axes: logical names, one for each of the shape (see sharding/rules.py).
        init: what draws it.
        shape: of it.
        dtype: as stored.

    Raises:
        ValueError: what was drawn before has another shape.
    """
    there = drawn(of, name)
    if there is None:
        boxed = nn.with_logical_partitioning(init, axes)
        return of.param(name, boxed, tuple(shape), jnp.dtype(dtype))
    if np.shape(there) != tuple(shape):
        raise ValueError(
            f"{'/'.join((*of.path, name))}: a parameter has the shape that the model's fields say, "
            f"{tuple(shape)}; found {np.shape(there)}. Load what was trained with these fields."
        )
    return there


def drawn(of: nn.Module, name: str) -> Any:
    """A module's parameter that was drawn before, or None.

    While parameters are drawn it is None: flax then refuses a name that is taken.
    """
    if of.is_initializing() or not of.has_variable("params", name):
        return None
    return nn.meta.unbox(of.get_variable("params", name))
