"""Devices that need not be here, and how they stand in hosts and slices."""

import dataclasses
import math

from bigmodel.costs import chips as table

NETWORKS = {
    "tpu": ("ICI", "DCN"),
    "gpu": ("NVLink", "InfiniBand"),
    "cpu": ("memory", "memory"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that need not be here.

    Attributes:
        name: as it was given.
        platform: "tpu", "gpu" or "cpu".
        kind: the generation of TPUs, or the GPU by name.
        shape: chips along each dimension of a slice; of GPUs hosts and GPUs a host.
        slices: parts joined by the data-centre network.
    """

    name: str
    platform: str
    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def per_chip(self) -> int:
        """JAX devices of a chip."""
        return table.GENERATIONS[self.kind].devices if self.platform == "tpu" else 1

    @property
    def devices(self) -> int:
        return self.chips * self.per_chip

    @property
    def chip(self) -> table.Chip | None:
        """Of the table; None for simulated devices."""
        if self.platform == "tpu":
            return table.chip(table.GENERATIONS[self.kind].chip)
        return table.chip(self.kind) if self.platform == "gpu" else None

    @property
    def networks(self) -> tuple[str, str]:
        """Names of the network inside a slice (of GPUs a host) and of that between them."""
        return NETWORKS[self.platform]

    @property
    def hosts(self) -> int:
        """Machines, of all slices; simulated devices stand in one of each."""
        if self.platform == "gpu":
            return self.shape[0]
        if self.platform == "cpu":
            return self.slices
        return self.chips // self.chips_per_host

    @property
    def chips_per_host(self) -> int:
        """Chips that one machine sees.

        A TPU host has four chips, and of v5e and v6e slices of up to eight stand in one host
        (cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: ct5lp-hightpu-8t and
        ct6e-standard-8t for 2x4); smaller slices are a part of a host.
        """
        if self.platform == "gpu":
            return self.shape[1]
        slice_chips = math.prod(self.shape)
        if self.platform == "cpu":
            return slice_chips
        whole = 8 if table.GENERATIONS[self.kind].dims == 2 and slice_chips <= 8 else 4
        return min(whole, slice_chips)

    @property
    def shape_text(self) -> str:
        """The shape as a name has it: "4x4x8"."""
        return text(self.shape)


def text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
