"""Every family trains through the one loop: layouts change nothing, and a resumed run goes on."""

import jax
import numpy as np
import pytest

from bigmodel import config, models, trees
from bigmodel import recipe as recipes
from tests.train import family_runs
from tests.train.family_runs import FOUR, NAMES, load, over_families, whole_batch

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
    return [
        family_runs.param(n, x, of=family_runs.ONE, long=x not in SHORT)
        for x in LAYOUTS
        for n in NAMES
    ]


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


@over_families(FOUR)
def test_the_shapes_that_a_plan_takes_are_those_of_the_data(name):
    recipe = recipes.make(load(name), devices=jax.devices()[:1])
    assert recipes.batch_spec(recipe) == recipes.train_batches(recipe).spec


def test_no_family_is_left_out():
    tested = {load(name).config.model.name for name in NAMES}
    assert tested | {"decoder"} == set(models.FAMILIES)


def test_trees_are_felt_so_the_law_of_layouts_can_fail():
    _, grads = family_runs.reference(NAMES[0])
    assert len(grads) > 10
    assert all(np.abs(grad).max() > 0 for path, grad in grads.items() if "key/bias" not in path)
    assert trees.count(grads) > 1000
