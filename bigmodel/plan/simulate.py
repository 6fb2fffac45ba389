"""How long a scheduled program takes: one clock for the core, a queue for each thing beside it.

The compiler has put the instructions in order. The core runs them one after the other; what has a
start and a done (collectives, copies) stands in the queue of its links meanwhile, or shares the
way to the host, and the core waits at the done for what is left of it: that wait is exposed, the
rest hidden. A loop costs its body times its trips.
"""

import collections
import dataclasses
import math
import re
from typing import Any

from bigmodel.plan import names, network, origin, program, sharing, work
from bigmodel.plan.program import COLLECTIVES, HOST, Computation, Instruction, Program
from bigmodel.plan.spent import Moved, Spent

# Of the efficiency of large products: what attention's kernels reach with 128-wide heads, fitted
# on several generations. Published steps of Llama 3.1 70B on tpu7x say 0.51: as many tokens take
# 12.20 s in rows of 8,192 and 34.02 s in rows of 131,072 (AI-Hypercomputer/tpu-recipes,
# training/ironwood), and all that differs is attention: 9.2e15 FLOPs a device, in seven products.
ATTENTION_SHARE = 0.53
START_SECONDS = 1.5e-6  # of an instruction: its first block comes from memory before it can begin


class Clock:
    """Runs a program in thought.

    Args:
        whole: the program.
        net: its devices.
        efficiency: share of the peak that large products reach.
    """

    def __init__(self, whole: Program, net: network.Network, efficiency: float):
        self.whole, self.net, self.work = whole, net, work.Work(whole)
        self.speed = net.chip.peak_flops * efficiency
        self.memory_speed = net.chip.hbm_bandwidth * net.chip.memory_efficiency
        self.done: dict[str, Spent] = {}

    def run(self, body: Computation | None = None) -> Spent:
        """The whole program, or one run of a computation."""
        body = self.whole.entry if body is None else body
        if body.name not in self.done:
            self.done[body.name] = Turn(self, body).spent
        return self.done[body.name]


