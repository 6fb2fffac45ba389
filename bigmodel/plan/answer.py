"""What a plan says of a config, a topology and what the compiler wrote, as plain values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import bigmodel
from bigmodel import config, costs
from bigmodel.plan import calibrate, gpus, memory, network, simulate
from bigmodel.plan.program import Program
from bigmodel.plan.requests import Found, Request
from bigmodel.plan.spent import Spent
from bigmodel.plan.topology import Topology

SCHEMA = 1
EDGE = 0.08  # of main memory free: with less the compiler begins to recompute by itself
SHORT_SECONDS = 0.1
EXCESS = 1.3  # times the products of the traced step; what the compiler recomputes makes up to 1.2
LAYOUT = ("rules", "batch", "accumulate")
OF_MODEL = ("remat", "remat_save", "remat_offload")


def plan(request: Request, found: Found) -> dict[str, Any]:
    """The answer to one request, see docs/plan.md for its fields."""
    values, where, meta = request.loaded.config, request.topology, found.meta
    chip = where.chip
    whole = Program(found.program)
    held = memory.held(whole, found.allocations, found.live, meta, trains=request.task == "train")
    peak = found.memory["peak"] + gpus.workspace(whole) if found.memory else held.total
    limit = limit_of(where)
    answer = {
        "schema": SCHEMA,
        "config": about_config(request.loaded),
        "task": request.task,
        "topology": where.name,
        "slices": where.slices,
        "chips": where.chips,
        "devices": math.prod(meta["mesh"].values()),
        "device": chip.name if chip else meta["kind"],
        "mesh": meta["mesh"],
        "slice_axis": meta["slice_axis"],
        "layout": layout_of(values),
        "compiled": "full" if found.memory else "schedule",
        "compile_seconds": found.seconds,
        "versions": meta["versions"] | {"bigmodel": bigmodel.__version__},
        "parameters": meta["parameters"],
        "fits": None if limit is None else not found.overfull and peak <= limit,
        "hbm_bytes": peak,
        "hbm_limit_bytes": limit,
        "memory": scaled(held.kinds, peak),
        "host_bytes": held.host,
        "largest_buffers": held.largest,
        "sharding": meta["sharding"],
        "flags_refused": found.refused,
        "changes": [],
        "scaling": [],
        "search": None,
    }
    if chip and chip.link_bandwidth:
        net = network.Network.of(meta, chip)
        spent = simulate.Clock(whole, net, calibrate.efficiency(chip)).run()
        answer |= timing(request, found, spent, answer["devices"])
    else:
        answer |= untimed(request, found, whole)
    said = warnings(request, found, answer, whole)
    if where.platform == "tpu" and (times := times_the_products(found, spent, answer)) > EXCESS:
        said.append(
            f"The program multiplies {times:.1f} times as much as the step says: where it has "
            "experts, compiler.xla_tpu_enable_ragged_dot_kernel=True may spare that."
        )
    return answer | {"warnings": said}


def times_the_products(found: Found, spent: Spent, answer: Mapping[str, Any]) -> float:
    """FLOPs of the compiled products over those of the traced ones, attention's kernels aside."""
    done = sum(row[2] for (_, what), row in spent.operations.items() if what == "matrix")
    return done * answer["devices"] / max(1.0, found.meta["traced_flops"])


def limit_of(where: Topology) -> float | None:
    """Bytes of main memory that a program may have; None of simulated devices."""
    if where.platform == "gpu":
        return gpus.limit(where.kind)
    return where.chip.hbm_bytes if where.chip else None


def about_config(loaded: config.Loaded) -> dict[str, Any]:
    overrides = list(loaded.overrides)
    return {"path": loaded.path, "argument": loaded.argument, "overrides": overrides}


def layout_of(values: Any) -> dict[str, Any]:
    """What of a config says how it lies on the devices."""
    plain = config.plain(values)
    model = plain["model"]
    return {
        **{name: plain[name] for name in LAYOUT},
        "extra_rules": plain["extra_rules"],
        **{name: model.get(name) for name in OF_MODEL},
        "length": plain["data"].get("length"),
        "microbatches": plain["pipeline"]["microbatches"],
        "repeats": plain["pipeline"]["repeats"],
        "offload": plain["optimizer"]["offload"],
    }


