"""What a program takes, part by part: seconds, collectives, operations."""

import collections
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Moved:
    """A collective, as a program writes it.

    Attributes:
        bytes: that go in on one device, each time.
        devices: that take part.
        synchronous: whether the core stands still meanwhile.
        layer: see `names.layer`.
        turn: see `names.turn`.
    """

    kind: str
    axes: tuple[str, ...]
    network: str
    bytes: int
    devices: int
    synchronous: bool
    layer: str
    turn: str


def fresh() -> dict[Any, float]:
    return collections.defaultdict(float)


@dataclasses.dataclass
class Spent:
    """What a computation takes.

    Attributes:
        seconds: of the core's clock.
        parts: seconds by what they go to; those of a start are added at its done.
        collectives: collective -> [times, seconds, exposed seconds].
        operations: (layer, what) -> [times, seconds, FLOPs, bytes].
        loops: trips -> seconds of all loops with so many.
    """

    seconds: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=fresh)
    collectives: dict[Moved, list[float]] = dataclasses.field(default_factory=dict)
    operations: dict[tuple[str, str], list[float]] = dataclasses.field(default_factory=dict)
    loops: dict[int, float] = dataclasses.field(default_factory=fresh)

    def add(self, other: "Spent", times: int = 1) -> None:
        self.seconds += times * other.seconds
        for part, seconds in other.parts.items():
            self.parts[part] += times * seconds
        for trips, seconds in other.loops.items():
            self.loops[trips] += times * seconds
        add_rows(self.collectives, other.collectives, times)
        add_rows(self.operations, other.operations, times)


def add_rows(mine: dict[Any, list[float]], theirs: dict[Any, list[float]], times: int) -> None:
    for key, row in theirs.items():
        total = mine.setdefault(key, [0.0] * len(row))
        for i, value in enumerate(row):
            total[i] += times * value
