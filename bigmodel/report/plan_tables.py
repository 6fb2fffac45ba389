"""The tables of a plan's page: what is cut where, what moves, what is kept, what was set."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bigmodel.report import markup, plan_charts, plan_facts, units
from bigmodel.report.markup import Markup, element

ROWS = 40  # of a table; what is smaller is added up in one row more
LEAVES = ("kernel", "scale", "embedding")  # names that tell nothing beside their module's


def map_of_axes(plan: plan_facts.Plan) -> Markup:
    """Tensors down, mesh axes across: filled where a tensor is cut, with the logical axis."""
    axes = [axis for axis, n in plan["mesh"].items() if n > 1]
    rows = sorted(grouped(plan["sharding"]), key=lambda row: -row["bytes_per_device"])
    largest = max((row["bytes_per_device"] for row in rows), default=0)
    heads = [
        "tensors",
        "shape",
        *(element("span", f"{a} ", element("b", f"{plan['mesh'][a]}")) for a in axes),
    ]
    heads += ["in all", "a device"]
    body = []
    for row in rows[:ROWS]:
        cells: list[Any] = [tensors(row), element("code", f"{row['dtype']}{row['shape']}")]
        cells += [cell(row, axis, plan["mesh"]) for axis in axes]
        size = units.size(row["bytes_per_device"])
        segments = [("parameters", "a device", row["bytes_per_device"], size)]
        whole = not any(dim and any(a in axes for a in dim) for dim in row["axes"])
        note = element("span", element("span", "whole", class_="tag") if whole and axes else None)
        bar = plan_charts.stacked(segments, largest, group="memory")
        cells += [units.size(row["bytes"]), element("span", note, size, bar, class_="beside")]
        body.append(cells)
    rest = rows[ROWS:]
    if rest:
        sums = [units.size(sum(row[key] for row in rest)) for key in ("bytes", "bytes_per_device")]
        body.append([f"{len(rest)} smaller groups", "", *("" for _ in axes), *sums])
    numbers = (len(axes) + 2, len(axes) + 3)
    return element("div", markup.table(heads, body, numbers=numbers), class_="map")


def grouped(sharding: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Tensors of one module that are shaped and cut alike, as one row with their bytes together."""
    groups: dict[tuple, list[tuple[str, Mapping[str, Any]]]] = {}
    for path, row in sharding.items():
        words = path.removeprefix("params/").split("/")
        if len(words) > 1 and words[-1] in LEAVES:
            words = words[:-1]
        shown = [tuple(row["shape"]), tuple(row["logical"]), tuple(map(tuple, row["axes"]))]
        key = ("/".join(words[:-1]), row["dtype"], *shown)
        groups.setdefault(key, []).append((words[-1], row))
    for (parent, *_), members in groups.items():
        sums = {key: sum(row[key] for _, row in members) for key in ("bytes", "bytes_per_device")}
        yield {**members[0][1], **sums, "parent": parent, "names": [name for name, _ in members]}


def tensors(row: Mapping[str, Any]) -> Markup:
    names = ", ".join(row["names"][:4])
    more = len(row["names"]) - 4
    parent = (
        element("span", markup.path(f"{row['parent']}/"), class_="faint") if row["parent"] else None
    )
    return element("span", parent, names, f" + {more}" if more > 0 else "", class_="name")


def cell(row: Mapping[str, Any], axis: str, mesh: Mapping[str, int]) -> Markup:
    """Filled with the logical axes that are cut along this mesh axis."""
    cut = [i for i, dim in enumerate(row["axes"]) if axis in dim]
    if not cut:
        return element("span", "·", class_="faint")
    words = [str(row["logical"][i] or f"axis {i}") for i in cut]
    title = "; ".join(
        f"{word} of length {row['shape'][i]:,} is cut over "
        + " × ".join(f"{a} {mesh[a]}" for a in row["axes"][i])
        for i, word in zip(cut, words, strict=True)
    )
    return element("span", " ".join(words), class_="cut", title=title)


def collectives(plan: plan_facts.Plan) -> Markup:
    """What moves between devices, largest first."""
    rows = sorted(plan["collectives"], key=plan_facts.size_of, reverse=True)
    longest = rows[0]["seconds"]
    heads = ["operation", "axes, devices", "over", "layer", "bytes in", "times", "a step"]
    heads += ["exposed", ""]
    body = []
    for row in rows[:ROWS]:
        network = element("span", row["network"], class_=f"tag {row['network'].lower()}")
        stops = element("span", "synchronous", class_="tag stops") if row["synchronous"] else None
        where = [markup.path(row["layer"]), element("span", f" {row['pass']}", class_="faint")]
        bar = None
        if longest and row["seconds"] is not None and row["exposed_seconds"] is not None:
            shown = row["exposed_seconds"]
            segments = [
                ("collectives_exposed", "exposed", shown, units.seconds(shown)),
                ("hidden", "hidden", row["seconds"] - shown, units.seconds(row["seconds"] - shown)),
            ]
            bar = plan_charts.stacked(segments, longest, group="time")
        body.append(
            [
                element("span", row["kind"], " ", stops),
                element("span", " × ".join(row["axes"]), element("b", f" {row['devices']}")),
                network,
                element("span", where, class_="name"),
                units.size(row["bytes"]),
                units.count(row["times"]),
                units.seconds(row["seconds"]),
                units.seconds(row["exposed_seconds"]),
                bar,
            ]
        )
    rest = rows[ROWS:]
    if rest:
        sums = [
            units.seconds(plan_facts.total(rest, key)) for key in ("seconds", "exposed_seconds")
        ]
        times = units.count(sum(row["times"] for row in rest))
        body.append([f"{len(rest)} smaller", "", "", "", "", times, *sums, ""])
    table = markup.table(heads, body, numbers=(4, 5, 6, 7))
    return element("div", table, class_="moved")


def buffers(plan: plan_facts.Plan) -> Markup:
    rows = [
        [
            element("span", class_=f"swatch memory-{row['kind']}"),
            element("span", markup.path(row["name"]), class_="name"),
            row["kind"],
            element("code", row["shape"]),
            units.size(row["bytes"]),
        ]
        for row in plan["largest_buffers"]
    ]
    return markup.table(["", "buffer", "kind", "shape", "a device"], rows, numbers=(4,))


def settings(plan: plan_facts.Plan) -> Markup:
    """All that the answer hangs on, as the config and the command line name it."""
    config, layout = plan["config"], plan["layout"]
    pairs = {
        "config": plan_facts.name(plan),
        "overrides": " ".join(config["overrides"]),
        "task": plan["task"],
        "topology": plan_facts.place(plan),
        "slices along": plan["slice_axis"],
        "devices": f"{units.count(plan['devices'])} × {plan['device']}",
        "parameters": units.count(plan["parameters"]),
        "mesh": ", ".join(f"{axis} {n}" for axis, n in plan["mesh"].items()),
        **{
            key: value
            if isinstance(value, str)
            else json.dumps(value)
            if value not in ([], False, 0)
            else "none"
            for key, value in layout.items()
        },
        "compiled": plan_facts.compiled_words(plan),
        "host memory a device": units.size(plan["host_bytes"]),
        "flags refused": " ".join(plan["flags_refused"]) or "none",
        **plan["versions"],
    }
    return element(
        "dl",
        [
            element("div", element("dt", key), element("dd", str(value)))
            for key, value in pairs.items()
            if value not in (None, "")
        ],
    )