class Turn:
    """One run of a computation: the clock, the queues, and what is under way."""

    def __init__(self, clock: Clock, body: Computation):
        self.clock, self.net, self.work = clock, clock.net, clock.work
        self.spent = Spent()
        self.queues: dict[Any, float] = collections.defaultdict(float)
        self.hosts = {way: sharing.Shared() for way in ("to host", "from host")}
        self.pending: dict[str, tuple[float, str, Moved | None]] = {}
        for one in body.values():
            self.step(one)

    def step(self, one: Instruction) -> None:
        op = one.op
        if op == "while":
            body, trips = self.clock.whole.loop(one)
            inner = self.clock.run(body)
            self.spent.add(inner, trips)
            self.spent.loops[trips] += trips * inner.seconds
        elif op == "conditional":
            sides = [self.clock.run(body) for body in self.clock.whole.branches(one)]
            if sides:
                self.spent.add(max(sides, key=lambda spent: spent.seconds))
        elif op == "call" and one.calls in self.clock.whole.computations:
            self.spent.add(self.clock.run(self.clock.whole.computations[one.calls]))
        elif op == "async-update":
            self.go_on(one)
        elif op.endswith("-done"):
            self.wait(first(one))
        elif op in ("send", "recv"):
            self.between_slices(one)
        elif op.endswith("-start"):
            self.start(one)
        elif chain := self.chain(one):
            self.carry_on(one, *chain)
        elif (beside := self.collective_in(one)) is not None:
            self.collective(one, beside)
        else:
            self.compute(one)

    # What runs on the core

    def compute(self, one: Instruction) -> None:
        if one.op in work.NOTHING:
            return
        flops, moved = self.work.flops(one), self.work.bytes(one)
        memory = moved / self.clock.memory_speed
        attention, wide = work.attention_flops(one) if one.op == "custom-call" else (0.0, 0.0)
        if attention:
            what = "attention"
            seconds = max(wide / (self.clock.speed * ATTENTION_SHARE), memory)
        elif one.op == "custom-call" and not flops:
            if "tpu_custom_call" not in one.rest and "fmha" not in one.rest:
                return  # a mark for the compiler
            what, seconds = "other", memory
        elif flops:
            slow = self.work.slow_flops(one)
            what, seconds = "matrix", max((flops + slow) / self.clock.speed, memory)
        else:
            what, seconds = "other", memory
        self.pass_time(seconds + START_SECONDS, what, one, flops or attention, moved)

    def pass_time(
        self, seconds: float, what: str, one: Instruction, flops: float, moved: float
    ) -> None:
        self.spent.seconds += seconds
        self.spent.parts[what] += seconds
        key = (names.layer(one.op_name), what)
        row = self.spent.operations.setdefault(key, [0.0] * 4)
        for i, value in enumerate((1, seconds, flops, moved)):
            row[i] += value

    # What runs beside it

    def start(self, one: Instruction) -> None:
        """Books the queue of something that has a start and a done."""
        inner = self.collective_in(one)
        if inner is not None:
            self.book(one.name, *self.moved(one, inner, synchronous=False))
            return
        kinds = program.elements(one.type)
        result = kinds[0] if one.op == "copy-start" else kinds[min(1, len(kinds) - 1)]
        held = [array for part in kinds for array in program.arrays(part)]
        if any(array.space == HOST for array in held):
            updates = [i for i in self.clock.whole.inside(one) if i.op == "dynamic-update-slice"]
            source = updates[0].holder.type_of(updates[0].operands[1]) if updates else result
            to_host = bool(updates) or any(a.space == HOST for a in program.arrays(result))
            seconds = program.size_of(source) / self.net.chip.host_bandwidth
            way = "to host" if to_host else "from host"
            number = self.hosts[way].start(self.spent.seconds, seconds)
            self.pending[one.name] = (number, way, None)
        elif one.op == "fusion-start":  # on a stream of its own, but through the same memory
            self.compute(dataclasses.replace(one, op="fusion", type=result))
        else:
            seconds = program.size_of(result) / self.clock.memory_speed
            self.book(one.name, seconds, ["copies"], "other", None)

    def go_on(self, one: Instruction) -> None:
        """What is under way goes on; what was started with nothing (a gather) begins only now."""
        begun = one.holder.maker(first(one))
        if begun and not begun.operands and self.collective_in(begun) is None:
            self.start(one)
        elif (under_way := self.pending.get(first(one))) is not None:
            self.pending[one.name] = under_way

    def book(self, name: str, seconds: float, lanes: Any, what: str, moved: Moved | None) -> float:
        """Stands in the queues of all lanes at once; returns when it is through."""
        begin = max([self.spent.seconds, *(self.queues[lane] for lane in lanes)])
        for lane in lanes:
            self.queues[lane] = begin + seconds
        self.pending[name] = (begin + seconds, what, moved)
        if moved is not None:
            row = self.spent.collectives.setdefault(moved, [0.0, 0.0, 0.0])
            row[0] += 1
            row[1] += seconds
            self.spent.parts["collectives"] += seconds
        return begin + seconds

    def wait(self, name: str) -> None:
        """The core stands still until something is through."""
        end, what, moved = self.pending.pop(name, (0.0, "other", None))
        if what in self.hosts:
            end, what = self.hosts[what].end(int(end), self.spent.seconds), "host"
        exposed = max(0.0, end - self.spent.seconds)
        self.spent.seconds += exposed
        if what in ("collectives", "host"):
            what = f"{what}_exposed"
        self.spent.parts[what] += exposed
        if moved is not None:
            self.spent.collectives[moved][2] += exposed

    def collective(self, one: Instruction, inner: Instruction) -> None:
        """A collective for which the core stands still, or what a fusion does beside it."""
        seconds, lanes, what, moved = self.moved(one, inner, synchronous=True)
        if inner.op == "all-reduce" and scatters(one, inner):
            seconds /= 2
            moved = dataclasses.replace(moved, kind="reduce-scatter")
        beside = self.work.flops(one) / self.clock.speed if one.op == "fusion" else 0.0
        self.book(one.name, seconds, lanes, what, moved)
        if beside:
            self.pass_time(beside, "matrix", one, beside * self.clock.speed, 0.0)
        self.wait(one.name)

    def chain(self, one: Instruction) -> tuple[str, str, Instruction] | None:
        """Of a fusion that starts, goes on with or ends a collective: which, its chain, and it."""
        if one.op != "fusion":
            return None
        inside = list(self.clock.whole.inside(one))
        inner = next((i for i in inside if kind_of(i) in COLLECTIVES), None)
        number = re.search(r'chain_id="(\d+)"', inner.rest) if inner else None
        if inner is None or number is None:
            return None
        ends = [
            end
            for end in ("Start", "Done")
            if any(f"AsyncCollective{end}" in i.rest for i in inside if i.op == "custom-call")
        ]
        return (ends or [""])[0], f"chain {number[1]}", inner

    def carry_on(self, one: Instruction, end: str, chain: str, inner: Instruction) -> None:
        if end == "Start":
            self.book(chain, *self.moved(one, inner, synchronous=False))
        elif end == "Done":
            self.wait(chain)
        else:
            self.compute(one)

    def collective_in(self, one: Instruction) -> Instruction | None:
        if kind_of(one) in COLLECTIVES:
            return one
        if one.op not in ("fusion", "async-start"):
            return None
        return next((i for i in self.clock.whole.inside(one) if kind_of(i) in COLLECTIVES), None)

    def moved(
        self, outer: Instruction, one: Instruction, *, synchronous: bool
    ) -> tuple[float, Any, str, Moved]:
        """Seconds, lanes, part and record of a collective, which `outer` is or calls."""
        kind, holder = kind_of(one), one.holder
        where = origin.op_name(self.clock.whole, outer, one)
        operands = one.operands[:1] if kind == "ragged-all-to-all" else one.operands
        given = sum(program.size_of(holder.type_of(operand)) for operand in operands)
        made = program.size_of(one.type)
        if kind == "ragged-all-to-all":  # the larger side is room for the worst case
            given = made = min(given, made)
        if one.op.endswith("-start") and kind in ("all-gather", "reduce-scatter"):
            made -= given  # its type names what goes in as well
        pairs = network.pairs_of(one) if kind == "collective-permute" else []
        if pairs:
            members = [device for pair in pairs[:64] for device in pair]
            seconds = self.net.sent(given, pairs)
            along = {axis for pair in pairs[:64] for axis in self.net.axes(pair)}
            axes = tuple(axis for axis in self.net.mesh if axis in along)
            far = any(self.net.crosses(pair) for pair in pairs)
        else:
            members = network.group_of(one, len(self.net.slices))
            seconds = self.net.seconds(kind, given, made, members)
            axes, far = self.net.axes(members), self.net.crosses(members)
        record = Moved(
            kind=kind,
            axes=axes,
            network=self.net.names[far],
            bytes=given,
            devices=math.prod(self.net.mesh[axis] for axis in axes) if pairs else len(members),
            synchronous=synchronous,
            layer=names.layer(where),
            turn=names.turn(where),
        )
        return seconds, self.net.lanes(members, pairs), "collectives", record

    def between_slices(self, one: Instruction) -> None:
        """A part of a collective that the runtime carries between slices, from a send to a recv."""
        found = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
        if one.op == "recv" or not found:
            partner = re.search(r'rendezvous="([^"]+)"', one.rest)
            if partner and (under_way := self.pending.get(partner[1])) is not None:
                self.pending[one.name] = under_way
            return
        kind = found[1].lower().replace("_", "-")
        given = program.size_of(one.holder.type_of(one.operands[0]))
        parts = len(set(self.net.slices))
        whole = given * (2 if kind == "all-reduce" else 1) * (parts - 1) / parts
        axes = tuple(a for a in self.net.mesh if self.net.mesh[a] % parts == 0)[:1]
        far, where = self.net.names[1], origin.op_name(self.clock.whole, one, one)
        record = Moved(
            *(kind, axes, far, given, parts, False, names.layer(where), names.turn(where))
        )
        seconds = whole / self.net.chip.slice_bandwidth
        self.book(one.name, seconds, [far], "collectives", record)
        if partner := re.search(r'rendezvous="([^"]+)"', one.rest):
            self.pending[partner[1]] = self.pending[one.name]


def first(one: Instruction) -> str:
    return one.operands[0].partition("#")[0] if one.operands else ""


def kind_of(one: Instruction) -> str:
    return one.op.removesuffix("-start")


def scatters(one: Instruction, inner: Instruction) -> bool:
    """Whether of a sum only each device's part is kept."""
    return program.size_of(one.type) < 0.75 * program.size_of(inner.type)
