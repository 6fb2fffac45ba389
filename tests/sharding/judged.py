"""The steps that tests compile for TPUs: loss and gradients of a config under a layout.

A plan's own process compiles them: the config's file puts one in the place of the train step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

import bigmodel
from bigmodel import recipe as recipes
from bigmodel.plan import make_request, memory, network, requests, simulate, steps
from bigmodel.plan.program import Program
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules
from bigmodel.train import state as states
from tests.sharding import by_hand

# Kernels and activations weigh about as much, so that none of them hides the others, and so much
# that the memory figure does not hang on what the compiler keeps in the chip's 128 MiB of VMEM.
SIZES = dict(vocab=16384, width=2048, layers=2, heads=16, kv_heads=16, head_dim=128, hidden=8192)
LENGTH, BATCH = 1024, 64
PLAIN = dict(norm="rms", position="none", feedforward="swiglu", bias=False, tied=False, dropout=0.0)
EXPERTS = dict(experts=8, experts_per_token=2, expert_hidden=2048)

# name -> what of the config it changes
LAYOUTS: dict[str, dict[str, Any]] = {
    "fsdp8": dict(mesh=dict(fsdp=8)),
    "fsdp2_tensor4": dict(mesh=dict(fsdp=2, tensor=4)),
    "fsdp2_context4": dict(mesh=dict(fsdp=2, context=4), length=8192, batch=8),
    "fsdp2_all_to_all4": dict(
        mesh=dict(fsdp=2, context=4), model=dict(context_attention="all_to_all")
    ),
    "slices2_context4": dict(mesh=dict(data=2, context=4), mesh_slices=2, topology="v5e:2x2"),
    "fsdp2_expert4": dict(mesh=dict(fsdp=2, expert=4), model=EXPERTS),
    "fsdp2_expert4_room": dict(
        mesh=dict(fsdp=2, expert=4), model=EXPERTS | dict(expert_capacity=1.25)
    ),
    "slices2_expert2": dict(
        mesh=dict(data=2, fsdp=2, expert=2), mesh_slices=2, model=EXPERTS, topology="v5e:2x2"
    ),
}
BY_HAND = ("fsdp8", "fsdp2_tensor4", "fsdp2_context4", "fsdp2_expert4")  # also written by hand


def config(layout: dict[str, Any]) -> Any:
    """The config of a layout."""
    made = bigmodel.default_config().copy_and_resolve_references().unlock()
    made.update(batch=layout.get("batch", BATCH), mesh_slices=layout.get("mesh_slices", 1))
    made.data.length = layout.get("length", LENGTH)
    made.mesh.update(layout["mesh"])
    made.model.update(
        length=made.data.length, remat="full", **SIZES, **PLAIN, **layout.get("model", {})
    )
    return made.lock()


def abstract(recipe: recipes.Recipe) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    """Parameters and a batch, as shapes with their places."""
    boxed = recipe.boxed_params
    params = jax.tree.map(
        lambda box, at: jax.ShapeDtypeStruct(box.value.shape, box.value.dtype, sharding=at),
        *(boxed, rules.shardings(boxed, recipe.rules, recipe.mesh)),
        is_leaf=rules.is_box,
    )
    shape = recipe.batch, recipe.config.data.length
    row = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=recipe.batch_sharding)
    return params, {"tokens": row, "targets": row}


def put_in_place(side: str) -> None:
    """To be run in the process that compiles: the step is the one of a side."""
    steps.lower = functools.partial(lower, side)


def lower(side: str, recipe: recipes.Recipe, task: str, prompt: int) -> tuple[Any, dict[str, Any]]:
    """(loss, gradients) of parameters and a batch, gradients where the parameters are."""
    params, batch = abstract(recipe)

    def ours(params, batch):
        gradient = jax.value_and_grad(recipe.objective, has_aux=True)
        (loss, _), grads = gradient(params, batch, None)
        return loss, grads

    sides: dict[str, Any] = {"ours": ours, "by_hand": functools.partial(by_hand.gradient, recipe)}
    step = sides[side]
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    with meshes.use(recipe.mesh, recipe.rules):
        traced = jax.jit(step, out_shardings=(None, places)).trace(params, batch)
        return traced.lower(), steps.about(recipe, states.abstract(recipe), traced)


TEXT = """import bigmodel
from tests.sharding import judged

judged.put_in_place("{side}")
get_config = bigmodel.default_config
"""


def request(layout: str, side: str) -> requests.Request:
    """What compiles a side, "ours" or "by_hand", of a layout."""
    row = LAYOUTS[layout]
    loaded = bigmodel.config.Loaded(config(row), TEXT.format(side=side), f"{layout}.py")
    where = row.get("topology", "v5e:2x4")
    return make_request(loaded, where, slices=row.get("mesh_slices", 1))


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a side came to.

    Attributes:
        text: the scheduled program.
        moved: megabytes that go into collectives on each device, by kind.
        peak_bytes: on each device.
    """

    text: str
    moved: dict[str, float]
    peak_bytes: int


def read(asked: requests.Request, found: requests.Found) -> Judged:
    chip = asked.topology.chip
    assert chip
    whole, net = Program(found.program), network.Network.of(found.meta, chip)
    moved: dict[str, float] = {}
    for one, (times, _, _) in simulate.Clock(whole, net, 1.0).run().collectives.items():
        moved[one.kind] = moved.get(one.kind, 0.0) + times * one.bytes / 1e6
    held = memory.held(whole, found.allocations, found.live, found.meta, trains=True)
    return Judged(found.program, moved, held.total)
