"""Which layout for so many chips: all that are admissible, ranked; the best are compiled."""

import collections
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bigmodel import config
from bigmodel.plan import analytic, answer, changed, compiling, estimate, setups, topology
from bigmodel.plan.estimate import Estimate
from bigmodel.plan.requests import Request
from bigmodel.plan.setups import Setup
from bigmodel.plan.topology import Topology
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules as tables

OBJECTIVES = ("time", "cost", "chips")
ROOM = 0.97  # of main memory: estimates beyond are taken not to fit
SECONDS = 30.0  # to rank in; what is left then is not considered
# (remat, kept, kept on the host), the one that keeps most first.
REMATS = (
    ("none", (), ()),
    ("names", ("query", "key", "value", "attention", "gate", "up"), ()),
    ("dots", (), ()),
    ("names", ("query", "key", "value", "attention"), ()),
    ("names", ("attention",), ()),
    ("full", (), ()),
    ("names", (), ("input", "query", "key", "value")),
    ("names", (), ("input",)),
)
SHOWN, ALIKE = 40, 2  # rows besides those compiled; of one mesh, or of one remat and so on
PARTS = 32  # that a batch comes apart in, at most


class Layout(NamedTuple):
    """A layout, estimated.

    Attributes:
        mesh: size of each axis.
        change: fields of the config that it sets.
        where: the topology.
        guess: what it would take.
        goal: what the objective makes of it, the less the better.
    """

    mesh: dict[str, int]
    change: tuple[tuple[str, Any], ...]
    where: Topology
    guess: Estimate
    goal: float


