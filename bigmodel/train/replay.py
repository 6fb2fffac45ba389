"""Silent faults: a gradient that one program computes twice must have the same bits twice."""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import compat, config
from bigmodel import recipe as recipes
from bigmodel.checkpoint import agreement, checksums
from bigmodel.sharding import rules
from bigmodel.train import compiled, selftest, step, watch
from bigmodel.train import state as states

Program = Callable[[states.TrainState, step.Batch], jax.Array]


class CorruptionError(watch.WentWrongError):
    """A device, or what connects devices, did not compute what it should have."""


class Replay:
    """Compares two gradients every so many steps.

    Attributes:
        every: steps.
        program: (state, batch) -> uint32 [*mesh], of each device a checksum of its gradients.
    """

    def __init__(self, recipe: recipes.Recipe, program: Program):
        self.recipe, self.every, self.program = recipe, recipe.config.replay.every, program
        everywhere = NamedSharding(recipe.mesh, PartitionSpec())
        self.differ = jax.jit(lambda one, other: one != other, out_shardings=everywhere)

    def check(self, step: int, state: states.TrainState, batch: step.Batch) -> None:
        """Before a step: its gradients twice, if it is due. All processes call it in turn.

        Raises:
            CorruptionError: they differ; the message names the device, or a group with it.
        """
        if step % self.every:
            return
        one, other = (compat.in_turn(self.program(state, batch)) for _ in range(2))
        differing = np.asarray(jax.device_get(self.differ(one, other)))
        if differing.any():
            raise CorruptionError(
                f"step {step:,}: its gradient, computed twice by one program, has other bits the "
                f"second time on {differing.sum()} of {differing.size} devices. "
                f"{culprit(self.recipe, differing)} Nothing has been saved since; the same "
                f"command goes on from the newest checkpoint, which is best done without that host."
            )


def make(
    recipe: recipes.Recipe,
    state: states.TrainState,
    batch: Mapping[str, jax.ShapeDtypeStruct],
) -> Replay | None:
    """The replay that a config asks for, compiled; to be called within `meshes.use`.

    Args:
        recipe: of the run.
        state: abstract, with shardings.
        batch: shape and dtype of every array of a batch.
    """
    if not recipe.config.replay.every:
        return None
    check_deterministic(recipe)
    gradient = step.make_gradient(recipe.objective, recipe.accumulate)
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state.params)

    def sums(state: states.TrainState, batch: step.Batch) -> jax.Array:
        (loss, _), grads = gradient(state, batch)
        return by_device((loss, grads), (PartitionSpec(), specs), recipe.mesh)

    def read(state: states.TrainState) -> states.TrainState:
        """What a gradient reads of it."""
        return state.replace(opt_state=(), ema=None, spikes=None)

    lowered = jax.jit(sums).trace(read(state), compiled.placed(recipe, batch)).lower()
    program = lowered.compile(compiler_options=recipe.compiler_options or None)
    return Replay(recipe, lambda state, batch: program(read(state), batch))


def by_device(tree: Any, specs: Any, mesh: jax.sharding.Mesh) -> jax.Array:
    """A checksum of what each device holds of a tree, [*mesh]; nothing crosses the network."""

    def local(tree):
        parts = [checksums.scrambled(part) for part in jax.tree.leaves(tree)]
        return jnp.stack(parts).sum(dtype=jnp.uint32).reshape((1,) * len(mesh.shape))

    out = PartitionSpec(*mesh.axis_names)
    return jax.shard_map(local, mesh=mesh, in_specs=(specs,), out_specs=out, check_vma=False)(tree)


def check_deterministic(recipe: recipes.Recipe) -> None:
    """On a GPU a program gives other bits each time, unless it is told not to."""
    option = "xla_gpu_deterministic_ops"
    if recipe.mesh.devices.flat[0].platform != "gpu":
        return
    if recipe.compiler_options.get(option) or f"{option}=true" in os.environ.get("XLA_FLAGS", ""):
        return
    raise config.InputError(
        f"replay.every = {recipe.config.replay.every}: a gradient has the same bits twice on a GPU "
        f"only with XLA_FLAGS=--{option}=true; set it, or replay.every = 0."
    )


def culprit(recipe: recipes.Recipe, differing: np.ndarray) -> str:
    """Whose fault it is, as far as it can be told: every device multiplies what is known."""
    own = "; ".join(selftest.faulty_devices())
    if found := [*filter(None, agreement.gathered("the devices' test", own))]:
        return f"A fixed chain of products goes wrong on: {'; '.join(found)}."
    hosts = agreement.gathered("the hosts' names", socket.gethostname())
    numbers = sorted({device.process_index for device in group(recipe, differing)})
    named = ", ".join(f"{hosts[number]} (process {number})" for number in numbers)
    return f"No device fails a fixed chain of products: it is some host of this group: {named}."


def group(recipe: recipes.Recipe, differing: np.ndarray) -> list[jax.Device]:
    """The devices whose gradients are summed with those that differ, [*mesh] bool.

    A sum is scattered: what one device got wrong may show on another. Along axes that cut no batch
    and no length no gradient is summed, and a fault of what is passed on shows everywhere.
    """
    table = dict(recipe.rules)
    summed = {axis for name in ("batch", "length") for axis in rules.as_tuple(table.get(name))}
    axes = tuple(i for i, axis in enumerate(recipe.mesh.axis_names) if axis in summed)
    touched = np.broadcast_to(differing.any(axes, keepdims=True), differing.shape)
    return list(recipe.mesh.devices[touched])
