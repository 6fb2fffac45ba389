"""Hardware by name: "v5p:8x8x8" in slices, "gpu:h200:128x8" (hosts x GPUs), "cpu:8"."""

import math
import re
from typing import Any

from bigmodel import config, costs
from bigmodel.costs.topology import Topology, text
from bigmodel.plan import gpus

FORMS = "v5p:8x8x8 (chips of a slice), gpu:h200:128x8 (hosts x GPUs), cpu:8 (simulated)"


def parse(name: str, slices: int = 1) -> Topology:
    """The topology of a name.

    Raises:
        InputError: what is wrong with the name, the known ones, and the nearest.
    """
    kind, _, rest = name.partition(":")
    if slices < 1:
        raise config.InputError(f"--slices={slices}: a topology has one slice at least.")
    if kind == "cpu":
        count = whole(name, rest, 1)[0]
        return Topology(name, "cpu", "cpu", (count,), slices)
    if kind == "gpu":
        model, _, of_hosts = rest.partition(":")
        if model not in gpus.TARGETS:
            known = [f"gpu:{one}" for one in gpus.TARGETS]
            refuse(name, f"no GPU {model!r}", known, f"gpu:{model}")
        if slices > 1:
            raise config.InputError(f"--slices={slices}: of GPUs the hosts stand in the name.")
        return Topology(name, "gpu", model, whole(name, of_hosts, 2))
    if kind not in costs.GENERATIONS:
        refuse(name, f"no hardware {kind!r}", [*costs.GENERATIONS, "gpu:h100", "cpu"], kind)
    generation = costs.GENERATIONS[kind]
    shape = whole(name, rest, generation.dims)
    bad = any(n > most for n, most in zip(sorted(shape), sorted(generation.most), strict=True))
    if bad or not admissible(shape, generation.dims):
        usual = list(dict.fromkeys([*shapes(kind), generation.most]))
        near = min(usual, key=lambda s: distance(s, shape))
        raise config.InputError(
            f"--topology={name}: {kind} has no slice of {text(shape)} chips; known are "
            f"{', '.join(map(text, usual))}. The nearest is {kind}:{text(near)}."
        )
    return Topology(name, "tpu", kind, shape, slices)


def refuse(name: str, what: str, known: list[str], word: str) -> None:
    raise config.InputError(
        f"--topology={name}: {what}; known are {', '.join(known)}.{config.nearest(word, known)} "
        f"A topology is written as {FORMS}."
    )


def whole(name: str, shape: str, dims: int) -> tuple[int, ...]:
    """ "4x4x8" as numbers."""
    parts = shape.split("x")
    if len(parts) != dims or not all(re.fullmatch(r"[1-9]\d*", part) for part in parts):
        wanted = "x".join(["N"] * dims)
        raise config.InputError(
            f"--topology={name}: {shape!r} is not {wanted}; a topology is written as {FORMS}."
        )
    return tuple(map(int, parts))


def admissible(shape: tuple[int, ...], dims: int) -> bool:
    """Hosts have 2 x 2 chips; larger cuboids are made of cubes of four."""
    if shape in ((1, 1), (2, 4), (4, 2), (1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)):
        return True
    if dims == 2:
        return all(n in (2, 4, 8, 16) for n in shape)
    return all(n % 4 == 0 for n in shape)


def shapes(kind: str) -> list[tuple[int, ...]]:
    """The usual shapes of a generation, up to 1,024 chips."""
    if costs.GENERATIONS[kind].dims == 2:
        return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
    small = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
    return [*small, (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16)]


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return abs(math.log(math.prod(a) / math.prod(b))) + 0.01 * sum(
        abs(x - y) for x, y in zip(sorted(a), sorted(b), strict=True)
    )


def devices(topology: Topology) -> list[Any]:
    """jax's descriptions of the devices; nothing of them is here."""
    import jax

    if topology.platform == "cpu":
        return jax.devices("cpu")[: topology.devices]
    if topology.platform == "gpu":
        return gpus.devices(topology.kind, *topology.shape)
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.kind == "v4":  # else it shows two devices a chip
        options["chip_config_name"] = "megacore"
    name = f"{topology.kind}:{text(topology.shape)}"
    made = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    return list(made.devices)
