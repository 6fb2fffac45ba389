"""What a change did to a plan, and whether it moves or holds more than it may.

The compiler writes one exchange in many ways (a gather as a sum, in pieces, beside compute), and
names move with the code. So what is held against a budget is what leaves a device along each set of
mesh axes; the layers say where it grew.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TOLERANCE, FLOOR = 0.01, 2**16  # share, and bytes, by which harmless changes differ
MOST = 6  # rows of a list in a comparison


def make(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The budget of a plan: what it moves and holds, and what it is of."""
    moved = [
        {"axes": list(axes), "network": network, "layer": layer, "bytes": round(total)}
        for (axes, network, layer), total in sorted(sent(plan).items())
    ]
    kept = ("topology", "slices", "mesh", "layout", "hbm_bytes")
    return {name: plan[name] for name in kept} | {"moved": moved}


def sent(plan: Mapping[str, Any]) -> dict[tuple[tuple[str, ...], str, str], float]:
    """Bytes that leave a device in a step, by (mesh axes, network, layer); of a budget too."""
    found: dict[tuple[tuple[str, ...], str, str], float] = collections.defaultdict(float)
    if "moved" in plan:
        for row in plan["moved"]:
            found[tuple(row["axes"]), row["network"], row["layer"]] += row["bytes"]
        return dict(found)
    for row in plan["collectives"]:
        n = row["devices"]
        factor = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "collective-permute": 1}
        share = factor.get(row["kind"], (n - 1) / n)
        key = tuple(row["axes"]), row["network"], row["layer"]
        found[key] += share * row["bytes"] * row["times"]
    return dict(found)


def by_axes(moved: Mapping[tuple, float]) -> dict[tuple[tuple[str, ...], str], float]:
    totals: dict[tuple[tuple[str, ...], str], float] = collections.defaultdict(float)
    for (axes, network, _), total in moved.items():
        totals[axes, network] += total
    return dict(totals)


def check(plan: Mapping[str, Any], allowed: Mapping[str, Any]) -> list[str]:
    """One sentence for each breach of a budget (or of a plan that is taken as one)."""
    now, before = sent(plan), sent(allowed)
    totals, limits = by_axes(now), by_axes(before)
    said = []
    for (axes, network), total in totals.items():
        limit = limits.get((axes, network), 0.0)
        if total <= limit * (1 + TOLERANCE) + FLOOR:
            continue
        grew = {
            layer: bytes_ - before.get((axes, network, layer), 0.0)
            for (of, over, layer), bytes_ in now.items()
            if (of, over) == (axes, network)
        }
        worst = [
            name or "no layer" for name in sorted(grew, key=lambda n: -grew[n]) if grew[name] > 0
        ]
        what = "moves" if limit else "begins to move data"
        said.append(
            f"budget: the step {what} over mesh {' x '.join(axes) or 'none'} ({network}): "
            f"{mib(total)} leave a device, allowed are {mib(limit)}; most of what is new in "
            f"{', '.join(worst[:3])}. If it is meant, write the plan anew with --json."
        )
    limit = allowed["hbm_bytes"]
    if plan["hbm_bytes"] > limit * (1 + TOLERANCE) + FLOOR:
        said.append(
            f"budget: a device holds {mib(plan['hbm_bytes'])} at the peak, allowed are "
            f"{mib(limit)}. If it is meant, write the plan anew with --json."
        )
    return said


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between two plans: settings, memory, time, what moves."""
    settings = {}
    for section in ("layout", "mesh"):
        for name in {**before[section], **after[section]}:
            pair = before[section].get(name), after[section].get(name)
            if pair[0] != pair[1]:
                settings[name] = pair
    for name in ("topology", "slices", "task"):
        if before[name] != after[name]:
            settings[name] = (before[name], after[name])
    moved = {}
    old, new = sent(before), sent(after)
    for axes, network, layer in sorted({*old, *new}):
        pair = old.get((axes, network, layer), 0.0), new.get((axes, network, layer), 0.0)
        if abs(pair[1] - pair[0]) > TOLERANCE * max(pair) + FLOOR:
            moved[f"{' x '.join(axes) or 'none'} ({network}), {layer or 'no layer'}"] = pair
    return {
        "settings": settings,
        "fits": (before["fits"], after["fits"]),
        "hbm_bytes": (before["hbm_bytes"], after["hbm_bytes"]),
        "memory": pairs(before["memory"], after["memory"]),
        "step_seconds": (before["step_seconds"], after["step_seconds"]),
        "time": pairs(before["time"] or {}, after["time"] or {}),
        "mfu": (before["mfu"], after["mfu"]),
        "moved_bytes": moved,
    }


def pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name, 0), new.get(name, 0)) for name in {**old, **new}}


def comparison(diff: Mapping[str, Any]) -> str:
    """`compare`'s answer as text for a terminal."""
    lines = [f"{name}: {a} -> {b}" for name, (a, b) in diff["settings"].items()]
    fits = {True: "fits", False: "does not fit", None: "fits: unknown"}
    a, b = diff["fits"]
    lines += ["", f"memory   {arrow(diff['hbm_bytes'], mib)}   {fits[a]} -> {fits[b]}"]
    lines += [f"  {name:20} {arrow(pair, mib)}" for name, pair in diff["memory"].items()]
    if None not in diff["step_seconds"]:
        lines += ["", f"step     {arrow(diff['step_seconds'], seconds)}"]
        lines += [f"  {name:20} {arrow(pair, seconds)}" for name, pair in diff["time"].items()]
    rows = sorted(diff["moved_bytes"].items(), key=lambda item: -abs(item[1][1] - item[1][0]))
    lines += ["", "leaves a device in a step, by mesh axes and layer:"] if rows else []
    lines += [f"  {arrow(pair, mib)}  {name}" for name, pair in rows[:MOST]]
    lines += [f"  and {len(rows) - MOST} more"] if len(rows) > MOST else []
    return "\n".join(lines).strip() + "\n"


def arrow(pair: Sequence[float], write: Callable[[float], str]) -> str:
    old, new = pair
    change = f"{new / old - 1:+.1%}" if old else "new" if new else ""
    return f"{write(old):>12} -> {write(new):>12}  {change:>8}"


def mib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value >= 1 else f"{1e3 * value:.1f} ms"
