"""Devices on their networks: over which mesh axes a collective goes, and how long it takes."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import costs
from bigmodel.plan.program import Instruction

HOP_SECONDS = 1e-6  # from one chip to the next
# Of GPUs' links what NCCL's rings reach, and what one takes that moves next to nothing. In a host
# as XLA's authors measured it on 8 H100 (collective_interpolator_data.h, 2 GiB and 1 KiB), between
# hosts as XLA's own model of H100 has it (45 us to launch, 31 us there and back).
RING_SHARE, NEAR_SECONDS, FAR_SECONDS = 0.76, 30e-6, 76e-6


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
        if not self.coords.shape[1]:
            return self.in_rings(kind, whole, group)
        near = [g for g in group if self.slices[g] == self.slices[group[0]]]
        parts, inside = n // len(near), len(near)
        speed, hops = self.links(near)
        if "all-to-all" in kind:  # each device sends a part of its own to each other slice
            within, own = self.exchange(in_bytes / parts, near), in_bytes
        else:
            times = 2 if kind == "all-reduce" else 1
            within, own = times * whole * (inside - 1) / inside / speed, times * whole / inside
        between = own * (parts - 1) / parts / self.chip.slice_bandwidth
        return max(between, within) + (HOP_SECONDS * hops if inside > 1 else 0.0)

    def in_rings(self, kind: str, whole: float, group: Sequence[int]) -> float:
        """Of GPUs: rings through all of a host's that take part leave it by the NIC of each."""
        n, hosts = len(group), len(set(self.slices[np.asarray(group)]))
        times = 2 if kind == "all-reduce" else 1
        near = times * whole * (n - 1) / n / (RING_SHARE * self.chip.link_bandwidth)
        if hosts == 1:
            return near + NEAR_SECONDS
        doors = 1 if "all-to-all" in kind else n / hosts
        far = times * whole * (hosts - 1) / hosts / doors / self.chip.slice_bandwidth
        return max(near if hosts < n else 0.0, far) + FAR_SECONDS

    def exchange(self, in_bytes: float, group: Sequence[int]) -> float:
        """Each device sends half of what it has through the middle.

        There as many links go as there are lines of devices along the dimension, twice as many
        where it closes to a ring; the devices of a chip share them.
        """
        coords = self.coords[np.asarray(group)]
        spans = np.array([len(set(column)) for column in coords.T])
        if not (spans > 1).any():  # the devices of one chip
            return in_bytes * (len(group) - 1) / len(group) / (6 * self.chip.link_bandwidth)
        rings = self.wraps & (spans == self.extent)
        of_dim = np.where(rings, spans / 8, spans / 4)[spans > 1]
        return float(in_bytes * of_dim.max() * self.per_chip / self.chip.link_bandwidth)

    def sent(self, in_bytes: float, pairs: Sequence[tuple[int, int]]) -> float:
        """Of a permutation: how long the busiest way is held."""
        if any(self.slices[a] != self.slices[b] for a, b in pairs):
            return in_bytes / self.chip.slice_bandwidth
        if not self.coords.shape[1]:
            return in_bytes / (RING_SHARE * self.chip.link_bandwidth) + NEAR_SECONDS
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
    """The first of the groups of devices that a collective goes over, in any of four notations."""
    ids = np.arange(devices)
    rest = one.rest
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        rows, shape, order = (numbers(part) for part in found.groups())
        laid = ids.reshape(shape)
        laid = laid.transpose(order) if order else laid
        return laid.reshape(rows[0], -1)[0].tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}", rest):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", found[1])}
        if moved := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", found[2]):
            shape, turned = (numbers(part) for part in moved.groups())
            ids = ids.reshape(shape).transpose(turned or None).ravel()
        # 'a' is a whole axis, 'a':(2)4 of its places, seen as 2 x 4 x the rest, those in the middle
        used = {n: parts for n, *parts in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", found[3])}
        shape = []
        kept: list[Any] = []
        for name, size in sizes.items():
            before, own = (int(n or 1) for n in used.get(name, ("1", "1")))
            own = size if name in used and not used[name][1] else own
            shape += [before, own, size // before // own]
            kept += [0, slice(None), 0]
        return ids[: math.prod(shape)].reshape(shape)[tuple(kept)].ravel().tolist()
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
