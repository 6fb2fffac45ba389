"""One layer's matrix, found by the logical axes of a stacked parameter.

(layers, embed, mlp)               one embed x mlp a layer
(layers, embed, heads, head_dim)   one embed x (heads head_dim) a layer
(layers, heads, head_dim, embed)   one (heads head_dim) x embed a layer
(layers, heads, head_dim)          no matrix: a bias, one vector a layer
(layers, experts, embed, mlp)      one embed x mlp an expert
"""

import math

import jax
import optax

from bigmodel import trees

# Leading axes that count matrices and are no side of one.
STACKS = (
    *("layers", "dense_layers", "encoder_layers", "decoder_layers"),
    *("image_layers", "text_layers", "experts"),
)

Axes = tuple[str | None, ...]


def stacked(axes: Axes) -> int:
    """How many leading axes count layers or experts."""
    return next((dim for dim, axis in enumerate(axes) if axis not in STACKS), len(axes))


def sides(axes: Axes) -> list[list[int]]:
    """Dimensions of one layer's array by the side of the matrix they make: [[1], [2, 3]]."""
    found: list[list[int]] = []
    for dim in range(stacked(axes), len(axes)):
        if found and axes[dim] == "head_dim":  # heads and head_dim are two names of one side
            found[-1].append(dim)
        else:
            found.append([dim])
    return found


def hidden_matrices(axes: optax.Params) -> optax.Params:
    """For each parameter the sides of its matrix as Muon wants them, or None.

    A hidden matrix is a "kernel" of two sides inside a stack. Without this optax would hand all
    stacked kernels, three-dimensional as they are, to Adam, and orthogonalise stacked norms.
    """

    def dimensions(path: str, names: Axes) -> optax.contrib.MuonDimensionNumbers | None:
        found = sides(names)
        if not stacked(names) or len(found) != 2 or path.split("/")[-1] != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(*map(tuple, found))

    return trees.map_with_path(dimensions, axes, is_leaf=_is_axes)


def labels(hidden: optax.Params) -> optax.Params:
    """ "muon" for hidden matrices, "adamw" for the rest."""
    return jax.tree.map(
        lambda dimensions: "adamw" if dimensions is None else "muon",
        hidden,
        is_leaf=lambda node: node is None or isinstance(node, optax.contrib.MuonDimensionNumbers),
    )


def per_matrix(
    optimizer: optax.GradientTransformation, axes: optax.Params
) -> optax.GradientTransformation:
    """Runs `optimizer` on each layer's matrix by itself: what it would do to an unstacked model.

    The sides of a matrix are merged, and the optimizer is mapped over the layers. Its state keeps
    the layers in front, [layers, ...], counters too, under the parameters' own paths.
    """

    def by_stack(params):
        """The optimizer for parameters of these shapes: mapped once for each stacked axis."""
        stacks = {
            _stack_name(leaf, names): stacked(names)
            for leaf, names in zip(
                jax.tree.leaves(params), jax.tree.leaves(axes, is_leaf=_is_axes), strict=True
            )
        }
        return optax.partition(
            {name: _mapped(optimizer, times) for name, times in stacks.items()},
            jax.tree.map(_stack_name, params, axes),
        )

    def init(params):
        params = jax.tree.map(_as_matrix, params, axes)
        return by_stack(params).init(params)

    def update(updates, state, params):
        gradients, params = (jax.tree.map(_as_matrix, tree, axes) for tree in (updates, params))
        steps, state = by_stack(params).update(gradients, state, params)
        return jax.tree.map(lambda new, old: new.reshape(old.shape), steps, updates), state

    return optax.GradientTransformation(init, update)


def _mapped(optimizer: optax.GradientTransformation, times: int) -> optax.GradientTransformation:
    for _ in range(times):
        optimizer = optax.GradientTransformation(
            jax.vmap(optimizer.init), jax.vmap(optimizer.update)
        )
    return optimizer


def _stack_name(leaf: jax.Array, names: Axes) -> str:
    """ "stack_12x8" for 12 layers of 8 experts; what has one name can be mapped over together."""
    lengths = leaf.shape[: stacked(names)]
    return "stack_" + "x".join(map(str, lengths)) if lengths else "unstacked"


def _as_matrix(leaf: jax.Array, names: Axes) -> jax.Array:
    """[layers, embed, heads, head_dim] -> [layers, embed, heads * head_dim]"""
    lengths = [math.prod(leaf.shape[dim] for dim in side) for side in sides(names)]
    return leaf.reshape(*leaf.shape[: stacked(names)], *lengths)


def _is_axes(node) -> bool:
    return isinstance(node, tuple)
