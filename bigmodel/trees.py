"""Pytrees of arrays by path: names "a/b/c", maps, split and merge, counts; and as NumPy arrays."""

import re
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

Tree = Any


def name(path: tuple) -> str:
    """A key path as "a/b/c"; attributes, dict keys and indices look alike."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def map_with_path(function: Callable[..., Any], tree: Tree, *rest: Tree, is_leaf=None) -> Tree:
    """`jax.tree.map` whose function also gets the leaf's path as its first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(name(path), *leaves), tree, *rest, is_leaf=is_leaf
    )


def flatten(tree: Tree, is_leaf=None) -> dict[str, Any]:
    """A tree as a flat dict "a/b/c" -> leaf, in the tree's own order."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf)}


def split(tree: dict, pattern: str) -> tuple[dict, dict]:
    """Nested dicts cut in two: leaves whose path the regular expression finds, and the rest.

    The halves keep only the branches that hold a leaf, so that `merge` is the inverse.
    """
    paths = flatten(tree)
    found = {path for path in paths if re.search(pattern, path)}
    return pick(tree, found), pick(tree, set(paths) - found)


def pick(tree: dict, paths: Collection[str], is_leaf=None) -> dict:
    """The branches of nested dicts that hold the leaves of some paths."""
    found: dict = {}
    for path, leaf in flatten(tree, is_leaf).items():
        if path in paths:
            *parents, last = path.split("/")
            branch = found
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[last] = leaf
    return found


def merge(first: dict, second: dict) -> dict:
    """The union of two nested dicts that share no leaf; the inverse of `split`."""
    merged = dict(first)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged[key], dict):
            merged[key] = merge(merged[key], value)
        else:
            raise ValueError(f"merge: both trees hold {key!r}; two halves must not share a leaf")
    return {key: merged[key] for key in sorted(merged)}


def is_stacked(path: str, leaf: Any, layers: int) -> bool:
    """Whether a leaf holds an array for each of so many layers of the stack "layers"."""
    return "layers" in path.split("/") and leaf.shape[:1] == (layers,)


def scale(tree: Tree, factor: jax.Array | float) -> Tree:
    """Each leaf times `factor`, in the leaf's own dtype."""
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), tree)


def on_host(tree: Tree) -> Tree:
    """Each array whole, as NumPy's, on every process, wherever its parts lie.

    Where some lie with other processes, all of them must ask, in the same order.
    """

    def one(leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(jax.device_get(leaf))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(one, tree)


def count(tree: Tree) -> int:
    """Number of elements of all leaves (arrays or shapes)."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves (arrays or shapes), each once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
