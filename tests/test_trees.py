"""Laws of trees: paths, masks, and a split whose inverse is a merge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmodel import trees

TREE = {"b": {"kernel": np.ones((2, 3)), "bias": np.zeros(3)}, "a": [np.ones(4), np.ones(5)]}


def test_a_leaf_is_named_by_its_path():
    assert list(trees.flatten(TREE)) == ["a/0", "a/1", "b/bias", "b/kernel"]
    state = optax.adam(0.1).init({"w": jnp.ones(2)})
    assert "0/mu/w" in trees.flatten(state)  # fields of a named tuple look like keys


def test_a_map_gets_each_path_and_the_leaves_of_all_trees():
    sizes = trees.map_with_path(lambda path, x, y: (path, x.size + y.size), TREE, TREE)
    assert sizes["a"] == [("a/0", 8), ("a/1", 10)]


names = st.text("abc", min_size=1, max_size=2)
nested = st.recursive(
    st.integers(), lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3), max_leaves=8
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, nested, max_size=4), st.sampled_from(["a", "^a/", "b$", "c", "."]))
def test_merge_is_the_inverse_of_split(tree, pattern):
    found, rest = trees.split(tree, pattern)
    assert trees.flatten(found).keys().isdisjoint(trees.flatten(rest))
    merged = trees.merge(found, rest)
    assert merged == tree
    assert jax.tree.structure(merged) == jax.tree.structure(tree)
    assert list(merged) == sorted(tree)


def test_a_pattern_is_found_anywhere_in_the_path():
    found, rest = trees.split({"x": {"kernel": 1, "bias": 2}}, "bias$")
    assert (found, rest) == ({"x": {"bias": 2}}, {"x": {"kernel": 1}})


def test_halves_that_share_a_leaf_are_refused_by_name():
    with pytest.raises(ValueError, match="'kernel'"):
        trees.merge({"x": {"kernel": 1}}, {"x": {"kernel": 2}})


def test_counts_are_those_of_arrays_and_of_shapes_alike():
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(5)}
    for form in (tree, jax.eval_shape(lambda: tree)):
        assert trees.count(form) == 11
    assert trees.count({}) == 0


def test_scaling_keeps_each_dtype():
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    doubled = trees.scale(tree, jnp.float32(2.0))
    for name, leaf in tree.items():
        assert doubled[name].dtype == leaf.dtype
        assert (doubled[name] == 2).all()
