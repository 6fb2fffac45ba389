"""LoRA: a kernel that stays, and beside it a product of two thin ones that trains.

Hu et al. 2021 (arXiv:2106.09685): W + (alpha / rank) A B. Kernels here have several axes,
[inputs..., outputs...], often behind axes that count layers or experts: A is
[stack..., inputs..., rank] and B [stack..., rank, outputs...], of the same logical axes, the rank
uncut. They lie beside their kernel in the tree, as "lora_a" and "lora_b".
"""

import functools
import math
import string
import zlib
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel import trees
from bigmodel.objectives import Objective
from bigmodel.optimizers import matrices

A, B, KERNEL = "lora_a", "lora_b", "kernel"


def is_adapter(path: str) -> bool:
    return path.split("/")[-1] in (A, B)


def can_have(path: str, axes: matrices.Axes) -> bool:
    """Whether a parameter is a kernel of inputs and outputs."""
    return path.split("/")[-1] == KERNEL and len(matrices.sides(axes)) == 2


def sizes(axes: matrices.Axes, shape: tuple[int, ...]) -> tuple[int, int]:
    """Lengths of both sides of one matrix of a kernel, inputs first."""
    one, other = (math.prod(shape[dim] for dim in side) for side in matrices.sides(axes))
    return one, other


def boxes(boxed: dict, targets: Collection[str], rank: int, is_leaf: Any) -> dict:
    """Abstract parameters in boxes with those of adapters among them.

    Args:
        boxed: of the model; each box has `value` and `names`.
        targets: paths of the kernels that get one.
        rank: of the adapters.
        is_leaf: whether something is a box.
    """
    added: dict = {}
    for path, box in trees.flatten(boxed, is_leaf).items():
        if path not in targets:
            continue
        stack, inputs = matrices.stacked(box.names), len(matrices.sides(box.names)[0])
        shape, names = box.value.shape, box.names
        outer = stack + inputs
        made = {
            A: ((*shape[:outer], rank), (*names[:outer], None)),
            B: ((*shape[:stack], rank, *shape[outer:]), (*names[:stack], None, *names[outer:])),
        }
        branch = added
        for parent in path.split("/")[:-1]:
            branch = branch.setdefault(parent, {})
        for name, (of_adapter, axes) in made.items():
            value = jax.ShapeDtypeStruct(of_adapter, box.value.dtype)
            branch[name] = box.replace(value=value, names=axes)
    return trees.merge(boxed, added)


def init(key: jax.Array, boxed: dict, is_leaf: Any) -> dict:
    """New adapters, alone in their branches: A normal of variance 1 / inputs, B zero."""
    found = trees.flatten(boxed, is_leaf)
    made = {path: box for path, box in found.items() if is_adapter(path)}

    def one(path: str, box: Any) -> jax.Array:
        shape, dtype = box.value.shape, box.value.dtype
        if path.endswith(B):
            return jnp.zeros(shape, dtype)
        fan_in = math.prod(shape[matrices.stacked(box.names) : -1])
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        return (jax.random.normal(own, shape, jnp.float32) / math.sqrt(fan_in)).astype(dtype)

    return trees.map_with_path(one, trees.pick(boxed, made, is_leaf), is_leaf=is_leaf)


def adapted(objective: Objective, scale: float) -> Objective:
    """The objective of parameters that have adapters among them."""

    def of_merged(params, batch, rng):
        return objective(merged(params, scale), batch, rng)

    return of_merged


def merged(params: dict, scale: float, merge: Callable[..., jax.Array] | None = None) -> dict:
    """Parameters without adapters: each kernel with what its own one adds.

    Args:
        params: with adapters, or without: then as they are.
        scale: alpha / rank.
        merge: `merged_kernel`; or `on_mesh`, for arrays that are there and not traced.
    """
    found: dict = {}
    for name, value in params.items():
        if isinstance(value, dict):
            found[name] = merged(value, scale, merge)
        elif name == KERNEL and A in params:
            found[name] = (merge or merged_kernel)(value, params[A], params[B], scale)
        elif name not in (A, B):
            found[name] = value
    return found


def merged_kernel(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """W + scale A B, added in float32 and not narrowed: of the wider dtype of W and A."""
    stack = a.ndim + b.ndim - 2 - kernel.ndim
    letters = iter(string.ascii_lowercase)
    of_stack, inputs, outputs = (
        "".join(next(letters) for _ in range(n))
        for n in (stack, a.ndim - stack - 1, b.ndim - stack - 1)
    )
    equation = f"{of_stack}{inputs}Z,{of_stack}Z{outputs}->{of_stack}{inputs}{outputs}"
    product = jnp.einsum(equation, *(x.astype(jnp.float32) for x in (a, b)), precision="highest")
    dtype = jnp.promote_types(kernel.dtype, a.dtype)
    return (kernel.astype(jnp.float32) + scale * product).astype(dtype)


def on_mesh(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """`merged_kernel`, where the kernel lies."""
    merge = functools.partial(merged_kernel, scale=scale)
    return jax.jit(merge, out_shardings=kernel.sharding)(kernel, a, b)
