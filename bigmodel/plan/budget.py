"""Whether a plan moves, holds or computes more than it may, and what a change did to it.

The compiler writes one exchange in many ways (a gather as a sum, in pieces, beside compute), and
names move with the code. So what is held against a budget are the bytes that leave a device along
each set of mesh axes, by layer; what leaves one layer and comes up as much in another has moved.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Shares by which harmless changes may differ in what moves, is held at the peak, and is computed.
# Those of tests/plan/refactors.py differ by nothing, by up to 1.7 % and by nothing; the faults of
# mis_shardings.py by 6 % and more in one of the three (v5e, jax 0.10.2, libtpu 0.0.52).
MOVED, HELD, COMPUTED = 0.002, 0.03, 0.01
FLOOR = 2**16  # bytes that are no breach: scalars, vectors of norms
KEPT = 2**10  # and those that a budget does not keep
MOST = 3  # layers that a sentence names
CURE = "If that is meant, write the budget anew with `bigmodel plan ... --json > FILE`."

Key = tuple[tuple[str, ...], str]  # mesh axes, network


def make(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The budget of a plan: what it is of, and what it moves, holds and computes."""
    return {
        **{name: plan[name] for name in ("task", "topology", "slices", "versions")},
        "hbm_bytes": plan["hbm_bytes"],
        "memory": {name: plan["memory"][name] for name in ("parameters", "optimizer")},
        "parameters": {path: row["bytes_per_device"] for path, row in plan["sharding"].items()},
        "flops_per_device": plan["flops"]["compiled_per_device"],
        "moved": [
            {"axes": list(axes), "network": network, "layer": layer, "bytes": round(total)}
            for (axes, network), layers in sorted(sent(plan).items())
            for layer, total in sorted(layers.items())
            if total > KEPT
        ],
    }


def sent(plan: Mapping[str, Any]) -> dict[Key, dict[str, float]]:
    """Bytes that leave a device in a step, by mesh axes and network, by layer; of a budget too.

    Along a ring: (n - 1) / n of what is exchanged, scattered or comes together, twice that of a
    sum that all get, and as it is what is sent on.
    """
    found: dict[Key, Any] = {}
    rows = plan["moved"] if "moved" in plan else plan["collectives"]
    for row in rows:
        share = 1.0
        if "kind" in row:
            n = row["devices"]
            shares = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
            share = row["times"] * shares.get(row["kind"], (n - 1) / n)
        layers = found.setdefault((tuple(row["axes"]), row["network"]), {})
        layers[row["layer"]] = layers.get(row["layer"], 0.0) + share * row["bytes"]
    return found


# A budget


def check(plan: Mapping[str, Any], allowed: Mapping[str, Any]) -> list[str]:
    """One sentence for each breach of a budget, or of a plan that is taken as one."""
    allowed = allowed if "moved" in allowed else make(allowed)
    for name in ("task", "topology", "slices"):
        if plan[name] != allowed[name]:
            return [
                f"budget: it is of {name} {allowed[name]}, the plan is of {plan[name]}; only plans "
                f"of one {name} are held against each other. {CURE}"
            ]
    said = [*moved_breaches(plan, allowed), *held_breaches(plan, allowed)]
    old, new = (of["versions"].get("libtpu") for of in (allowed, plan))
    if said and old != new:
        said.append(
            f"budget: its compiler was libtpu {old} and this one is {new}, which may be why."
        )
    return said


def moved_breaches(plan: Mapping[str, Any], allowed: Mapping[str, Any]) -> list[str]:
    said = []
    limits = sent(allowed)
    for (axes, network), layers in sent(plan).items():
        limit = limits.get((axes, network), {})
        total, most = sum(layers.values()), sum(limit.values())
        slack = FLOOR + MOVED * most
        more = {layer: size for layer, size in grown(layers, limit).items() if size > slack}
        if total <= most + slack and not more:
            continue
        more = more or {layer: size - limit.get(layer, 0.0) for layer, size in layers.items()}
        worst = sorted((layer for layer in more if more[layer] > 0), key=lambda one: -more[one])
        where = ", ".join(
            f"{layer or 'no layer'} ({mib(layers[layer])}, allowed {mib(limit.get(layer, 0.0))})"
            for layer in worst[:MOST]
        )
        rest = f" and {len(worst) - MOST} more" if len(worst) > MOST else ""
        said.append(
            f"budget: a collective {'grew' if limit else 'appeared'} over mesh "
            f"{' x '.join(axes) or 'none'} ({network}): a step may send {mib(most)} from a device "
            f"and sends {mib(total)}, more in {where}{rest}. {CURE}"
        )
    return said


def grown(layers: Mapping[str, float], limit: Mapping[str, float]) -> dict[str, float]:
    """By how much layers send more, but for what only has another name now.

    That is what came up in one layer and left another of its part of the model, or any other if it
    is as much.
    """
    change = {
        layer: layers.get(layer, 0.0) - limit.get(layer, 0.0) for layer in {**layers, **limit}
    }
    found = {}
    for layer in sorted(change, key=lambda one: -change[one]):
        more = change[layer]
        for other in sorted(change, key=lambda one: part(one) != part(layer)):
            less = -change[other]
            same = less > 0 and abs(less - more) <= MOVED * more
            if less > 0 and more > 0 and (same or part(other) == part(layer)):
                change[other] += min(more, less)
                more -= min(more, less)
        if more > 0:
            found[layer] = more
    return found


