"""What a run would cost on hardware that is not here: compile it, read the program, search."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bigmodel import config
from bigmodel import recipe as recipes
from bigmodel.plan import answer, compiling, topology
from bigmodel.plan.requests import Request
from bigmodel.sharding import mesh as meshes

TASKS = ("train", "evaluate", "prefill", "decode")


def plan(
    loaded: config.Loaded | Any,
    where: str,
    *,
    slices: int = 1,
    task: str = "train",
    prompt: int = 1024,
    full: bool = False,
    cached: bool = True,
) -> dict[str, Any]:
    """What a step of a config costs on a topology, told by that hardware's own compiler.

    Args:
        loaded: from `bigmodel.load_config`, or a config.
        where: "v5p:8x8x8" (chips of a slice), "gpu:h200:128x8" (hosts x GPUs), "cpu:8" (simulated).
        slices: parts joined by the data-centre network.
        task: "train" (the step), "evaluate" (a batch), "prefill" (a batch of prompts is read) or
            "decode" (one more token of each row, with a cache).
        prompt: tokens of a prompt; of "decode" those in the cache.
        full: compiles to the end instead of to the schedule: minutes, not seconds.
        cached: whether to take and keep answers of the same request, versions and library.

    Returns:
        Plain values by name, see docs/plan.md.

    Raises:
        InputError: no such topology, its compiler is not installed, or the config does not fit it.
        CompileError: the compiler's own reason.
    """
    request = make_request(loaded, where, slices=slices, task=task, prompt=prompt, full=full)
    check_mesh(request)
    return answer.plan(request, compiling.compile_one(request, cached=cached))


def make_request(
    loaded: config.Loaded | Any, where: str, *, slices: int = 1, **options: Any
) -> Request:
    """A checked config on a topology; `mesh_slices` is the topology's."""
    found = topology.parse(where, slices)
    loaded = recipes.resolve(loaded)
    values = loaded.config.copy_and_resolve_references()
    values.mesh_slices = found.slices
    loaded = dataclasses.replace(loaded, config=values.lock())
    return Request(loaded, found, **options)


def check_mesh(request: Request) -> None:
    """Refuses a mesh that is not of all the devices: no pod is rented to use a part of it."""
    values, where = request.loaded.config, request.topology
    sizes = meshes.sizes(values.mesh.to_dict(), where.devices)
    product = math.prod(sizes.values())
    if product != where.devices and where.platform != "cpu":
        shown = " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1) or "1"
        raise config.InputError(
            f"mesh: {shown} = {product} devices, and {where.name} has {where.devices}"
            + (f" in {where.slices} slices" if where.slices > 1 else "")
            + "; set one axis to -1 to take what is there, such as --config.mesh.fsdp=-1."
        )


def changed(loaded: config.Loaded, overrides: Sequence[tuple[str, Any]]) -> config.Loaded:
    """A config with some fields put otherwise."""
    values = loaded.config.copy_and_resolve_references().unlock()
    for path, value in overrides:
        *sections, field = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[field] = value
    said = tuple(f"{path}={value}" for path, value in overrides)
    return dataclasses.replace(loaded, config=values.lock(), overrides=(*loaded.overrides, *said))