def scaled(kinds: Mapping[str, int], peak: int) -> dict[str, int]:
    """The kinds, with "other" such that they add up to the peak."""
    rest = {name: size for name, size in kinds.items() if name != "other"}
    return rest | {"other": peak - sum(rest.values())}


def flops_of(request: Request, traced: float = 0.0) -> dict[str, Any]:
    """Model FLOPs of a step over the whole mesh, by both conventions.

    Of other families than the decoder they are those of the traced step, all pairs of attention
    counted by either name, and unknown where the step computes some of them again.
    """
    values = request.loaded.config
    by_name: dict[str, float | None] = dict.fromkeys(costs.CONVENTIONS)
    if values.model.name != "decoder":
        again = request.task == "train" and values.model.to_dict().get("remat") != "none"
        if traced and not again:
            by_name = dict.fromkeys(costs.CONVENTIONS, traced)
    else:
        fields = values.model.to_dict()
        for convention in costs.CONVENTIONS:
            by_name[convention] = task_flops(request, fields, convention)
    return {"flops_per_step": by_name["causal"], "flops": by_name}


def task_flops(request: Request, fields: Mapping[str, Any], convention: str) -> float:
    values, length = request.loaded.config, request.loaded.config.data.length
    if request.task == "decode":
        return values.batch * costs.decode_flops(fields, context=request.prompt).total
    if request.task == "prefill":
        whole = costs.prefill_flops(fields, length=request.prompt, convention=convention)
        return values.batch * whole.total
    count = {"train": costs.train_flops, "evaluate": costs.forward_flops}[request.task]
    return values.batch * length * count(fields, length=length, convention=convention).total


def tokens_of(request: Request) -> int:
    values = request.loaded.config
    whole = values.data.length if "length" in values.data else 1
    return values.batch * {"decode": 1, "prefill": request.prompt}.get(request.task, whole)


def timing(request: Request, found: Found, spent: Spent, devices: int) -> dict[str, Any]:
    """Step time, its parts, and what follows from it."""
    chip = request.topology.chip
    if chip is None:
        raise ValueError("the time of an unknown chip was asked for")
    seconds, parts = spent.seconds, dict(spent.parts)
    pipeline = found.meta["pipeline"]
    bubble = 0.0
    if pipeline:  # all ticks are alike, and in some of them a stage has nothing to do
        bubble = pipeline["bubble"] * spent.loops.get(pipeline["ticks"], 0.0)
    exposed = parts.get("collectives_exposed", 0.0)
    time = {
        "matrix": parts.get("matrix", 0.0),
        "attention": parts.get("attention", 0.0),
        "other": parts.get("other", 0.0),
        "collectives_exposed": exposed,
        "host_exposed": parts.get("host_exposed", 0.0),
    }
    shrink = 1 - bubble / seconds if seconds else 1.0
    time = {name: value * shrink for name, value in time.items()} | {
        "bubble": bubble,
        "collectives_hidden": max(0.0, parts.get("collectives", 0.0) - exposed),
    }
    flops, tokens = flops_of(request, found.meta["traced_flops"]), tokens_of(request)
    peak = chip.peak_flops * devices * seconds
    rate = tokens / seconds
    price = price_of(request)
    operations = sorted(spent.operations.items(), key=lambda item: -item[1][1])
    compiled = sum(row[2] for _, row in operations)
    return {
        "flops_per_step": flops["flops_per_step"],
        "flops": flops["flops"] | {"compiled_per_device": compiled},
        "step_seconds": seconds,
        "time": time,
        "mfu": flops["flops_per_step"] and flops["flops"]["causal"] / peak,
        "mfu_full_attention": flops["flops_per_step"] and flops["flops"]["full"] / peak,
        "tokens_per_second": rate,
        "tokens_per_second_per_chip": rate / request.topology.chips,
        "dollars_per_million_tokens": price * request.topology.chips / 3600 / rate * 1e6
        if price
        else None,
        "roofline": {
            "peak_flops": chip.peak_flops,
            "hbm_bandwidth": chip.hbm_bandwidth,
            "flops": compiled,
            "hbm_bytes": sum(row[3] for _, row in operations),
            "operations": [
                {
                    "name": f"{name or 'other'}" + (f" ({what})" if what != "matrix" else ""),
                    **dict(zip(("times", "seconds", "flops", "bytes"), row, strict=True)),
                }
                for (name, what), row in operations[:20]
            ],
        },
        "collectives": collectives(spent),
    }


