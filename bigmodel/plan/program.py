"""A compiled, scheduled program (HLO text) as computations of instructions.

Versions of the compiler write the same program in different ways; here they are read as one: an
element of a tuple is an instruction of its own (`get-tuple-element`) or a mark on the operand
(`%x#12`), and what runs beside the rest stands between its own start and done or in a computation
that `async-start` calls.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4", "f8e4m3fn", "f8e5m2", "f8e8m0fnu"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
)
HOST, FAST = "5", "1"  # memory spaces: the host's, and the chip's own fast one (VMEM)

HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
OPERATION = re.compile(r"^ ([a-z][\w\-]*)\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
OPERAND = re.compile(r"%([\w.\-]+(?:#\d+)?)")


class Array(NamedTuple):
    """One array of a type: its dtype, shape and memory space ("0" is the chip's main memory)."""

    dtype: str
    shape: tuple[int, ...]
    space: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype] * self.size


@functools.lru_cache(maxsize=100_000)
def arrays(type_text: str) -> tuple[Array, ...]:
    """All arrays that a type names, in order: "(f32[8]{0}, bf16[4,4]{1,0:S(1)})" names two."""
    found = []
    for dtype, shape, order in ARRAY.findall(type_text):
        if dtype in BYTES:
            space = re.search(r"S\((\d+)\)", order)
            dims = tuple(int(n) for n in shape.split(",") if n)
            found.append(Array(dtype, dims, space[1] if space else "0"))
    return tuple(found)


def size_of(type_text: str, spaces: str | None = None) -> int:
    """Bytes of the arrays of a type, of some memory spaces or of all."""
    return sum(a.bytes for a in arrays(type_text) if spaces is None or a.space in spaces)


@functools.lru_cache(maxsize=10_000)
def elements(type_text: str) -> tuple[str, ...]:
    """The types that a tuple's type is made of; of no tuple the type itself."""
    if not type_text.startswith("("):
        return (type_text,)
    found, depth, begin = [], 0, 1
    for at, letter in enumerate(type_text):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            found.append(type_text[begin:at].strip())
            begin = at + 1
            if depth == 0:
                break
    return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """One line: name = type op(operands), rest.

    Attributes:
        holder: the computation that it stands in.
    """

    name: str
    type: str
    op: str
    rest: str
    root: bool
    holder: "Computation"

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names, an element of a tuple as "x#12"."""
        depth = 1
        for at, letter in enumerate(self.rest):
            depth += (letter in "([{") - (letter in ")]}")
            if depth == 0:
                return tuple(OPERAND.findall(self.rest[:at]))
        return tuple(OPERAND.findall(self.rest))

    @functools.cached_property
    def calls(self) -> str:
        """The computation that a fusion, a call or an asynchronous operation runs, or ""."""
        if self.op in ("fusion", "call", "async-start", "custom-call"):
            found = re.search(r"(?:calls=|to_apply=|called_computations=\{)%?([\w.\-]+)", self.rest)
            return found[1] if found else ""
        return ""

    @functools.cached_property
    def op_name(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def attribute(self, name: str) -> str:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    def integer(self) -> int | None:
        """The value of an integer constant."""
        found = re.match(r"(-?\d+)\)", self.rest) if self.op == "constant" else None
        return int(found[1]) if found else None


class Computation(dict[str, Instruction]):
    """Instructions by name, in the order in which they run."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def maker(self, operand: str) -> Instruction | None:
        """The instruction that makes an operand (of "x#12": x)."""
        return self.get(operand.partition("#")[0])

    def type_of(self, operand: str) -> str:
        """The type of an operand; "" for one of another computation."""
        name, _, index = operand.partition("#")
        made = self.get(name)
        if made is None:
            return ""
        return elements(made.type)[int(index)] if index else made.type

    @functools.cached_property
    def root(self) -> Instruction:
        return next((one for one in self.values() if one.root), list(self.values())[-1])

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        found = {}
        for one in self.values():
            if one.op == "parameter":
                found[int(one.rest.partition(")")[0])] = one
        return found

    @functools.cached_property
    def users(self) -> dict[str, list[tuple[Instruction, int]]]:
        """Who reads an instruction, and as which of its operands."""
        found: dict[str, list[tuple[Instruction, int]]] = {}
        for one in self.values():
            for place, operand in enumerate(one.operands):
                found.setdefault(operand.partition("#")[0], []).append((one, place))
        return found


