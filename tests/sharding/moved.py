"""Counts from a scheduled program's text what its collectives move, loops by their trips.

A collective stands as it is, as a pair of start and done, or in the computation of a fusion; those
of one chain, which fusions of a schedule start, carry on and end beside products, are one.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all"),
    *("ragged-all-to-all", "collective-permute"),
)
HEAD = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\{\s*$")
LINE = re.compile(
    r"^\s*(?P<root>ROOT )?%(?P<name>[\w.\-]+) = "
    r"(?P<type>\(.*?\)|\S+) (?P<op>[a-z][\w\-]*)\((?P<rest>.*)$"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: name = type op(operands), rest."""

    name: str
    type: str
    op: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ", 1)[0])

    def attribute(self, name: str) -> str:
        found = re.search(name + r"=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Collective:
    """What one moves each time that it runs, and how often it does.

    Attributes:
        kind: of KINDS.
        operand_bytes: of what goes in, on one device.
        devices: that take part.
        times: runs in one run of the program.
        where: its op_name.
    """

    kind: str
    operand_bytes: int
    devices: int
    times: int
    where: str

    @property
    def bytes(self) -> int:
        return self.operand_bytes * self.times

    @property
    def sent_bytes(self) -> float:
        """What leaves a device, along a ring: the same for one gather and for its permutes."""
        n = self.devices
        factor = {
            "all-gather": n - 1,
            "all-reduce": 2 * (n - 1) / n,
            "collective-permute": 1,
        }
        return self.bytes * factor.get(self.kind, (n - 1) / n)


def by_kind(found: list[Collective], sent: bool = False) -> dict[str, float]:
    """Megabytes by kind of collective, and all of them."""
    total: dict[str, float] = collections.defaultdict(float)
    for one in found:
        moved = (one.sent_bytes if sent else one.bytes) / 1e6
        total[one.kind] += moved
        total["all"] += moved
    return dict(total)


def collectives(text: str) -> list[Collective]:
    """All collectives of a scheduled program."""
    return list(Program(text).run())


class Program:
    """The computations of a program's text."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", None
        for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
            if head := HEAD.match(line):
                current = self.computations.setdefault(head["name"], {})
                self.entry = head["name"] if head["entry"] else self.entry
            elif current is not None and (found := LINE.match(line)):
                current[found["name"]] = Instruction(
                    *(found["name"], found["type"], found["op"], found["rest"]),
                    root=bool(found["root"]),
                )

    def run(self, name: str = "", times: int = 1) -> Iterator[Collective]:
        """The collectives of a scheduled computation that runs so many times."""
        seen = set()
        for one in self.computations[name or self.entry].values():
            if one.op == "while":
                body = one.attribute("body")
                yield from self.run(body, times * self.trips(one.attribute("condition"), body))
            elif one.op == "conditional":
                branches = [list(self.run(branch, times)) for branch in self.branches(one)]
                yield from max(branches, key=lambda found: sum(c.bytes for c in found))
            elif one.op == "call":
                yield from self.run(one.attribute("to_apply"), times)
            else:
                for holder, inner in self.within(name or self.entry, one):
                    chain = re.search(r'chain_id="(\d+)"', inner.rest)
                    if not chain or chain[1] not in seen:
                        seen.add(chain[1] if chain else "")
                        yield self.collective(holder, inner, times)

    def within(self, holder: str, one: Instruction) -> Iterator[tuple[str, Instruction]]:
        """The instruction, if it is a collective that begins, or those in what it calls."""
        if one.op.removesuffix("-start") in KINDS:
            yield holder, one
        for called in (one.attribute("calls"), one.attribute("called_computations=\\{?")):
            for inner in self.computations.get(called, {}).values():
                yield from self.within(called, inner)

    def collective(self, holder: str, one: Instruction, times: int) -> Collective:
        known, kind = self.computations[holder], one.op.removesuffix("-start")
        operands = [known[name] for name in one.operands if name in known]
        if kind == "ragged-all-to-all":  # the rows, not where they go to nor the tables
            operands = operands[:1]
        moved = sum(size_of(operand.type) for operand in operands)
        if kind == "all-reduce" and "all-reduce-scatter" in holder:  # as the TPU has it
            kind = "reduce-scatter"
        where = re.search(r'op_name="([^"]*)"', one.rest)
        return Collective(kind, moved, group_size(one.rest), times, where[1] if where else "")

    def branches(self, one: Instruction) -> list[str]:
        listed = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
        return re.findall(r"%([\w.\-]+)", listed[1] if listed else "")

    def trips(self, condition: str, body: str) -> int:
        """The bound is in the condition; the counter's step is what the body adds to it."""
        bounds = constants(self.computations[condition].values())
        return max(1, math.ceil(max(bounds, default=1) / self.step(condition, body)))

    def step(self, condition: str, body: str) -> int:
        """What a loop adds to its counter, that element of the state which the condition reads."""
        reads = [
            one for one in self.computations[condition].values() if one.op == "get-tuple-element"
        ]
        known = self.computations[body]
        roots = [one for one in known.values() if one.root]
        index = int(reads[0].attribute("index")) if reads else 0
        if not roots or index >= len(roots[0].operands):
            return 1
        counter = known.get(roots[0].operands[index])
        while counter is not None and counter.op in ("copy", "bitcast"):
            counter = known.get(counter.operands[0])
        if counter is None or counter.op != "add":
            return 1
        added = constants(known[name] for name in counter.operands if name in known)
        return max([1, *added])


def constants(instructions: Iterable[Instruction]) -> list[int]:
    """The values of those that are integer constants."""
    found = (re.match(r"(-?\d+)\)", one.rest) for one in instructions if one.op == "constant")
    return [int(one[1]) for one in found if one]


def size_of(type_text: str) -> int:
    """Bytes of the arrays that a type names."""
    found = re.findall(r"(\w+)\[([\d,]*)\]", type_text)
    return sum(
        BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in found
        if kind in BYTES
    )


def group_size(rest: str) -> int:
    """Devices that a collective goes over, from the three ways in which groups are written."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return len(re.findall(r"\{", pairs[1])) or 1
    if groups := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(groups[2])
    if groups := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", groups[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", groups[2]))
    groups = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(groups[1].split(",")) if groups else 1
