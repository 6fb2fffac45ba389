"""The law of layouts: a mesh changes where numbers live, never what they are."""

import functools

import jax
import numpy as np
import pytest

from bigmodel import recipe as recipes
from bigmodel import trees
from bigmodel.data import pipeline
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled, state
from tests import runs

MESHES = {
    "data8": dict(data=8),
    "fsdp8": dict(fsdp=8),
    "data4_fsdp2": dict(data=4, fsdp=2),
    "fsdp4_tensor2": dict(fsdp=4, tensor=2),
    "data2_fsdp2_tensor2": dict(data=2, fsdp=2, tensor=2),
}
STEPS = 20


def train(mesh):
    """Losses of 20 steps, the first step's gradients, the sharding of a large kernel."""
    recipe = recipes.make(runs.config(mesh=mesh, steps=STEPS))
    batches = recipes.train_batches(recipe)

    def batch(at):
        return pipeline.place(batches, at, lambda *_: recipe.batch_sharding)

    with meshes.use(recipe.mesh, recipe.rules):
        now = state.create(recipe)
        gradient = jax.jit(jax.grad(lambda p, b, k: recipe.objective(p, b, k)[0]))
        grads = jax.device_get(gradient(now.params, batch(0), now.rng))
        step = compiled.compile_step(recipe, state.abstract(recipe), batches.spec)
        losses = []
        for at in range(STEPS):
            now, metrics = step.run(now, batch(at))
            losses.append(float(metrics["loss"]))
    kernel = now.params["layers"]["feedforward"]["up"]["kernel"]
    return np.array(losses), trees.flatten(grads), kernel.sharding


@functools.cache
def reference():
    return train({})


@pytest.mark.parametrize("name", MESHES)
def test_losses_and_gradients_do_not_depend_on_the_mesh(name, capfd):
    losses, grads, sharding = reference()
    losses_here, grads_here, sharding_here = train(MESHES[name])
    np.testing.assert_allclose(losses_here, losses, rtol=1e-5)
    for path, grad in grads.items():
        off = np.linalg.norm(grads_here[path] - grad) / np.linalg.norm(grad)
        assert off <= 1e-5, f"{path}: {off:.1e}"
    assert sharding_here.num_devices == 8
    parts = MESHES[name].get("fsdp", 1) * MESHES[name].get("tensor", 1)
    assert sharding_here.is_fully_replicated == (parts == 1)
    # C++ writes it past Python's own stderr, so the file descriptor is what is read.
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


def test_losses_differ_between_seeds_so_the_law_can_fail():
    losses, _, _ = reference()
    assert np.ptp(losses) > 0.1