def collectives(spent: Spent) -> list[dict[str, Any]]:
    """Those that take the most seconds first."""
    rows = sorted(spent.collectives.items(), key=lambda item: -item[1][1])
    found = []
    for moved, (times, seconds, exposed) in rows:
        fields = dataclasses.asdict(moved)
        fields["pass"] = fields.pop("turn")
        fields["axes"] = list(moved.axes)
        spans = {"seconds": seconds, "exposed_seconds": exposed}
        found.append({**fields, "times": round(times), **spans})
    return found


def untimed(request: Request, found: Found, whole: Program) -> dict[str, Any]:
    """Of a chip that the table does not know; what it computes and moves is counted."""
    chip = costs.Chip("simulated", "", 1e12, 1e12, 1e12, 1e12, 1e12, 1e12, 1.0)
    spent = simulate.Clock(whole, network.Network.of(found.meta, chip), 1.0).run()
    rows = [row | {"seconds": None, "exposed_seconds": None} for row in collectives(spent)]
    nothing = ("step_seconds", "time", "mfu", "mfu_full_attention", "tokens_per_second")
    more = ("tokens_per_second_per_chip", "dollars_per_million_tokens", "roofline")
    flops = flops_of(request, found.meta["traced_flops"])
    flops["flops"] |= {"compiled_per_device": sum(row[2] for row in spent.operations.values())}
    return flops | dict.fromkeys((*nothing, *more)) | {"collectives": rows}


def price_of(request: Request) -> float:
    """Dollars of a chip and hour, of the config's `prices`."""
    where = request.topology
    return float(request.loaded.config.prices.to_dict().get(where.kind, 0.0))


def warnings(
    request: Request, found: Found, answer: Mapping[str, Any], whole: Program
) -> list[str]:
    """What a person should know before they trust the figures."""
    said = []
    chip = request.topology.chip
    if found.overfull:
        said.append(f"The compiler: {found.overfull}")
    again = sum(".remat" in name for body in whole.computations.values() for name in body)
    if again:
        said.append(
            f"The compiler recomputes by itself ({again} operations): it ran out of room, and "
            f"the time may be off by 30 %."
        )
    limit = answer["hbm_limit_bytes"]
    if limit and answer["fits"] and answer["hbm_bytes"] > (1 - EDGE) * limit:
        said.append(f"Less than {EDGE:.0%} of main memory is free: the time may be off by 30 %.")
    if answer["host_bytes"]:
        said.append("Activations go to the host's memory: the time may be off by 30 %.")
    if answer["step_seconds"] and answer["step_seconds"] < SHORT_SECONDS:
        said.append("The step is shorter than 100 ms: the time may be off by 30 %.")
    moved = [c for c in answer["collectives"] if c["synchronous"] and (c["seconds"] or 0) > 0]
    still = sum(c["seconds"] for c in moved)
    if answer["step_seconds"] and still > 0.05 * answer["step_seconds"]:
        layers = list(dict.fromkeys(c["layer"] or "the step" for c in moved))[:3]
        said.append(
            f"The cores stand still for {still / answer['step_seconds']:.0%} of the step while "
            f"collectives run, most in {', '.join(layers)}."
        )
    if found.refused:
        said.append(f"Options that this compiler does not know: {', '.join(found.refused)}.")
    if chip is None:
        said.append("The devices are simulated: no chip's limit, time or utilisation is known.")
    return said
