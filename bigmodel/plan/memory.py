"""What a device's memory holds at the peak, from the compiler's own list of buffers."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bigmodel.plan import gpus, names, program
from bigmodel.plan.program import HOST, Instruction, Program

ALLOCATION = re.compile(r"^allocation \d+: size (\d+), (.*)$", re.MULTILINE)
VALUE = re.compile(r"value: <\d+ (\S+)(?: \(phi\))? @\d+> \(size=(\d+),offset=(\d+)\)")
RANGE = re.compile(r"^ {4}(\S+):(\d+)-(\d+)$", re.MULTILINE)
HEAP = re.compile(r"^allocation \d+: size \d+, (page \d+, )?preallocated-temp", re.MULTILINE)
KINDS = ("parameters", "optimizer", "gradients", "activations", "other")


class Held(NamedTuple):
    """Bytes on a device.

    Attributes:
        total: at the peak.
        kinds: of KINDS, which add up to it.
        host: in the host's memory.
        largest: the largest buffers, {"bytes", "name", "shape", "kind"}.
    """

    total: int
    kinds: dict[str, int]
    host: int
    largest: list[dict[str, Any]]


def held(
    whole: Program, allocations: str, live: str, meta: Mapping[str, Any], *, trains: bool
) -> Held:
    """Of a scheduled program.

    Parameters of the program are told by their names; what is temporary by the values that are live
    at the compiler's peak. A value in the size of a parameter's part that the backward pass makes
    is a gradient, every other an activation; what the heap loses between values is "other".
    """
    kinds = dict.fromkeys(KINDS, 0)
    found: list[dict[str, Any]] = []
    temporary, host = 0, 0
    arguments = whole.entry.parameters
    for size_text, what in ALLOCATION.findall(allocations):
        size, color = int(size_text), re.search(r"color (\d+)", what)
        space = color[1] if color else "0"
        if space == HOST:
            host += size
        if space != "0" or "thread-local" in what:
            continue
        number = re.search(r"\bparameter (\d+)", what)
        if number and int(number[1]) in arguments:
            one = arguments[int(number[1])]
            name = names.layer(one.op_name) or one.name
            kind = kind_of_argument(name)
            kinds[kind] += size
            found.append(row(size, name, one.type, kind))
        elif "preallocated-temp" in what:
            temporary += size
        else:
            kinds["other"] += size
    parts = parts_of_parameters(meta) if trains else set()
    values = list(live_values(whole, allocations, live))
    for one, index, size in values:
        type_text = element(one.type, index)
        kind = "gradients" if is_gradient(one, type_text, parts) else "activations"
        kinds[kind] += size
        found.append(row(size, name_of(whole, one, index, kind), type_text, kind))
    rest = temporary - sum(size for _, _, size in values)
    if not values:
        kinds["activations"] += temporary
    elif rest >= 0:
        kinds["other"] += rest
    else:  # more is live than the heap holds: values that share a place were counted twice
        kinds["activations"] = max(0, kinds["activations"] + rest)
    kinds["activations"] += gpus.workspace(whole)
    total = sum(kinds.values())
    found.sort(key=lambda each: -each["bytes"])
    return Held(total, kinds, host, found[:5])


def row(size: int, name: str, type_text: str, kind: str) -> dict[str, Any]:
    shapes = program.arrays(type_text)
    first = max(shapes, key=lambda array: array.bytes) if shapes else None
    shape = f"{first.dtype}[{','.join(map(str, first.shape))}]" if first else type_text
    return {"bytes": size, "name": name, "shape": shape, "kind": kind}


def kind_of_argument(name: str) -> str:
    top = name.partition("/")[0]
    known = {"params": "parameters", "frozen": "parameters", "opt_state": "optimizer"}
    return known.get(top, "optimizer" if top == "ema" else "other")


def parts_of_parameters(meta: Mapping[str, Any]) -> set[int]:
    """Elements that a device has of each parameter, of all layers or of one."""
    sizes = set()
    widths = {"float32": 4, "bfloat16": 2, "float16": 2}
    for each in meta.get("sharding", {}).values():
        elements = each["bytes_per_device"] // widths.get(each["dtype"], 4)
        sizes.add(elements)
        if each["logical"][:1] == ["layers"]:
            sizes.add(elements // max(1, each["shape"][0]))
    return sizes


def is_gradient(one: Instruction, type_text: str, parts: set[int]) -> bool:
    if names.turn(one.op_name) == "forward" and one.op_name:
        return False
    return any(array.size in parts for array in program.arrays(type_text))


def live_values(
    whole: Program, allocations: str, live: str
) -> Iterator[tuple[Instruction, list[str], int]]:
    """(instruction, index into what it makes, bytes) of what the heap holds when it holds most.

    The compiler lists where in the heap each value lies, and from which instruction to which it
    lives; values that lie at one place are one. Where it does not say how long, all are taken.
    """
    begin = HEAP.search(allocations)
    if not begin:
        return
    listed = allocations[begin.end() :].split("\nallocation ", 1)[0]
    values = [(name, int(size), int(at)) for name, size, at in VALUE.findall(listed)]
    ranges = {n.removesuffix("{}"): (int(a), int(b)) for n, a, b in RANGE.findall(live)}
    timed = [(name, size, at, *ranges[name]) for name, size, at in values if name in ranges]
    if not timed:
        return
    held: dict[int, int] = {}  # the place of a value in the heap: its bytes
    best, peak = 0, -1
    for moment in sorted({start for *_, start, _ in timed}):
        held = {at: size for _, size, at, start, end in timed if start <= moment <= end}
        if sum(held.values()) > peak:
            best, peak = moment, sum(held.values())
    makers = {one.name: one for body in whole.computations.values() for one in body.values()}
    seen: set[int] = set()
    for name, size, at, start, end in sorted(timed, key=lambda value: value[3]):
        one = makers.get(name.partition("{")[0])
        if start <= best <= end and at not in seen and one is not None:
            seen.add(at)
            index = re.findall(r"\d+", name.partition("{")[2])
            yield one, index, size


def element(type_text: str, index: list[str]) -> str:
    """The type of an element of a tuple, of a tuple, ..."""
    for number in map(int, index):
        parts = program.elements(type_text)
        type_text = parts[number] if number < len(parts) else type_text
    return type_text


def name_of(whole: Program, one: Instruction, index: list[str], kind: str) -> str:
    """The layer that a value comes from; of a stack that a loop fills, what it is filled with."""
    source, filled = origin(whole, one, index)
    name = names.layer(source.op_name) or names.layer(one.op_name)
    name = "layers/input" if name == "layers" else name
    if kind == "gradients":
        return f"{name or 'parameters'} (gradient)"
    if filled:
        return f"{name or 'layers'} (kept)"
    return f"{name or source.name} ({names.turn(source.op_name)})"


def origin(
    whole: Program, one: Instruction, index: list[str], depth: int = 0
) -> tuple[Instruction, bool]:
    """What made a value, through loops that carry it, and whether one fills it slice by slice."""
    if depth > 40:
        return one, False
    if one.op == "while" and index:
        body = whole.computations[one.attribute("body")]
        place = int(index[0])
        if place >= len(body.root.operands):
            return one, False
        made = body.maker(body.root.operands[place])
        if made is not None and (source := written(whole, made)) is not None:
            return source, True
        if made is not None and made.op == "fusion" and names.layer(made.op_name):
            return made, False  # a sum that the loop adds to
        state = one.holder.maker(one.operands[0])
        if state is not None and state.op == "tuple" and place < len(state.operands):
            before = one.holder.maker(state.operands[place])
            if before is not None:
                return origin(whole, before, [], depth + 1)
        return one, False
    if one.op == "parameter" and index and one.holder.name in whole.loops:
        return origin(whole, whole.loops[one.holder.name], index, depth + 1)
    if one.op == "get-tuple-element":
        before = one.holder.maker(one.operands[0])
        if before is not None:
            return origin(whole, before, [one.attribute("index")], depth + 1)
    if one.op in ("bitcast", "copy", "copy-done", "copy-start") and one.operands:
        before = one.holder.maker(one.operands[0])
        if before is not None:
            return origin(whole, before, re.findall(r"#(\d+)", one.operands[0]), depth + 1)
    if (source := written(whole, one)) is not None:
        return source, True
    return one, False


def written(whole: Program, one: Instruction) -> Instruction | None:
    """What is written into a stack, if an instruction writes a slice of one."""
    if one.op in ("async-done", "async-update"):
        before = one.holder.maker(one.operands[0])
        return written(whole, before) if before is not None else None
    for inner in whole.inside(one):
        if inner.op != "dynamic-update-slice":
            continue
        update = named(inner.holder.maker(inner.operands[1]))
        if update is not None and update.op == "parameter" and inner is not one:
            place = int(update.rest.partition(")")[0])
            if place < len(one.operands):
                return named(one.holder.maker(one.operands[place])) or one
        return update or one
    return None


def named(one: Instruction | None) -> Instruction | None:
    """The nearest of those that a value is made from which says of what layer it is."""
    while one is not None and one.op != "parameter" and names.layer(one.op_name) in ("", "layers"):
        if not one.operands:
            return None
        one = one.holder.maker(one.operands[0])
    return one
