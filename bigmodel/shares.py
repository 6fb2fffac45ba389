"""Sums over the tokens of a batch, whose devices each add up their own share before all are summed.

Said outright, because a compiler does not find it: it sums a parameter's gradient over the devices
in every turn of a loop, or in float32 where it goes on in bfloat16.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Shares(NamedTuple):
    """How the tokens [B, T] of a batch lie on the mesh.

    Attributes:
        axes: of the mesh, over which they are cut; the rows' first.
        row_parts: into how many B is cut.
        length_parts: into how many T is.
    """

    axes: tuple[str, ...]
    row_parts: int
    length_parts: int

    @property
    def number(self) -> int:
        return self.row_parts * self.length_parts

    def cut(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """[..., B, T, ...], B at `axis` -> [..., number, B / row_parts, T / length_parts, ...]"""
        B, T = x.shape[axis] // self.row_parts, x.shape[axis + 1] // self.length_parts
        before, after = x.shape[:axis], x.shape[axis + 2 :]
        x = x.reshape(*before, self.row_parts, B, self.length_parts, T, *after)
        return jnp.moveaxis(x, axis + 2, axis + 1).reshape(*before, self.number, B, T, *after)

    def joined(self, x: jax.Array, axis: int = 0) -> jax.Array:
        """The inverse of `cut`."""
        _, B, T = x.shape[axis : axis + 3]
        before, after = x.shape[:axis], x.shape[axis + 3 :]
        x = x.reshape(*before, self.row_parts, self.length_parts, B, T, *after)
        x = jnp.moveaxis(x, axis + 1, axis + 2)
        return x.reshape(*before, self.row_parts * B, self.length_parts * T, *after)

    def each(self, function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """`function` of every share by itself; within it the mesh has no axes but the rest."""
        if not self.axes:
            return jax.vmap(function, in_axes)

        def of_share(*args):
            rules = [(name, without(self.axes, cut)) for name, cut in nn.get_logical_axis_rules()]
            with nn.logical_axis_rules(rules):
                return function(*args)

        return jax.vmap(of_share, in_axes, spmd_axis_name=self.axes)


def of(rows: int, length: int) -> Shares:
    """The shares of tokens [rows, length] by mesh and rules, in whose context it is called."""
    rows_over, row_parts = axes_of("batch", rows)
    length_over, length_parts = axes_of("length", length)
    return Shares(rows_over + length_over, row_parts, length_parts)


def axes_of(logical: str, size: int) -> tuple[tuple[str, ...], int]:
    """Mesh axes that cut an axis of that size, and into how many parts: () and 1 if none."""
    cut = nn.logical_to_mesh_axes((logical,))[0]
    sizes = jax.sharding.get_abstract_mesh().shape
    axes = tuple(axis for axis in as_tuple(cut) if sizes.get(axis, 1) > 1)
    parts = math.prod(sizes[axis] for axis in axes)
    return (axes, parts) if size % parts == 0 else ((), 1)


def without(axes: tuple[str, ...], cut: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The mesh axes of a rule that are none of `axes`."""
    return tuple(axis for axis in as_tuple(cut) if axis not in axes) or None


def as_tuple(cut: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (cut,) if isinstance(cut, str) else tuple(cut or ())


def total(x: jax.Array, dtype: Any) -> jax.Array:
    """[shares, ...] -> [...]: the sum over shares, sent in `dtype`."""
    x = x.astype(dtype)  # not x.sum(0), which sums and sends bfloat16 in float32
    return jax.lax.reduce(x, x.dtype.type(0), jax.lax.add, (0,))
