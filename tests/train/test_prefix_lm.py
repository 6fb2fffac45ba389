"""Decoders with a prefix train through every layout as on one device."""

import jax
import numpy as np
import pytest

from bigmodel import recipe as recipes
from tests.train import family_runs

LAYOUTS = {
    "data2_fsdp2_tensor2": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "stage2_fsdp2": {"mesh.stage": 2, "mesh.fsdp": 2, "pipeline.microbatches": 2},
}


@pytest.mark.parametrize(
    "layout",
    ["data2_fsdp2_tensor2", pytest.param("stage2_fsdp2", marks=pytest.mark.families)],
)
def test_loss_and_gradients_do_not_depend_on_the_layout(layout, capfd):
    name = "prefix_lm.py:tiny"
    loss, grads = family_runs.gradient(name, **LAYOUTS[layout])
    wanted_loss, wanted = family_runs.reference(name)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    largest = max(np.linalg.norm(grad) for grad in wanted.values())
    for path, grad in wanted.items():
        off = np.linalg.norm(grads[path] - grad)
        assert off <= 2e-5 * np.linalg.norm(grad) + 1e-7 * largest, path
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("size", ["tiny", "tiny-prompts"])
def test_the_shapes_that_a_plan_takes_are_those_of_the_data(size):
    recipe = recipes.make(family_runs.load(f"prefix_lm.py:{size}"), devices=jax.devices()[:1])
    assert recipes.batch_spec(recipe) == recipes.train_batches(recipe).spec
    assert recipes.batch_spec(recipe)["prefix"].dtype == bool
