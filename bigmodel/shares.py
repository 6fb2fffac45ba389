"""Sums over the rows of a batch, whose devices each add up their own share before all are summed.

Said outright, because a compiler does not find it: it sums a parameter's gradient over the devices
in every turn of a loop, or in float32 where it goes on in bfloat16.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax


def axes_of_rows(rows: int) -> tuple[tuple[str, ...], int]:
    """Mesh axes over which the rows of a batch lie, and the number of shares: () and 1 if none.

    Of the mesh and the rules in whose context it is called.
    """
    axes = nn.logical_to_mesh_axes(("batch",))[0] or ()
    axes = (axes,) if isinstance(axes, str) else tuple(axes)
    sizes = jax.sharding.get_abstract_mesh().shape
    shares = math.prod(sizes.get(axis, 1) for axis in axes)
    return (axes, shares) if shares > 1 and rows % shares == 0 else ((), 1)


def cut(x: jax.Array, shares: int, axis: int = 0) -> jax.Array:
    """[..., B, ...] -> [..., shares, B / shares, ...]"""
    return x.reshape(*x.shape[:axis], shares, -1, *x.shape[axis + 1 :])


def joined(x: jax.Array, axis: int = 0) -> jax.Array:
    """The inverse of `cut`."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def each(
    function: Callable[..., Any], axes: tuple[str, ...], in_axes: Any = 0
) -> Callable[..., Any]:
    """`function` of every share by itself, for which the mesh has no other axes than the rest."""
    if not axes:
        return jax.vmap(function, in_axes)

    def of_share(*args):
        rules = nn.get_logical_axis_rules()
        with nn.logical_axis_rules([(name, without(axes, cut)) for name, cut in rules]):
            return function(*args)

    return jax.vmap(of_share, in_axes, spmd_axis_name=axes)


def without(
    axes: tuple[str, ...], cut: str | tuple[str, ...] | None
) -> str | tuple[str, ...] | None:
    """The mesh axes of a rule that are none of `axes`."""
    cut = (cut,) if isinstance(cut, str) else cut or ()
    return tuple(axis for axis in cut if axis not in axes) or None


def total(x: jax.Array, dtype: Any) -> jax.Array:
    """[shares, ...] -> [...]: the sum over shares, sent in `dtype`."""
    x = x.astype(dtype)
    return jax.lax.reduce(x, x.dtype.type(0), jax.lax.add, (0,))
