"""Every family trains through the one loop: layouts change nothing, and a resumed run goes on."""

import dataclasses
import shutil

import jax
import numpy as np
import optax
import pytest

import bigmodel
from bigmodel import config, models, objectives, trees
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.evaluate import evaluate
from bigmodel.train import state
from tests import quick, runs
from tests.train import family_runs
from tests.train.family_runs import NAMES, load

# name -> fields of the config that it changes
LAYOUTS = {
    "data2_fsdp2_tensor2": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "zero1_accumulate2": {"mesh.data": 2, "mesh.fsdp": 2, "rules": "zero1", "accumulate": 2},
    "remat": {"model.remat": "full", "model.scan": True},
    "fsdp8": {"mesh.fsdp": 8},
    "replicated": {"mesh.data": 4, "rules": "replicated"},
    "slices2": {"mesh.data": 2, "mesh.fsdp": 2, "mesh_slices": 2},
    "accumulate4": {"accumulate": 4},
    "expert2": {"mesh.expert": 2, "mesh.tensor": 2},
    "stage2": {"mesh.stage": 2, "mesh.fsdp": 2},
}
SHORT = ("data2_fsdp2_tensor2",)  # the whole product is `make test-layouts`


def of_the_product():
    marks = {layout: [pytest.mark.layouts] * (layout not in SHORT) for layout in LAYOUTS}
    return [pytest.param(n, layout, marks=marks[layout]) for layout in LAYOUTS for n in NAMES]


def whole_batch(name):
    return hasattr(objectives.OBJECTIVES[load(name).config.objective.name], "whole_batch")


def has_stages(name):
    return "run" in config.schema(models.FAMILIES[load(name).config.model.name][0])


@pytest.mark.parametrize("name, layout", of_the_product())
def test_loss_and_gradients_do_not_depend_on_the_layout(name, layout, capfd):
    changes = LAYOUTS[layout]
    if whole_batch(name) and changes.get("accumulate", 1) > 1:
        with pytest.raises(config.InputError, match="all rows of a batch together"):
            family_runs.gradient(name, **changes)
        changes = {field: value for field, value in changes.items() if field != "accumulate"}
    if "mesh.stage" in changes and not has_stages(name):
        with pytest.raises(config.InputError, match="no stack that a pipeline"):
            family_runs.gradient(name, **changes)
        return
    loss, grads = family_runs.gradient(name, **changes)
    wanted_loss, wanted = family_runs.reference(name)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    largest = max(np.linalg.norm(grad) for grad in wanted.values())
    for path, grad in wanted.items():
        off = np.linalg.norm(grads[path] - grad)
        # A gradient that is zero but for rounding (a bias of all keys) is held to the largest.
        assert off <= 2e-5 * np.linalg.norm(grad) + 1e-7 * largest, path
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    loaded = load(name, steps=4, **{"checkpoint.every": 2, "checkpoint.keep": 3, "log.every": 1})
    bigmodel.train(loaded, tmp_path)
    losses, sums = runs.losses(tmp_path), runs.checksums(tmp_path, 4)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    bigmodel.train(loaded, tmp_path)
    assert runs.losses(tmp_path) == losses
    assert runs.checksums(tmp_path, 4) == sums
    assert len(set(losses.values())) >= 3  # so the law can fail (the first rate is zero)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_down_the_gradient_lowers_the_loss(name):
    recipe = recipes.make(load(name), devices=jax.devices()[:1])
    batch = family_runs.first_batch(name)
    params = state.create(recipe).params
    gradient = quick.jit(jax.value_and_grad(recipe.objective, has_aux=True))
    (before, sums), grads = gradient(params, batch, None)
    size = 0.05 / optax.tree.norm(grads)
    moved = jax.tree.map(lambda p, g: p - size * g, params, grads)
    (after, _), _ = gradient(moved, batch, None)
    assert np.isfinite(before)
    assert after / sums["weight"] < before / sums["weight"]


@pytest.mark.parametrize("name", NAMES)
def test_the_shapes_that_a_plan_takes_are_those_of_the_data(name):
    recipe = recipes.make(load(name), devices=jax.devices()[:1])
    assert recipes.batch_spec(recipe) == recipes.train_batches(recipe).spec


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_is_the_same_each_time_and_whatever_the_batch(name):
    found = []
    for batch in (8, 8, 6):
        recipe = recipes.make(load(name, batch=batch), devices=jax.devices()[:1])
        params = state.create(recipe).params
        entry = recipes.evaluation(recipe, "validation", {"split": "validation"})
        few = pipeline.Batches(First(entry.batches.rows, 20), batch, shuffle=False, repeat=False)
        entry = dataclasses.replace(entry, batches=few, chosen=range(len(few)))
        found.append(evaluate(recipe, params, entry))
    assert found[0] == found[1]
    if not whole_batch(name):
        for metric, value in found[0].items():
            assert found[2][metric] == pytest.approx(value, rel=2e-5), metric


class First:
    """The first of some rows."""

    def __init__(self, rows, most):
        self.rows, self.most = rows, most

    def __len__(self):
        return min(self.most, len(self.rows))

    def take(self, indices, epochs=None):
        return self.rows.take(indices, epochs)


def test_no_family_is_left_out():
    tested = {load(name).config.model.name for name in NAMES}
    assert tested | {"decoder"} == set(models.FAMILIES)


def test_trees_are_felt_so_the_law_of_layouts_can_fail():
    _, grads = family_runs.reference(NAMES[0])
    assert len(grads) > 10
    assert all(np.abs(grad).max() > 0 for path, grad in grads.items() if "key/bias" not in path)
    assert trees.count(grads) > 1000
