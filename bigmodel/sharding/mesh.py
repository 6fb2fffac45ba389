"""The mesh: devices by named axes, slowest network first."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils

from bigmodel import config

# "data" may cross slices over the data-centre network (DCN); the rest stay on ICI or NVLink.
AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")


def sizes(wanted: Mapping[str, int], devices: int) -> dict[str, int]:
    """The size of every axis; one may be -1 and takes what the others leave.

    Raises:
        InputError: a size is no count, two are -1, or their product is not that of the devices.
    """
    found = {axis: wanted.get(axis, 1) for axis in (*AXES, *wanted)}
    for axis, size in found.items():
        if size < 1 and size != -1:
            raise config.InputError(
                f"mesh.{axis} = {size}: a size is at least 1, or -1 for the rest."
            )
    free = [axis for axis, size in found.items() if size == -1]
    if len(free) > 1:
        raise config.InputError(f"mesh: only one axis may be -1, not {' and '.join(free)}.")
    product = math.prod(size for size in found.values() if size != -1)
    shown = (
        " x ".join(f"{axis} {size}" for axis, size in found.items() if size not in (1, -1)) or "1"
    )
    if free:
        if devices % product:
            raise config.InputError(
                f"mesh.{free[0]} = -1: the other axes ({shown} = {product}) must divide "
                f"the {devices} devices."
            )
        found[free[0]] = devices // product
    elif product > devices:
        raise config.InputError(
            f"mesh: {shown} needs {product} devices and there are {devices}; "
            f"set one axis to -1 to take what is there."
        )
    return found


def make(
    wanted: Mapping[str, int], *, slices: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh over the first devices that the sizes need, all of its axes left to the compiler.

    Args:
        wanted: size of each axis, one may be -1.
        slices: how many parts joined by DCN; cut along the first axis that this divides.
        devices: what to lay out; None: all there are, some of every process.
    """
    everywhere = devices is None
    devices = jax.devices() if devices is None else list(devices)
    found = sizes(wanted, len(devices))
    shape = tuple(found.values())
    used = of_slices(devices, math.prod(shape), slices)
    if everywhere:
        check_processes(used)
    if slices > 1:
        cut = slice_axis(found, slices)
        outer = tuple(slices if axis == cut else 1 for axis in found)
        inner = tuple(n // k for n, k in zip(shape, outer, strict=True))
        if len({getattr(d, "slice_index", 0) for d in used}) == slices:
            array = mesh_utils.create_hybrid_device_mesh(
                inner, outer, used, allow_split_physical_axes=True
            )
        else:  # simulated devices know no slices: equal runs of them stand in
            blocks = np.array(used).reshape(slices, *inner)
            array = np.concatenate(list(blocks), axis=tuple(found).index(cut))
    elif used[0].platform == "tpu":
        array = mesh_utils.create_device_mesh(shape, used, allow_split_physical_axes=True)
    else:
        array = np.array(used).reshape(shape)
    axis_types = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.sharding.Mesh(array, tuple(found), axis_types=axis_types)


def of_slices(devices: Sequence[jax.Device], wanted: int, slices: int) -> list[jax.Device]:
    """The devices that a mesh takes: as many of each slice, where the hardware has slices."""
    by_slice: dict[int, list[jax.Device]] = {}
    for device in devices:
        by_slice.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if devices[0].platform == "tpu" and len(by_slice) != slices:
        raise config.InputError(
            f"mesh_slices = {slices}: the {len(devices)} TPU devices here are of {len(by_slice)} "
            f"slices; allowed is {len(by_slice)}."
        )
    if len(by_slice) != slices:
        return list(devices[:wanted])
    each = wanted // slices
    return [device for number in sorted(by_slice) for device in by_slice[number][:each]]


def check_processes(used: Sequence[jax.Device]) -> None:
    """Every process of a job must hold a part of the mesh: it has nothing to run else."""
    idle = set(range(jax.process_count())) - {device.process_index for device in used}
    if idle:
        raise config.InputError(
            f"mesh: its {len(used)} of {jax.device_count()} devices leave process {min(idle)} of "
            f"{jax.process_count()} without any; set one axis to -1, or start fewer processes."
        )


def slice_axis(found: Mapping[str, int], slices: int) -> str:
    """The axis that crosses slices: the first whose size they divide."""
    for axis, size in found.items():
        if size % slices == 0:
            return axis
    shown = ", ".join(f"{axis} {size}" for axis, size in found.items())
    raise config.InputError(
        f"mesh_slices = {slices} divides no axis of the mesh ({shown}); make one a multiple of "
        f"it, at best {AXES[0]!r}."
    )


@contextlib.contextmanager
def use(mesh: jax.sharding.Mesh, rules: Sequence[tuple]) -> Iterator[None]:
    """Within it, modules' logical axes mean this mesh."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield
