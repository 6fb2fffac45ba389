"""How long a step would take under a layout, from the config's values alone: to rank, not to tell.

Products at the chip's efficiency, what remat computes again included; attention's kernels at their
share of it; other work by its bytes; collectives by the bytes of each mesh axis over the links that
it can span, of which the schedule hides a part. Memory is that of `analytic`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from bigmodel import costs
from bigmodel.plan import analytic, calibrate, setups, tensors
from bigmodel.plan.requests import Request
from bigmodel.plan.setups import Setup
from bigmodel.plan.simulate import ATTENTION_SHARE
from bigmodel.plan.topology import Topology
from bigmodel.plan.work import LANES
from bigmodel.sharding import rules

# Held against compiled programs (experiments/published_steps): bytes of main memory that the other
# work of a layer moves for each number of the residual stream, and for each parameter the update;
# the share of collectives that no compute hides. A ring of attention sees blocks that are masked
# half, twice the work, and at each turn joins float32 results.
STREAM_BYTES, UPDATE_BYTES, EXPOSED = 100.0, 30.0, 0.8
RING_WORK, RING_BYTES = 1.9, 240.0
HALF = 2.0  # bytes of what moves: bfloat16
COLLECTIVE_SECONDS = 5e-6  # at least


class Estimate(NamedTuple):
    """Of a layout, without compiling it; fields as in an answer's."""

    hbm_bytes: float
    memory: dict[str, float]
    host_bytes: float
    step_seconds: float
    time: dict[str, float]


def of(request: Request) -> Estimate:
    """The estimate for a request."""
    values, where = request.loaded.config, request.topology
    mesh = sizes_of(values.mesh.to_dict(), where.devices)
    table = rules.table(values.rules, values.extra_rules, tuple(mesh))
    return estimate(setups.of(values, mesh, dict(table), where.kind), where)


