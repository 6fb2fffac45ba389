"""The table of layouts, and what a test may ask of one: a row is tested by being here."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bigmodel import checkpoint, trees
from bigmodel import recipe as recipes
from bigmodel.checkpoint import leaves
from bigmodel.sharding import mesh as meshes
from bigmodel.train import state, step
from tests import runs

# name -> what of the config it changes, on 8 devices
LAYOUTS: dict[str, dict[str, Any]] = {
    # one axis
    "data8": dict(mesh=dict(data=8)),
    "fsdp8": dict(mesh=dict(fsdp=8)),
    "tensor2": dict(mesh=dict(tensor=2)),
    "tensor4_whole_kv": dict(  # more devices than key and value heads
        mesh=dict(fsdp=2, tensor=4), extra_rules=(("kv_heads", None), ("act_kv_heads", None))
    ),
    "expert8": dict(mesh=dict(expert=8)),
    "ring8": dict(mesh=dict(context=8)),
    "all_to_all4": dict(mesh=dict(context=4), model=dict(context_attention="all_to_all")),
    "stage2": dict(mesh=dict(stage=2)),
    "stage4": dict(mesh=dict(stage=4)),
    # several
    "data4_fsdp2": dict(mesh=dict(data=4, fsdp=2)),
    "fsdp4_tensor2": dict(mesh=dict(fsdp=4, tensor=2)),
    "data2_fsdp2_tensor2": dict(mesh=dict(data=2, fsdp=2, tensor=2)),
    "fsdp2_ring2_tensor2": dict(mesh=dict(fsdp=2, context=2, tensor=2)),
    "fsdp2_ring4": dict(mesh=dict(fsdp=2, context=4)),
    "data2_all_to_all2_tensor2": dict(
        mesh=dict(data=2, context=2, tensor=2), model=dict(context_attention="all_to_all")
    ),
    # other tables of rules
    "replicated": dict(mesh=dict(data=8), rules="replicated"),
    "replicated_expert": dict(mesh=dict(expert=4), rules="replicated"),
    "zero1": dict(mesh=dict(data=4, fsdp=2), rules="zero1"),
    "sequence": dict(mesh=dict(fsdp=4, tensor=2), rules="sequence"),
    "sequence_ring2": dict(mesh=dict(fsdp=2, context=2, tensor=2), rules="sequence"),
    # two slices
    "slices2_data": dict(mesh=dict(data=2, fsdp=2, tensor=2), mesh_slices=2),
    "slices2_fsdp": dict(mesh=dict(fsdp=4, context=2), mesh_slices=2),
    # pipelines
    "stage2_fsdp2_tensor2": dict(mesh=dict(stage=2, fsdp=2, tensor=2)),
    "stage2_microbatches4": dict(mesh=dict(stage=2, data=2), pipeline=dict(microbatches=4)),
    "stage2_repeats2": dict(mesh=dict(stage=2, fsdp=2), pipeline=dict(microbatches=4, repeats=2)),
    "stage2_accumulate4": dict(mesh=dict(stage=2), accumulate=4),
    "stage2_ring2_tensor2": dict(mesh=dict(stage=2, context=2, tensor=2)),
    "stage2_expert2": dict(mesh=dict(stage=2, expert=2), model=dict(remat="full")),
    # a batch in parts, and layers that are recomputed
    "accumulate4": dict(mesh=dict(fsdp=2, tensor=2), accumulate=4),
    "offload": dict(
        mesh=dict(fsdp=2),
        model=dict(remat="names", remat_save=("attention",), remat_offload=("residual",)),
    ),
    "remat_ring2": dict(mesh=dict(fsdp=2, context=2), model=dict(remat="full")),
}

# name -> what of the config's model it changes
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": dict(layers=4, scan=True),
    "experts": dict(layers=4, scan=True, experts=8, expert_hidden=32, shared_experts=1),
    "experts_with_room": dict(
        layers=4, scan=True, experts=8, expert_hidden=32, expert_capacity=1.0
    ),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What a layout gives: numbers on the host, by path."""

    loss: float
    grads: dict[str, np.ndarray]
    recipe: recipes.Recipe
    state: state.TrainState


