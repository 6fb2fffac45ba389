"""Programs for tests: written by hand, or kept as a compiler wrote them."""

import dataclasses
import gzip
import json
import pathlib
import re
import sys

import numpy as np

from bigmodel import costs
from bigmodel.plan import memory, network, requests, simulate
from bigmodel.plan.program import Program

KEPT = pathlib.Path(__file__).parents[1] / "golden" / "programs"
V5E = costs.chip("TPU v5e")
CHIP = costs.Chip("TPU v5p", "", 1e12, 1e9, 1e9, 1e9, 1e8, 1e8, 1.0)  # round numbers


def net(shape=(4, 4, 4), mesh=None, slices=1, per_chip=1, chip=CHIP):
    """Devices of slices of a shape, numbered as they stand, and a mesh over them."""
    here = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, len(shape))
    here = np.repeat(here, per_chip, 0)
    numbers = np.repeat(np.arange(slices), len(here))
    mesh = {"fsdp": len(numbers)} if mesh is None else mesh
    return network.Network(chip, mesh, np.tile(here, (slices, 1)), numbers)


def spent(text, devices=None, efficiency=1.0):
    """What a program takes; of a text without a computation, its entry's lines are that."""
    if "ENTRY" not in text:
        text = "ENTRY %main (x: f32[]) -> f32[] {\n" + text + "\n}\n"
    return simulate.Clock(Program(text), devices or net(), efficiency).run()


def load(name):
    """(what the compiler wrote, what was read off it) of a kept program."""
    kept = json.loads(gzip.decompress((KEPT / f"{name}.json.gz").read_bytes()))
    return requests.Found(**kept), json.loads((KEPT / f"{name}.json").read_text())


def facts(found):
    """What is read off a program, for a test to hold it to."""
    whole, chip = Program(found.program), costs.chip(found.meta["kind"])
    took = simulate.Clock(whole, network.Network.of(found.meta, chip), 0.95).run()
    held = memory.held(whole, found.allocations, found.live, found.meta, trains=True)
    moved = {}
    for one, (times, seconds, _) in took.collectives.items():
        row = moved.setdefault(f"{one.kind} {'+'.join(one.axes)}", [0, 0.0, 0.0])
        row[0], row[1], row[2] = row[0] + times, row[1] + times * one.bytes, row[2] + seconds
    return {
        "versions": {name: found.meta["versions"][name] for name in ("jax", "libtpu")},
        "seconds": took.seconds,
        "parts": dict(took.parts),
        "collectives": moved,  # times, bytes, seconds
        "hbm_traffic": sum(row[3] for row in took.operations.values()),
        "matrix_flops": sum(r[2] for (_, what), r in took.operations.items() if what == "matrix"),
        "hbm_bytes": held.total,
        "memory": held.kinds,
        "largest": [each["name"] for each in held.largest],
    }


def stripped(found):
    """Without kernels' code, and without tables that name files of who compiled."""
    text = re.sub(r'"body":"[^"]*"', '"body":""', found.program)
    text = re.sub(r"\nFileNames\n.*?\n(?=(ENTRY )?%)", "\n", text, flags=re.DOTALL)
    text = re.sub(r" ?(stack_frame_id|source_\w+)=(\"[^\"]*\"|\d+)", "", text)
    live = "\n".join(
        line for line in found.live.splitlines() if re.match(r"    \S+:\d+-\d+$", line)
    )
    return dataclasses.replace(found, program=text, live=live + "\n")


def keep(name, found):
    """Stores a program and what is read off it."""
    KEPT.mkdir(exist_ok=True)
    found = stripped(found)
    packed = gzip.compress(json.dumps(dataclasses.asdict(found)).encode(), 9, mtime=0)
    (KEPT / f"{name}.json.gz").write_bytes(packed)
    (KEPT / f"{name}.json").write_text(json.dumps(facts(found), indent=1) + "\n")


if __name__ == "__main__":  # name of a kept program ...: what is read off it, anew
    for each in sys.argv[1:]:
        keep(each, load(each)[0])