def part(layer: str) -> str:
    """Of "layers/attention/query": "layers/attention"."""
    return "/".join(layer.split("/")[:2])


def held_breaches(plan: Mapping[str, Any], allowed: Mapping[str, Any]) -> list[str]:
    """Of memory, whose parameters and optimizer state are exact, and of FLOPs."""
    now = make(plan)
    said = []
    for kind, size in now["memory"].items():
        limit = allowed["memory"][kind]
        if size <= limit * (1 + MOVED) + FLOOR:
            continue
        before = allowed["parameters"]
        more = {p: size - before.get(p, 0) for p, size in now["parameters"].items()}
        worst = sorted((p for p in more if more[p] > 0), key=lambda p: -more[p])
        where = f", more in {', '.join(worst[:MOST])}" if worst else ""
        what = "parameters" if kind == "parameters" else "optimizer state"
        said.append(
            f"budget: a device may hold {mib(limit)} of {what} and holds {mib(size)}{where}: "
            f"something is cut less than it was. {CURE}"
        )
    for name, what, tolerance, write in (
        ("hbm_bytes", "hold {} at the peak", HELD, mib),
        ("flops_per_device", "compute {} a step", COMPUTED, teraflops),
    ):
        size, limit = now[name], allowed[name]
        if size > limit * (1 + tolerance) + FLOOR:
            asked = what.format(write(limit))
            said.append(
                f"budget: a device may {asked} and it is {write(size)}, {size / limit - 1:.1%} "
                f"more: several devices do or keep the same. {CURE}"
            )
    return said


# Two plans


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between two plans: settings, memory, time, what moves; pairs (before, after)."""
    settings = {}
    for section in ("layout", "mesh", "config"):
        for name, pair in pairs(before[section], after[section]).items():
            if pair[0] != pair[1]:
                settings[name] = pair
    for name in ("topology", "slices", "task"):
        if before[name] != after[name]:
            settings[name] = (before[name], after[name])
    rows = []
    old, new = sent(before), sent(after)
    for axes, network in sorted({**old, **new}):
        layers = pairs(old.get((axes, network), {}), new.get((axes, network), {}))
        for layer, (a, b) in layers.items():
            a, b = a or 0.0, b or 0.0
            if abs(b - a) > MOVED * max(a, b) + FLOOR:
                change = "appeared" if not a else "went" if not b else "grew" if b > a else "shrank"
                where = {"axes": list(axes), "network": network, "layer": layer}
                rows.append({"change": change, **where, "sent_bytes": (a, b)})
    return {
        "settings": settings,
        "fits": (before["fits"], after["fits"]),
        "hbm_bytes": (before["hbm_bytes"], after["hbm_bytes"]),
        "memory": pairs(before["memory"], after["memory"]),
        "step_seconds": (before["step_seconds"], after["step_seconds"]),
        "time": pairs(before["time"] or {}, after["time"] or {}),
        "mfu": (before["mfu"], after["mfu"]),
        "collectives": sorted(
            rows, key=lambda row: -abs(row["sent_bytes"][1] - row["sent_bytes"][0])
        ),
    }


def pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name), new.get(name)) for name in {**old, **new}}


ROWS = 10  # collectives of a comparison


def comparison(diff: Mapping[str, Any]) -> str:
    """`compare`'s answer as text for a terminal, some 30 lines."""
    lines = [f"{name}: {a} -> {b}" for name, (a, b) in diff["settings"].items()]
    fits = {True: "fits", False: "does not fit", None: "fits: unknown"}
    a, b = diff["fits"]
    lines += ["", f"memory    {arrow(diff['hbm_bytes'])}   {fits[a]} -> {fits[b]}"]
    lines += [f"  {name:21} {arrow(pair)}" for name, pair in diff["memory"].items()]
    if None not in diff["step_seconds"]:
        lines += ["", f"step      {arrow(diff['step_seconds'], seconds)}"]
        lines += [f"  {name:21} {arrow(pair, seconds)}" for name, pair in diff["time"].items()]
    rows = diff["collectives"]
    lines += ["", "sent from a device in a step:" if rows else "the collectives are the same"]
    for row in rows[:ROWS]:
        over = f"{' x '.join(row['axes']) or 'none'} ({row['network']})"
        name = row["layer"] or "no layer"
        lines.append(f"  {row['change']:8} {arrow(row['sent_bytes'])}  {over}, {name}")
    lines += [f"  and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    return "\n".join(lines).strip() + "\n"


def arrow(pair: Sequence[Any], write: Any = None) -> str:
    write = write or mib
    old, new = (value or 0.0 for value in pair)
    change = f"{new / old - 1:+.1%}" if old else "new" if new else ""
    return f"{write(old):>10} -> {write(new):>10}  {change:>8}"


def mib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def teraflops(value: float) -> str:
    return f"{value / 1e12:.3f} TFLOP"