class Program:
    """The computations of a program's text.

    Attributes:
        computations: by name.
        entry: the one that is run.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = Computation("")
        current = None
        for line in lines(text):
            if head := HEAD.match(line):
                current = self.computations.setdefault(head[2], Computation(head[2]))
                self.entry = current if head[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := instruction(line, current)):
                current[found.name] = found

    @functools.cached_property
    def loops(self) -> dict[str, Instruction]:
        """By the name of its body each `while`."""
        every = (one for body in self.computations.values() for one in body.values())
        return {one.attribute("body"): one for one in every if one.op == "while"}

    def called(self, one: Instruction) -> Computation | None:
        return self.computations.get(one.calls) if one.calls else None

    def inside(self, one: Instruction) -> Iterator[Instruction]:
        """The instruction, and all within what it calls."""
        yield one
        for inner in (self.called(one) or {}).values():
            yield from self.inside(inner)

    def branches(self, one: Instruction) -> list[Computation]:
        """Of a conditional."""
        listed = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
        names = re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
        names = names or [one.attribute(f"{side}_computation") for side in ("true", "false")]
        return [self.computations[name] for name in names if name in self.computations]

    def loop(self, one: Instruction) -> tuple[Computation, int]:
        """The body of a `while`, and how often it runs.

        The compiler notes the number, or the bound is a constant of the condition, and the body
        adds a step to that element of the state which the condition reads.
        """
        body = self.computations[one.attribute("body")]
        if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', one.rest):
            return body, int(noted[1])
        condition = self.computations[one.attribute("condition")]
        whole = [c for part in condition.values() for c in self.inside(part)]
        bounds = [n for c in whole if (n := c.integer()) is not None]
        return body, max(1, -(-max(bounds, default=1) // step_of(condition, body)))


def step_of(condition: Computation, body: Computation) -> int:
    """What a loop adds to its counter: windowed products go on by two."""
    reads = [one for one in condition.values() if one.op == "get-tuple-element"]
    marks = [o for one in condition.values() for o in one.operands if "#" in o]
    index = int(
        reads[0].attribute("index") if reads else marks[0].partition("#")[2] if marks else 0
    )
    if index >= len(body.root.operands):
        return 1
    counter = body.maker(body.root.operands[index])
    while counter is not None and counter.op in ("copy", "bitcast"):
        counter = body.maker(counter.operands[0])
    if counter is None or counter.op != "add":
        return 1
    added = [made.integer() for o in counter.operands if (made := body.maker(o)) is not None]
    return max([1, *(n for n in added if n is not None)])


def lines(text: str) -> Iterator[str]:
    """The text's lines without comments; what a kernel says of itself over several is one."""
    text = re.sub(r"/\*.*?\*/", "", text)
    text = re.sub(r'=\{\n("[^\n]*)\n\}', r"={\1}", text)
    yield from text.splitlines()


def instruction(line: str, holder: Computation) -> Instruction | None:
    head = NAME.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = rest.find(" ")
    if rest.startswith("("):
        depth = 0
        for at, letter in enumerate(rest):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                end = at + 1
                break
    operation = OPERATION.match(rest[end:])
    if not operation:
        return None
    return Instruction(
        name=head[2],
        type=rest[:end],
        op=operation[1],
        rest=rest[end + operation.end() :],
        root=bool(head[1]),
        holder=holder,
    )
