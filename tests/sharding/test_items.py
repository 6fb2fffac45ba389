"""The law of layouts, of a table of items that is cut over the mesh, for each loss."""

import functools
import itertools

import jax
import numpy as np
import pytest

import bigmodel
from bigmodel import recipe as recipes
from bigmodel import trees
from bigmodel.sharding import mesh as meshes
from bigmodel.train import state

T, ITEMS, V = 16, 61, 64
LAYOUTS = {
    "data8": dict(mesh=dict(data=8)),
    "fsdp2_tensor4": dict(mesh=dict(fsdp=2, tensor=4)),
    "data2_fsdp2_tensor2": dict(mesh=dict(data=2, fsdp=2, tensor=2)),
}
LOSSES = {
    "softmax": dict(loss="softmax"),
    "sampled": dict(loss="sampled", negatives=5, draw="log_uniform"),
    "binary": dict(loss="binary"),
    "given": dict(loss="sampled", negatives=3),
}


# `make test` has one, `make test-families` one of each loss, `make test-layouts` all.
FIRST = [(loss, "data2_fsdp2_tensor2") for loss in ("softmax", "sampled", "binary")]
CASES = [
    FIRST[0],
    *(pytest.param(*case, marks=pytest.mark.families) for case in FIRST[1:]),
    *(
        pytest.param(*case, marks=pytest.mark.layouts)
        for case in itertools.product(LOSSES, LAYOUTS)
        if case not in FIRST
    ),
]


def make(loss, layout):
    config = bigmodel.default_config("recommender", objective="next_item", data="interactions")
    config.batch = 16
    config.model.update(
        **dict(vocab=V, width=16, layers=2, heads=4, hidden=32, length=T, dtype="float32"),
        **dict(projection=True, qkv_bias=False, dropout=0.1),
    )
    config.objective.update(items=ITEMS, **LOSSES[loss])
    config.data.update(length=T)
    config.mesh.update(**layout.get("mesh", {}))
    return recipes.make(config)


def batch(loss):
    draw = np.random.default_rng(0)
    real = np.arange(T) >= draw.integers(0, T - 2, (16, 1))
    items = np.where(real, draw.integers(1, ITEMS + 1, (2, 16, T)), 0)
    made = {"tokens": items[0], "targets": items[1], "segments": real, "rows": np.arange(16)}
    if loss == "given":
        made["negatives"] = draw.integers(1, ITEMS + 1, (16, T, 3))
    made = {name: array.astype(np.int32) for name, array in made.items()}
    return made | {"weights": real.astype(np.float32)}


def found(loss, layout):
    """Loss and gradients of a training step, and the sums of an evaluation."""
    recipe = make(loss, layout)

    def both(params, batch, key):
        gradient = jax.value_and_grad(recipe.objective, has_aux=True)(params, batch, key)
        return gradient, recipe.objective(params, batch, None)

    with meshes.use(recipe.mesh, recipe.rules):
        now = state.create(recipe)
        placed = jax.device_put(batch(loss), recipe.batch_sharding)
        ((value, _), grads), told = jax.jit(both)(now.params, placed, now.rng)
    return trees.flatten(jax.device_get({"loss": value, "grads": grads, "told": told[1]}))


@functools.cache
def alone(loss):
    return found(loss, {"mesh": {}})


@pytest.mark.parametrize("loss, name", CASES)
def test_loss_gradients_and_ranks_do_not_depend_on_the_layout(loss, name, capfd):
    wanted, here = alone(loss), found(loss, LAYOUTS[name])
    off = {path: np.linalg.norm(here[path] - v) / np.linalg.norm(v) for path, v in wanted.items()}
    assert not {path: by for path, by in off.items() if not by <= 1e-5}
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
