"""Where a collective comes from that the compiler gave no name: from what it carries."""

import re
from collections.abc import Callable, Iterable

from bigmodel.plan import names
from bigmodel.plan.program import Instruction, Program

STEPS = 40  # instructions that are looked at on the way


def op_name(whole: Program, one: Instruction, inner: Instruction) -> str:
    """A name that tells the layer; "" where nothing around it has one.

    Its own, or that of the fusion that it is. Else a gather belongs to who reads it, and what sums
    or sends to who made what goes in.

    Args:
        whole: the program.
        one: what the core runs or starts.
        inner: the collective: `one` itself, or what stands in the computation that it calls.
    """
    if names.layer(inner.op_name):
        return inner.op_name
    chain = re.search(r'chain_id="\d+"', inner.rest)
    if not chain and names.layer(one.op_name):  # a fusion of a chain does other work besides
        return one.op_name
    readers, makers = readers_of(one, chain[0] if chain else "", whole), makers_of(one, whole)
    gathers = inner.op.startswith("all-gather")
    ways = (readers, makers) if gathers else (makers, readers)
    return next(filter(None, (search(whole, one, way) for way in ways)), inner.op_name)


Way = Callable[[Instruction], Iterable[Instruction]]


def search(whole: Program, one: Instruction, way: Way) -> str:
    """The name of the nearest instruction that has one, going on from one to the next."""
    waiting, seen = list(way(one)), {one}
    while waiting and len(seen) < STEPS:
        found = waiting.pop(0)
        if found in seen:
            continue
        seen.add(found)
        for part in [found, *(whole.called(found) or {}).values()]:
            if names.layer(part.op_name) not in ("", "layers"):
                return part.op_name
        waiting += way(found)
    return ""


def readers_of(one: Instruction, chain: str, whole: Program) -> Way:
    """Who reads a result; of a chain of fusions, that of the last."""
    last = {
        done
        for done in (one.holder.values() if chain else ())
        if done.op == "fusion"
        and any(chain in inner.rest for inner in whole.inside(done))
        and any("AsyncCollectiveDone" in inner.rest for inner in whole.inside(done))
    }

    def readers(found: Instruction) -> Iterable[Instruction]:
        if found is one and last:
            found = next(iter(last))
        return [user for user, _ in found.holder.users.get(found.name, ()) if user.op != "tuple"]

    return readers


def makers_of(one: Instruction, whole: Program) -> Way:
    """Who made the operands; what comes out of a loop, its body made."""

    def makers(found: Instruction) -> Iterable[Instruction]:
        made = [m for o in found.operands if (m := found.holder.maker(o)) is not None]
        if found.op == "get-tuple-element" and made and made[0].op == "while":
            body = whole.computations[made[0].attribute("body")]
            index = int(found.attribute("index"))
            if index < len(body.root.operands):
                inside = body.maker(body.root.operands[index])
                return [inside] if inside is not None else []
        return made

    return makers