def sizes_of(wanted: Mapping[str, int], devices: int) -> dict[str, int]:
    """The mesh with its -1 filled in."""
    known = math.prod(n for n in wanted.values() if n != -1)
    return {axis: devices // known if n == -1 else n for axis, n in wanted.items()}


def estimate(setup: Setup, where: Topology) -> Estimate:
    """Memory and time of a layout."""
    held = analytic.memory(setup)
    time = seconds(setup, where, held.host)
    return Estimate(
        hbm_bytes=held.hbm,
        memory={name: getattr(held, name) for name in held._fields[:5]},
        host_bytes=held.host,
        step_seconds=sum(v for name, v in time.items() if name != "collectives_hidden"),
        time=time,
    )


def seconds(setup: Setup, where: Topology, host_bytes: float) -> dict[str, float]:
    """The parts of a step, named as in an answer; `host_bytes` go to the host and come back."""
    chip = where.chip
    if chip is None or not chip.link_bandwidth:
        return {"matrix": 0.0}
    fields, devices = setup.fields, math.prod(setup.mesh.values())
    speed = chip.peak_flops * calibrate.efficiency(chip)
    tokens = setup.batch * setup.length
    work = costs.forward_flops(fields, length=setup.length)
    head = 2.0 * fields["vocab"] * fields["width"]
    products = 3 * work.products + repeated(setup) * (work.products - head)
    # Two products forward, seven backward; a block on the diagonal is computed whole.
    again = fields["remat"] != "none" and "attention" not in fields["remat_save"]
    attention = work.attention * (1 + 3.5 + again) * 1.1
    attention *= max(1.0, LANES / costs.letters(fields)[-1])
    lost = 1.0 if setup.stages == 1 else setup.ticks / (setup.ticks - setup.stages + 1)
    local = tokens / setup.parts("batch") / setup.parts("length")
    moved = STREAM_BYTES * local * fields["width"] * fields["layers"] / setup.stages
    held = sum(setups.on_device(setup, tensor, 1) for tensor in setup.parameters)
    moved += UPDATE_BYTES * held
    ring = setup.mesh["context"] - 1 if fields.get("context_attention") == "ring" else 0
    if ring:
        attention *= RING_WORK
        width = fields["heads"] * (fields["head_dim"] or fields["width"] // fields["heads"])
        moved += ring * RING_BYTES * local * width * fields["layers"] / setup.stages
    through = collectives(setup, where, chip)
    host = 2 * host_bytes / chip.host_bandwidth
    time = {
        "matrix": tokens * products / devices / speed,
        "attention": tokens * attention / devices / speed / ATTENTION_SHARE,
        "other": moved / (chip.hbm_bandwidth * chip.memory_efficiency),
    }
    busy = sum(time.values())
    exposed = EXPOSED * through
    return time | {
        "collectives_exposed": exposed,
        "host_exposed": max(0.0, host - busy),
        "bubble": (lost - 1) * busy,
        "collectives_hidden": through - exposed,
    }


def repeated(setup: Setup) -> float:
    """Which share of a layer's products is computed twice."""
    fields = setup.fields
    if fields["remat"] in ("none", "attention"):
        return 0.0
    if fields["remat"] == "dots":
        return 0.0 if setup.stages == 1 else 1.0
    if fields["remat"] == "full":
        return 1.0
    _, D, F, H, K, C = costs.letters(fields)
    of_name = {"query": D * H * C, "key": D * K * C, "value": D * K * C, "out": D * H * C}
    of_name |= {"gate": D * F, "up": D * F, "down": D * F, "residual": D * H * C}
    whole = 2 * D * H * C + 2 * D * K * C + 3 * D * F
    kept = {*fields["remat_save"], *fields["remat_offload"]}
    # The last product of a layer is never needed for its gradient.
    return max(0.0, 1 - (D * F + sum(of_name.get(name, 0) for name in kept - {"down"})) / whole)


def collectives(setup: Setup, where: Topology, chip: costs.Chip) -> float:
    """Seconds of all that moves in a step, nothing hidden."""
    fields, mesh = setup.fields, setup.mesh
    turns = 2 + (fields["remat"] != "none")  # forward, again, backward
    micro = setup.accumulate * (setup.ticks if setup.stages > 1 else 1)
    rows = setup.rows * setup.local(setup.length, "length")
    stream = HALF * rows * fields["width"]
    layers = fields["layers"] / setup.stages
    gathers: dict[tuple[str, ...], float] = {}
    for tensor in setup.parameters:
        for axis in ("embed", "expert_embed"):
            if axis in tensor.axes and (cut := cut_by(setup, axis)):
                whole = setups.on_device(setup, tensor, 1, (axis,)) * HALF
                gathers[cut] = gathers.get(cut, 0.0) + whole
    total = 0.0
    for cut, whole in gathers.items():
        n = math.prod(mesh[axis] for axis in cut)
        total += (turns + 1) * micro * whole * (n - 1) / n / speed_of(setup, where, chip, cut)
        total += (turns + 1) * micro * layers * 7 * COLLECTIVE_SECONDS
    if (n := mesh["tensor"]) > 1:
        each = 2 * stream * (n - 1) / n / speed_of(setup, where, chip, ("tensor",))
        total += 2 * turns * micro * layers * (each + COLLECTIVE_SECONDS)
    if (n := mesh["context"]) > 1:
        *_, K, C = costs.letters(fields)
        each = 2 * HALF * rows * K * C * (n - 1) / speed_of(setup, where, chip, ("context",))
        total += (turns + 1) * micro * layers * each
    if (n := mesh["expert"]) > 1 and fields["experts"]:
        each = stream * fields["experts_per_token"] * (n - 1) / n
        total += 2 * turns * micro * layers * each / speed_of(setup, where, chip, ("expert",))
    if (n := mesh["data"]) > 1:
        grads = sum(setups.on_device(setup, tensor, 4) for tensor in setup.parameters)
        total += 2 * grads * (n - 1) / n / speed_of(setup, where, chip, ("data",))
    return total


def cut_by(setup: Setup, axis: str) -> tuple[str, ...]:
    """The mesh axes that really cut a logical axis."""
    return tuple(name for name in setup.rules[axis] if setup.mesh[name] > 1)


def speed_of(setup: Setup, where: Topology, chip: costs.Chip, axes: tuple[str, ...]) -> float:
    """Bytes/s into a device along mesh axes: over how many links depends on how far they reach.

    The mesh lays its last axes on the nearest chips. What is larger than a slice, or the first
    axis that the slices divide, goes through the network between them.
    """
    within = where.devices // max(1, where.slices)
    if where.platform == "gpu":
        within = where.shape[1]
    names = list(setup.mesh)
    span = math.prod(setup.mesh[axis] for axis in names[names.index(axes[0]) :])
    n = math.prod(setup.mesh[axis] for axis in axes)
    if (span > within and where.platform == "gpu") or crosses(setup, axes):
        inside = max(1, within * n // span) if where.platform == "gpu" else n // setup.slices
        return chip.slice_bandwidth * max(1, inside)
    if where.platform == "gpu":
        return chip.link_bandwidth
    sides = sorted(where.shape, reverse=True)
    lanes, reach = 0, 1
    for side in sides:
        if reach >= n:
            break
        ring = side == 16 if len(sides) == 2 else side % 4 == 0
        lanes += 2 if ring and n >= side else 1
        reach *= side
    return chip.link_bandwidth * max(1, lanes)


def crosses(setup: Setup, axes: tuple[str, ...]) -> bool:
    """Whether slices are cut along one of these axes: the first that they divide."""
    if setup.slices == 1:
        return False
    first = next((name for name, n in setup.mesh.items() if n % setup.slices == 0), "")
    return first in axes


def admissible(setup: Setup, fits: tuple[tensors.Tensor, ...] | None = None) -> bool:
    """Whether parameters, rows and length come apart evenly, as the recipe would have them."""
    fields, mesh = setup.fields, setup.mesh
    for tensor in fits or setup.parameters:
        taken: set[str] = set()
        for size, axis in zip(tensor.shape, tensor.axes, strict=True):
            cut = setup.rules[axis]
            kept = setup.rules.get(f"{rules.OF_STATE}{axis}", cut)  # how the optimizer has it
            pieces = (math.prod(mesh[name] for name in names) for names in (cut, kept))
            if any(size % n for n in pieces) or taken.intersection(cut):
                return False
            taken.update(name for name in cut)
    H, K = fields["heads"], fields["kv_heads"] or fields["heads"]
    rows = setup.parts("batch") * setup.accumulate
    rows *= (setup.microbatches or setup.stages) if setup.stages > 1 else 1
    length = setup.parts("residual_length")
    if mesh["context"] > 1 and fields.get("context_attention") == "ring":
        length = math.lcm(length, 2 * mesh["context"])
    return not (
        setup.batch % rows
        or setup.length % length
        or H % setup.parts("act_heads")
        or K % setup.parts("act_kv_heads")
    )