def plan(
    request: Request, *, objective: str, compiled: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """The answer of the best layout found, with the ranking in its field "search".

    Args:
        request: the config, whose mesh, rules, remat and accumulation are set otherwise, and the
            topology.
        objective: of OBJECTIVES.
        compiled: how many of the best are compiled.
        say: is told how far it is.

    Raises:
        InputError: no layout is admissible, or for "cost" there is no price.
    """
    began = time.monotonic()
    ranked, admissible, complete = rank(request, objective)
    if not ranked:
        raise config.InputError(
            f"--search: no mesh of {request.topology.devices} devices takes a batch of "
            f"{request.loaded.config.batch} rows, and cuts heads, widths and layers evenly."
        )
    seconds = time.monotonic() - began
    say(f"{len(ranked)} layouts ranked in {seconds:.1f} s; compiling the best {compiled}")
    chosen = varied(ranked, compiled)
    requests = [of_layout(request, layout) for layout in chosen]
    answers: dict[int, dict[str, Any]] = {}
    try:
        for number, found in compiling.compile_all(requests):
            if not isinstance(found, Exception):
                answers[number] = answer.plan(requests[number], found)
            say(f"compiled {len(answers)} of {len(requests)}")
    except KeyboardInterrupt:
        complete = False
        say("interrupted: what there is")
    rows = [row(chosen[n], plan_) for n, plan_ in answers.items()]
    others = (layout for layout in ranked if layout not in chosen)
    rows += [guessed(layout, request) for layout in itertools.islice(others, SHOWN)]
    rows.sort(key=lambda each: order(each, objective))
    best = min(answers.values(), key=lambda each: order(each, objective), default=None)
    best = best or guessed(ranked[0], request)
    return best | {
        "search": {
            "objective": objective,
            "admissible": admissible,
            "considered": len(ranked),
            "analytic_seconds": seconds,
            "complete": complete,
            "layouts": rows,
        }
    }


def varied(ranked: list[Layout], count: int) -> list[Layout]:
    """The best, but few that differ in the mesh alone, or in all but the mesh.

    Estimates of such are off alike; which of them is best the compiler tells of any.
    """
    chosen: list[Layout] = []
    seen: collections.Counter = collections.Counter()
    for layout in ranked:
        mesh, rest = layout.change[: len(layout.mesh)], layout.change[len(layout.mesh) :]
        if len(chosen) < count and seen[mesh] < ALIKE and seen[rest] < ALIKE:
            seen.update((mesh, rest))
            chosen.append(layout)
    return chosen


def order(row: Mapping[str, Any], objective: str) -> tuple:
    """Those that fit first, then by the objective, compiled before estimated."""
    goals = {"time": "step_seconds", "cost": "dollars_per_million_tokens", "chips": "chips"}
    goal = row[goals[objective]]
    worst = (math.inf if goal is None else goal, row["step_seconds"] or math.inf)
    return (not row["fits"], row["compiled"] == "analytic", *worst)


def rank(request: Request, objective: str) -> tuple[list[Layout], int, bool]:
    """(layouts, the best first; how many are admissible; whether all were considered)."""
    values, end = request.loaded.config, time.monotonic() + SECONDS
    price = answer.price_of(request)
    if objective == "cost" and not price:
        raise config.InputError(
            f"--objective=cost: config.prices has no {request.topology.kind!r}; set dollars of a "
            f"chip and hour, such as --config.prices=\"{{'{request.topology.kind}': 2.7}}\"."
        )
    found: list[Layout] = []
    count, complete = 0, True
    places = slices_of(request.topology) if objective == "chips" else [request.topology]
    for where in places:
        limit = answer.limit_of(where) or math.inf
        for mesh, change, setup in layouts(values, where):
            count += 1
            if time.monotonic() > end:
                complete = False
                break
            if analytic.memory(setup).hbm > ROOM * limit:
                continue
            guess = estimate.estimate(setup, where)
            goal = {"time": guess.step_seconds, "chips": where.chips}.get(objective)
            goal = guess.step_seconds * price * where.chips if goal is None else goal
            found.append(Layout(mesh, change, where, guess, goal))
    found.sort(key=lambda one: (one.goal, one.guess.step_seconds))
    return found, count, complete


def layouts(
    values: Any, where: Topology
) -> Iterator[tuple[dict[str, int], tuple[tuple[str, Any], ...], Setup]]:
    """Every admissible mesh x table of rules x parts of a batch x remat policy."""
    for mesh in all_meshes(values, where):
        for name in tables_for(mesh):
            table = tables.table(name, values.extra_rules, tuple(mesh))
            base = setups.of(values, mesh, dict(table), where.kind)
            base = base._replace(slices=where.slices)
            rows = values.batch // base.parts("batch")
            most = max(PARTS, values.accumulate)
            for parts in (n for n in divisors(rows) if n <= most):
                setup = base._replace(accumulate=parts)
                if mesh["stage"] > 1:  # microbatches do what parts would
                    setup = base._replace(accumulate=1, microbatches=parts * mesh["stage"])
                if not estimate.admissible(setup):
                    continue
                for remat, save, offload in REMATS:
                    if offload and where.platform != "tpu":
                        continue
                    fields = {"remat": remat, "remat_save": save, "remat_offload": offload}
                    change = (
                        *((f"mesh.{axis}", n) for axis, n in mesh.items()),
                        ("rules", name),
                        ("accumulate", setup.accumulate),
                        ("pipeline.microbatches", setup.microbatches if mesh["stage"] > 1 else 0),
                        *((f"model.{field}", value) for field, value in fields.items()),
                    )
                    yield mesh, change, setup._replace(fields={**setup.fields, **fields})


def all_meshes(values: Any, where: Topology) -> Iterator[dict[str, int]]:
    """Every way to spread the devices over the axes that this model can use."""
    fields = values.model.to_dict()
    heads, kv_heads = fields["heads"], fields["kv_heads"] or fields["heads"]
    experts, layers = fields["experts"], fields["layers"]
    dense = fields["dense_layers"] if experts else 0
    n = where.devices
    limits = {
        "data": values.batch,
        "stage": layers - dense if not layers % len(fields["pattern"]) else 1,
        "fsdp": values.batch,
        "expert": experts or 1,
        "context": max(1, values.data.length // 1024) if not fields["attention_dropout"] else 1,
        "tensor": math.gcd(heads, kv_heads),
    }
    choices = [[d for d in divisors(n) if d <= limits[axis]] for axis in meshes.AXES[:-1]]
    choices[1] = [d for d in choices[1] if (layers - dense) % d == 0]
    for sizes in itertools.product(*choices):
        rest, over = divmod(n, math.prod(sizes))
        if not over and rest and limits["tensor"] % rest == 0:
            mesh = dict(zip(meshes.AXES, (*sizes, rest), strict=True))
            if where.slices == 1 or any(size % where.slices == 0 for size in mesh.values()):
                yield mesh


def tables_for(mesh: Mapping[str, int]) -> list[str]:
    """The tables that differ on this mesh."""
    names = ["fsdp_tensor"]
    names += ["sequence"] if mesh["tensor"] > 1 else []
    names += ["zero1"] if mesh["data"] > 1 else []
    return names


def slices_of(most: Topology) -> list[Topology]:
    """The slices of a generation up to this one, the smallest first."""
    if most.platform != "tpu":
        return [most]
    shapes = [s for s in topology.shapes(most.kind) if math.prod(s) <= math.prod(most.shape)]
    names = [f"{most.kind}:{topology.text(shape)}" for shape in shapes]
    return [*(topology.parse(name) for name in names), most]


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def of_layout(request: Request, layout: Layout) -> Request:
    loaded = changed(request.loaded, layout.change)
    return dataclasses.replace(request, loaded=loaded, topology=layout.where)


KEPT = (
    *("mesh", "layout", "compiled", "fits", "hbm_bytes", "hbm_limit_bytes", "memory", "chips"),
    *("topology", "step_seconds", "time", "mfu", "tokens_per_second_per_chip"),
    "dollars_per_million_tokens",
)


def row(layout: Layout, plan_: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plan_[name] for name in KEPT} | {"estimated_seconds": layout.guess.step_seconds}


def guessed(layout: Layout, request: Request) -> dict[str, Any]:
    """A row of the ranking that was not compiled."""
    inner, guess, where = of_layout(request, layout), layout.guess, layout.where
    tokens, seconds = answer.tokens_of(request), guess.step_seconds
    flops = answer.flops_of(request)["flops_per_step"]
    peak = where.chip.peak_flops * where.devices * seconds if where.chip else 0.0
    price = answer.price_of(request)
    rate = tokens / seconds if seconds else 0.0
    return {
        "mesh": layout.mesh,
        "layout": answer.layout_of(inner.loaded.config),
        "compiled": "analytic",
        "fits": True,
        "hbm_bytes": guess.hbm_bytes,
        "hbm_limit_bytes": answer.limit_of(where),
        "memory": guess.memory,
        "chips": where.chips,
        "topology": where.name,
        "step_seconds": seconds,
        "time": guess.time,
        "mfu": flops / peak if flops and peak else None,
        "tokens_per_second_per_chip": rate / where.chips,
        "dollars_per_million_tokens": price * where.chips / 3600 / rate * 1e6 if price else None,
        "estimated_seconds": seconds,
    }


def scaling(request: Request, plan_: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Weak scaling: the same rows a device on other numbers of chips, through this plan.

    Estimated; what the estimate is off by here it is taken to be off by everywhere.
    """
    where, values = request.topology, request.loaded.config
    if request.task != "train" or not plan_["step_seconds"] or where.platform == "cpu":
        return []
    here = estimate.of(request).step_seconds
    rows = []
    for factor in (0.25, 0.5, 1.0, 2.0, 4.0):
        axis = "data" if factor > 1 or plan_["mesh"]["data"] > 1 else "fsdp"
        size, batch = plan_["mesh"][axis] * factor, values.batch * factor
        if size != int(size) or batch != int(batch) or size < 1:
            continue
        mesh = plan_["mesh"] | {axis: int(size)}
        wider = scaled(where, factor)
        table = tables.table(values.rules, values.extra_rules, tuple(mesh))
        setup = setups.of(values, mesh, dict(table), wider.kind)
        setup = setup._replace(batch=int(batch), slices=wider.slices)
        seconds = estimate.estimate(setup, wider).step_seconds * plan_["step_seconds"] / here
        rate = plan_["tokens_per_second"] * factor * plan_["step_seconds"] / seconds
        mfu = plan_["mfu"] and plan_["mfu"] * plan_["step_seconds"] / seconds
        rows.append(
            {
                "chips": round(where.chips * factor),
                "step_seconds": seconds,
                "tokens_per_second_per_chip": rate / (where.chips * factor),
                "mfu": mfu,
            }
        )
    return rows


def scaled(where: Topology, factor: float) -> Topology:
    """As many chips, along the first dimension (of a plane of 16 x 16: more slices)."""
    first, *rest = where.shape
    if where.platform == "tpu" and len(where.shape) == 2 and first * factor > 16:
        return dataclasses.replace(where, slices=round(where.slices * factor))
    return dataclasses.replace(where, shape=(max(1, round(first * factor)), *rest))
