"""A sign of life, as one process writes it and another one reads it."""

from typing import NamedTuple


class At(NamedTuple):
    """Where a process is.

    Attributes:
        phase: in words: "step", "compile", "evaluate".
        step: number of steps done.
        since: time.monotonic() at which it came there.
    """

    phase: str
    step: int
    since: float


class Beat(NamedTuple):
    """What process 0 knows of another one.

    Attributes:
        text: as it said.
        changed: time.monotonic() here when it last said something new.
    """

    text: str
    changed: float

    @property
    def phase(self) -> str:
        return self.text.split("|")[1]

    @property
    def step(self) -> int:
        return int(self.text.split("|")[2])

    @property
    def waited(self) -> float:
        return float(self.text.split("|")[3])


def text(count: int, where: At, waited: float) -> str:
    """The beat of that number; `waited`: seconds for data since the start."""
    return f"{count}|{where.phase}|{where.step}|{waited}"
