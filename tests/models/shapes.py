"""Parameters that are of another shape than the model's fields say, and how that is seen."""

import flax.linen as nn
import jax


def is_of_a_layer(path):
    return any(key.key.endswith("layers") for key in path)


LESS = {  # whether a parameter is one less, of which axis, and how that is told
    "depth": (is_of_a_layer, 0, r"layers: the model has \d layers; found parameters of \[\d\]"),
    "one depth": (
        lambda path: is_of_a_layer(path) and path[-1].key == "kernel" and "out" in str(path),
        0,
        r"layers: the model has \d layers; found parameters of \[\d, \d\]",
    ),
    "width": (is_of_a_layer, -1, r"\w+: a parameter has the shape that .*; found \("),
    "width outside": (lambda path: not is_of_a_layer(path), -1, r"\w+: a parameter has .*; found"),
}


def less(params, of):
    """(parameters, law) of a row of LESS."""
    chosen, axis, law = LESS[of]

    def cut(path, leaf):
        if not chosen(path) or not leaf.ndim:
            return leaf
        return leaf[:-1] if axis == 0 else leaf[..., :-1]

    return jax.tree_util.tree_map_with_path(cut, params), law


def assert_none_is_drawn(model, params, batch, monkeypatch):
    """By a forward pass: not even to see of which shape one would be."""

    def refuse(*_, **__):
        raise AssertionError("parameters are drawn")

    monkeypatch.setattr(nn.Module, "init", refuse)
    monkeypatch.setattr(nn.Module, "param", refuse)
    # A function of its own: the model's may have been traced already.
    jax.eval_shape(lambda *args: model.apply(*args), params, batch)