def make(family: str, layout: dict[str, Any]) -> recipes.Recipe:
    model = {**FAMILIES[family], **layout.get("model", {})}
    objective = dict(balance_loss=0.01, router_z_loss=1e-3)
    return recipes.make(runs.config(**{**layout, "model": model, "objective": objective}))


def gradient(recipe: recipes.Recipe) -> Callable:
    """(params, batch, key) -> (loss, gradients), for each token of the batch."""

    def of_batch(params, frozen, batch, rng):
        return recipe.objective(params, batch, rng)

    summed = step.accumulated(jax.value_and_grad(of_batch, has_aux=True), recipe.accumulate)

    def of_token(params, batch, rng):
        (loss, sums), grads = summed(params, {}, batch, rng)
        return loss / sums["weight"], trees.scale(grads, 1 / sums["weight"])

    return of_token


def find(family: str, layout: dict[str, Any], born: state.TrainState | None = None) -> Found:
    """Loss and gradients of the first batch under a layout, and the state that it begins with.

    Args:
        family: of FAMILIES.
        layout: what of the config it changes.
        born: the state, as `checkpoints` gives it back under the layout; None: a new one.
    """
    recipe = make(family, layout)
    with meshes.use(recipe.mesh, recipe.rules):
        now = decided(state.create(recipe)) if born is None else born
        batch = jax.device_put(packed(recipe.batch, 32), recipe.batch_sharding)
        loss, grads = jax.jit(gradient(recipe))(now.params, batch, now.rng)
    if recipe.layer_order is not None:
        grads = leaves.reordered(grads, np.argsort(recipe.layer_order))
    return Found(float(loss), trees.flatten(jax.device_get(grads)), recipe, now)


def packed(rows: int, length: int) -> dict[str, np.ndarray]:
    """A batch of rows with several documents each, and padding, in which nothing is regular."""
    draw = np.random.default_rng(0)
    first = draw.random((rows, length)) < 0.15
    first[:, 0] = True
    segments = first.cumsum(1)
    begins = np.maximum.accumulate(np.where(first, np.arange(length), 0), axis=1)
    real = np.arange(length) < length - draw.integers(0, 6, (rows, 1))
    tokens = draw.integers(0, 260, (rows, length + 1))
    made = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": segments * real,
        "positions": np.arange(length) - begins,
        "rows": np.arange(rows),
    }
    made = {name: array.astype(np.int32) for name, array in made.items()}
    return made | {"weights": (real & (draw.random((rows, length)) < 0.9)).astype(np.float32)}


def decided(now: state.TrainState) -> state.TrainState:
    """The state with decided routers: rounding must flip no choice."""

    def one(path, leaf):
        return leaf * ROUTER_SCALE if path.endswith("router/kernel") else leaf

    return now.replace(params=trees.map_with_path(one, now.params))


ROUTER_SCALE = 50.0


@functools.cache
def reference(family: str) -> Found:
    return find(family, {})


def restored(folder: Any, recipe: recipes.Recipe) -> state.TrainState:
    """What a folder of checkpoints holds, under a recipe's layout."""
    with checkpoint.Checkpoints(folder, order=recipe.layer_order) as checkpoints:
        return checkpoints.restore(state.abstract(recipe)).tree


def save(folder: Any, found: Found) -> None:
    with checkpoint.Checkpoints(folder, order=found.recipe.layer_order) as checkpoints:
        checkpoints.save(1, found.state, {}, wait=True)


@functools.cache
def saved_reference(family: str) -> str:
    """A folder with the checkpoint of the state on one device."""
    folder = tempfile.mkdtemp(prefix="layouts-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save(folder, reference(family))
    return folder


def differences(found: Found, wanted: Found) -> dict[str, float]:
    """How far the loss and each gradient are off, relative to the reference's."""
    off = {"loss": abs(found.loss - wanted.loss) / abs(wanted.loss)}
    for path, grad in wanted.grads.items():
        off[path] = float(np.linalg.norm(found.grads[path] - grad) / np.linalg.norm(grad))
    return off
