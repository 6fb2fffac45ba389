"""Devices on their networks: over which mesh axes a collective goes, and how long it takes."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import costs
from bigmodel.plan.program import Instruction

HOP_SECONDS = 1e-6  # from one chip to the next


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The devices of a mesh where they stand, in the order in which the program numbers them.

    Attributes:
        chip: what each of them is.
        mesh: sizes by axis, the slowest first.
        coords: [devices, dims], in the torus of the slice; GPUs stand in none: [devices, 0].
        slices: [devices], the slice (of a GPU: the host) that each is in.
        names: of the network inside a slice and of that between slices.
    """

    chip: costs.Chip
    mesh: Mapping[str, int]
    coords: np.ndarray
    slices: np.ndarray
    names: tuple[str, str] = ("ICI", "DCN")

    @classmethod
    def of(cls, meta: Mapping[str, Any], chip: costs.Chip) -> "Network":
        """From what the process that compiled wrote down."""
        places = np.array(meta["coords"], int).reshape(len(meta["slice_of"]), -1)
        return cls(chip, meta["mesh"], places, np.array(meta["slice_of"]), tuple(meta["networks"]))

    @functools.cached_property
    def extent(self) -> np.ndarray:
        return self.coords.max(0, initial=0) + 1

    @functools.cached_property
    def wraps(self) -> np.ndarray:
        """Which dimensions close to a ring: 16 of a plane; all of whole cubes of four."""
        planar = any(g.chip == self.chip.name and g.dims == 2 for g in costs.GENERATIONS.values())
        if planar:
            return self.extent == 16
        return np.full(len(self.extent), bool((self.extent % 4 == 0).all()))

    @functools.cached_property
    def per_chip(self) -> int:
        """Devices that stand at one place and share its links."""
        if not self.coords.shape[1]:
            return 1
        here = (self.coords == self.coords[0]).all(1) & (self.slices == self.slices[0])
        return int(here.sum())

    def crosses(self, group: Sequence[int]) -> bool:
        return len(set(self.slices[np.asarray(group)])) > 1

    def axes(self, members: Sequence[int]) -> tuple[str, ...]:
        """The mesh axes along which devices differ."""
        shape = tuple(self.mesh.values())
        places = np.stack(np.unravel_index(np.asarray(members), shape))
        differ = (places != places[:, :1]).any(1)
        return tuple(axis for axis, yes in zip(self.mesh, differ, strict=True) if yes)

    def links(self, group: Sequence[int]) -> tuple[float, int]:
        """Bytes/s into a device over all links that a group spans, and its longest way in hops."""
        coords = self.coords[np.asarray(group)]
        if not coords.shape[1]:
            return self.chip.link_bandwidth, 1
        spans = np.array([len(set(column)) for column in coords.T])
        rings = self.wraps & (spans == self.extent)
        lanes = int(((spans > 1) * (1 + rings)).sum())
        hops = int(np.where(rings, spans // 2, spans - 1)[spans > 1].sum())
        members = len(group) / max(1, len({tuple(c) for c in coords}))  # of the group, on a chip
        share = members / self.per_chip
        if not lanes:  # the devices of one chip
            return 6 * self.chip.link_bandwidth, 1
        return lanes * self.chip.link_bandwidth * share, hops

    def seconds(self, kind: str, in_bytes: float, out_bytes: float, group: Sequence[int]) -> float:
        """How long a collective holds the links of a group.

        Gathers and scatters send (n - 1) / n of the whole along all links at once; a reduction to
        all is both. An exchange is bound by the cut through the middle of the longest dimension.
        """
        n, whole = len(group), max(in_bytes, out_bytes)
        if n <= 1:
            return 0.0
        if self.crosses(group):
            parts = len(set(self.slices[np.asarray(group)]))
            times = 2 if kind == "all-reduce" else 1
            inside = n / parts
            between = times * whole * (parts - 1) / parts / inside / self.chip.slice_bandwidth
            if inside == 1:
                return between
            speed, hops = self.links([g for g in group if self.slices[g] == self.slices[group[0]]])
            return max(between, times * whole * (inside - 1) / inside / speed) + HOP_SECONDS * hops
        speed, hops = self.links(group)
        if "all-to-all" in kind:
            return self.exchange(in_bytes, group) + HOP_SECONDS * hops
        times = 2 if kind == "all-reduce" else 1
        return times * whole * (n - 1) / n / speed + HOP_SECONDS * hops

    def exchange(self, in_bytes: float, group: Sequence[int]) -> float:
        coords = self.coords[np.asarray(group)]
        if not coords.shape[1]:
            return in_bytes * (len(group) - 1) / len(group) / self.chip.link_bandwidth
        spans = np.array([len(set(column)) for column in coords.T])
        rings = self.wraps & (spans == self.extent)
        # Each device sends half of what it has through the middle, where as many links go as there
        # are lines of devices along the dimension.
        of_dim = np.where(rings, spans / 8, spans / 4)[spans > 1]
        return float(in_bytes * of_dim.max(initial=0.5) / self.chip.link_bandwidth)

    def sent(self, in_bytes: float, pairs: Sequence[tuple[int, int]]) -> float:
        """Of a permutation: how long the busiest way is held."""
        if any(self.slices[a] != self.slices[b] for a, b in pairs):
            return in_bytes / self.chip.slice_bandwidth
        if not self.coords.shape[1]:
            return in_bytes / self.chip.link_bandwidth
        return in_bytes / self.chip.link_bandwidth + HOP_SECONDS

    def lanes(self, members: Sequence[int], pairs: Sequence[tuple[int, int]]) -> set[Any]:
        """The queues that a collective stands in: (dimension, direction) of links, or a network."""
        if pairs:
            return self.ways(pairs)
        if self.crosses(members):
            return {self.names[1]}
        coords = self.coords[np.asarray(members)]
        spans = [dim for dim, column in enumerate(coords.T) if len(set(column)) > 1]
        return {(dim, way) for dim in spans for way in (1, -1)} or {self.names[0]}

    def ways(self, pairs: Sequence[tuple[int, int]]) -> set[Any]:
        counts: dict[Any, int] = {}
        for a, b in pairs[:64]:
            if self.slices[a] != self.slices[b]:
                return {self.names[1]}
            for dim, step in enumerate(self.coords[b] - self.coords[a]):
                if step:
                    turned = -step if abs(step) > self.extent[dim] // 2 else step
                    way = (dim, int(np.sign(turned)))
                    counts[way] = counts.get(way, 0) + 1
        most = max(counts.values(), default=0)
        return {way for way, count in counts.items() if count == most} or {self.names[0]}


def group_of(one: Instruction, devices: int) -> list[int]:
    """The first of the groups of devices that a collective goes over, in any of three notations."""
    ids = np.arange(devices)
    rest = one.rest
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        rows, shape, order = (numbers(part) for part in found.groups())
        laid = ids.reshape(shape)
        laid = laid.transpose(order) if order else laid
        return laid.reshape(rows[0], -1)[0].tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = re.findall(r"'(\w+)'=(\d+)", found[1])
        used = re.findall(r"'(\w+)'", found[2])
        laid = ids[: np.prod([int(n) for _, n in sizes])].reshape([int(n) for _, n in sizes])
        return laid[tuple(slice(None) if axis in used else 0 for axis, _ in sizes)].ravel().tolist()
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return numbers(found[1])
    return ids.tolist()


def pairs_of(one: Instruction) -> list[tuple[int, int]]:
    """Who sends to whom in a permutation."""
    found = re.search(r"source_target_pairs=\{(.*?)\}\}", one.rest)
    pairs = re.findall(r"\{(\d+),(\d+)", found[0]) if found else []
    return [(int(a), int(b)) for a, b in pairs]


def numbers(text: str | None) -> list[int]:
    return [int(n) for n in (text or "").split(",") if n]
