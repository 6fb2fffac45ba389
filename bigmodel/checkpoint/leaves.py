"""Leaves of a tree as plain arrays by name, and what a manifest says of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import config, trees

Tree = Any
Description = dict[str, Any]


def to_arrays(tree: Tree) -> dict[str, jax.Array]:
    """Name "a/b/c" -> array; key arrays as their words."""
    flat = trees.flatten(tree)
    if len(flat) != len(jax.tree.leaves(tree)):
        raise ValueError("two leaves of the tree have the same path; a/b/c must name one leaf")
    return {name: jax.random.key_data(x) if is_key(x) else x for name, x in flat.items()}


def describe(tree: Tree) -> dict[str, Description]:
    """Name -> shape, dtype and, for key arrays, the generator."""
    return {name: describe_leaf(leaf) for name, leaf in trees.flatten(tree).items()}


def describe_leaf(leaf: jax.Array) -> Description:
    description = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    if is_key(leaf):
        description["generator"] = str(jax.random.key_impl(leaf))
    return description


def check_fit(
    wanted: Mapping[str, jax.ShapeDtypeStruct], known: Mapping[str, Description], where: str
) -> None:
    """Refuses a checkpoint of another model before anything is read."""
    lines = []
    for name, leaf in wanted.items():
        needs = f"{leaf.dtype}{list(leaf.shape)}"
        holds = f"{known[name]['dtype']}{known[name]['shape']}" if name in known else "no such leaf"
        if needs != holds:
            lines.append(f"  {name}: this run needs {needs}, the checkpoint holds {holds}")
    if lines:
        more = [f"  and {len(lines) - 8} more"] if len(lines) > 8 else []
        raise config.InputError(
            "\n".join([f"checkpoint {where} is of another model:", *lines[:8], *more])
            + "\nResume with the config that wrote it, or start in a new workdir."
        )


def stored(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The plain array that a leaf is stored as, on the leaf's sharding."""
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    plain = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=sharding)


def revive(array: jax.Array, description: Description) -> jax.Array:
    """The leaf again from its plain array."""
    if "generator" not in description:
        return array
    return jax.random.wrap_key_data(array, impl=description["generator"])


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def reordered(tree: Any, order: np.ndarray | None) -> Any:
    """The tree with its stacked layers in an order, each array where it was; None: as it is."""
    if order is None:
        return tree

    def one(path: str, leaf: jax.Array) -> jax.Array:
        if not trees.is_stacked(path, leaf, len(order)):
            return leaf
        return jax.jit(lambda x: x[order], out_shardings=leaf.sharding)(leaf)

    return trees.map_with_path(one, tree)
