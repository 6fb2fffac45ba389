"""A plan as one HTML page that needs nothing but itself: looked at rather than read."""

import pathlib
from collections.abc import Sequence

from bigmodel.report import (
    markup,
    plan_charts,
    plan_facts,
    plan_layouts,
    plan_tables,
    roofline,
    units,
)
from bigmodel.report.markup import Inside, Markup, element

STYLE = pathlib.Path(__file__).with_name("plan_page.css")
MARKS = {"fits": "✓", "over": "✕", "unknown": "?"}


def page(plan: plan_facts.Plan) -> str:
    """The whole page; light and dark as the reader's system asks.

    Args:
        plan: the dict of `bigmodel plan --json`, with or without a search.
    """
    title = f"{plan_facts.name(plan)} on {plan_facts.place(plan)}"
    sections = (opening, layouts, memory, time, axes, roof, scaling, moved, warnings, settings)
    return markup.page(f"Plan: {title}", [STYLE], [section(plan) for section in sections])


def section(title: str, lead: Inside, *inside: Inside, id_: str | None = None) -> Markup:
    lead = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), lead, *inside, id=id_)


def opening(plan: plan_facts.Plan) -> Markup:
    """The verdict, and the figures that people ask for."""
    mark, sentence = plan_facts.verdict(plan)
    layout, slices = plan["layout"], plan["slice_axis"]
    where = [
        f"{units.times(plan['chips'], 'chip')} ({plan['device']})",
        plan_facts.mesh_words(plan["mesh"]) + (f", slices along {slices}" if slices else ""),
        plan_facts.batch_words(layout),
        *plan_facts.layout_words(layout),
    ]
    count = len(plan["warnings"]) + bool(plan["flags_refused"])
    link = element("a", units.times(count, "warning"), href="#warnings") if count else None
    return element(
        "header",
        element("p", f"bigmodel plan: {plan['task']}", class_="eyebrow"),
        element("h1", plan_facts.name(plan), " ", element("small", f"on {plan_facts.place(plan)}")),
        element("ul", [element("li", words) for words in where], class_="pills"),
        element(
            "p", element("span", MARKS[mark], class_="mark"), sentence, class_=f"verdict {mark}"
        ),
        tiles(plan),
        element("p", plan_facts.promise(plan), " ", link, class_="promise"),
    )


def tiles(plan: plan_facts.Plan) -> Markup:
    """Name, figure and note of what a step comes to."""
    used, whole = plan["mfu_full_attention"], plan["tokens_per_second"]
    each, price = plan["tokens_per_second_per_chip"], plan["dollars_per_million_tokens"]
    full, unit = " with full attention", plan_facts.unit(plan["layout"])
    rows = [
        ("step", units.seconds(plan["step_seconds"]), plan_facts.compiled_words(plan)),
        ("MFU, causal attention", plan_facts.mfu(plan), units.percent(used) + full),
        (f"{unit}/s/chip", units.count(each), f"{units.count(whole)} {unit}/s in all"),
        (
            "FLOPs of a step, causal",
            units.flops(plan["flops"]["causal"]),
            units.flops(plan["flops"]["full"]) + full,
        ),
    ]
    if price is not None:
        rows.append(("per million tokens", units.dollars(price), "at the config's price"))
    return element(
        "div",
        [
            element(
                "div",
                element("span", name, class_="what"),
                element("strong", figure, class_="words" if len(figure) > 12 else None),
                element("span", note, class_="note") if units.UNKNOWN not in note else None,
            )
            for name, figure, note in rows
        ],
        class_="tiles",
    )


def layouts(plan: plan_facts.Plan) -> Markup | None:
    """The layouts of a search, where there was one."""
    if not plan["search"] or not plan["search"]["layouts"]:
        return None
    return section("Layouts", plan_layouts.lead(plan), *plan_layouts.bars(plan))


def memory(plan: plan_facts.Plan) -> Markup:
    """One bar against the limit; below it one for each change that was tried."""
    limit, used = plan["hbm_limit_bytes"], plan["hbm_bytes"]
    tried = plan["changes"]
    most = 1.004 * max([used, limit or 0, *(row["hbm_bytes"] or 0 for row in tried)])
    write = units.alike(most, units.BYTES)
    parts = plan_charts.segments(plan["memory"], plan_facts.MEMORY, write)
    bars = [limit_row(limit, most, write(limit))] if limit else []
    bars += [bar_row("this layout", parts, most, limit, write(used), "memory")]
    for row in tried:
        name = plan_facts.change_words(row["change"])
        fate = "fits" if row["fits"] else "does not fit"
        kind = "free" if row["fits"] else "over"
        part = [(kind, f"with {name}", row["hbm_bytes"] or 0, write(row["hbm_bytes"]))]
        words = f"{write(row['hbm_bytes'])}, {fate}, step {units.seconds(row['step_seconds'])}"
        bars.append(bar_row(name, part, most, limit, words, "memory"))
    left = plan_facts.free(plan)
    spare = [("spare", "free", left, write(left))] if left is not None and left > 0 else []
    lead = f"{write(used)} a device" + (f" of {write(limit)}" if limit else "; no limit is known")
    lead += "; below it each change that was tried, in order." if tried else "."
    if plan["host_bytes"]:
        lead += f" Another {units.size(plan['host_bytes'])} lies on the host."
    found = element("h3", "Largest buffers"), plan_tables.buffers(plan)
    return section(
        "Memory",
        lead,
        element("div", bars, class_="bars"),
        plan_charts.legend([part for part in parts if part[2]] + spare, limit or used, "memory"),
        found if plan["largest_buffers"] else None,
    )


def limit_row(limit: float, whole: float, written: str) -> Markup:
    """The limit's number over the marks of the bars below."""
    text = element("text", f"limit {written}", x=f"{100 * limit / whole:.3f}%", y="12")
    bar = element("svg", text, class_="over-bar")
    return element("div", element("span"), bar, class_="row")


def bar_row(name: str, parts: Sequence, whole: float, limit: float | None, words: str, group: str):
    bar = plan_charts.stacked(parts, whole, group=group, limit=limit)
    return element(
        "div", element("span", name, class_="name"), bar, element("b", words), class_="row"
    )


def time(plan: plan_facts.Plan) -> Markup | None:
    """One bar of what a step's time goes to; below it what runs beside it for nothing."""
    step = plan["step_seconds"]
    if step is None or not plan_facts.parts(plan["time"], plan_facts.TIME):
        return section("Time", f"No step time is predicted; MFU is {plan_facts.mfu(plan)}.")
    write = units.alike(step, units.SECONDS)
    parts = plan_charts.segments(plan["time"], plan_facts.TIME, write)
    hidden = plan["time"]["collectives_hidden"] or 0.0
    whole = max(step, hidden)
    beside = [("hidden", "collectives, hidden", hidden, write(hidden))]
    bars = [bar_row("step", parts, whole, None, write(step), "time")]
    if hidden:
        bars.append(bar_row("beside it", beside, whole, None, write(hidden), "time"))
    top = max(parts, key=lambda part: part[2])
    lead = f"A step takes {write(step)}; {units.percent(top[2], step)} of it is {top[1]}. "
    if plan_facts.excess(plan) != units.UNKNOWN:
        lead += f"The program does {plan_facts.excess(plan)} of FLOPs."
    shown = [part for part in parts if part[2]] + (beside if hidden else [])
    return section(
        "Time", lead, element("div", bars, class_="bars"), plan_charts.legend(shown, step, "time")
    )


def axes(plan: plan_facts.Plan) -> Markup | None:
    """The map of mesh axes and tensors."""
    if not plan["sharding"]:
        return None
    whole = [axis for axis, n in plan["mesh"].items() if n == 1]
    lead = "A cell names the logical axis that is cut along that mesh axis."
    lead += f" Of length 1, and not shown: {', '.join(whole)}." if whole else ""
    return section("Where parameters lie", lead, plan_tables.map_of_axes(plan))


def roof(plan: plan_facts.Plan) -> Markup | None:
    """The roofline, if the chip's limits are known."""
    found = plan["roofline"]
    if not found or not found["peak_flops"] or not found["hbm_bandwidth"]:
        return None
    picture, left_out = roofline.roofline(found, plan["step_seconds"])
    spent = plan_facts.total(left_out, "seconds")
    lead = (
        "Operations of a device as predicted; the area of a dot is its seconds of a step. On the "
        "slope memory is the limit, on the level arithmetic; the ring is the whole step."
    )
    if left_out:
        lead += f" Without FLOPs, so not here: {units.times(len(left_out), 'operation')}"
        lead += f" ({units.seconds(spent)})."
    return section("Roofline", lead, picture)


def scaling(plan: plan_facts.Plan) -> Markup | None:
    """Weak scaling, where there are at least two sizes of the mesh."""
    key = "tokens_per_second_per_chip"
    rows = [row for row in plan["scaling"] if row[key] is not None]
    if len(rows) < 2:
        return None
    kept = units.percent(rows[-1][key], rows[0][key])
    lead = (
        "The batch grows with the chips; analytic, from this plan (the blue column). From "
        f"{rows[0]['chips']:,} to {rows[-1]['chips']:,} chips {kept} of a chip's tokens/s is kept."
    )
    return section("Weak scaling", lead, plan_charts.scaling(rows, plan["chips"]))


def moved(plan: plan_facts.Plan) -> Markup:
    rows = plan["collectives"]
    if not rows:
        return section("Collectives", "None: nothing moves between devices.")
    spent = [plan_facts.total(rows, key) for key in ("seconds", "exposed_seconds")]
    lead = "Bytes go in on one device, once; seconds are of a step, in full colour where exposed."
    if None not in spent:
        lead = f"{units.seconds(spent[0])} in all, {units.seconds(spent[1])} exposed. {lead}"
    return section("Collectives", lead, plan_tables.collectives(plan))


def warnings(plan: plan_facts.Plan) -> Markup | None:
    flags, items = plan["flags_refused"], [element("li", text) for text in plan["warnings"]]
    if flags:
        codes = [[element("code", flag), " "] for flag in flags]
        items.append(element("li", f"{units.times(len(flags), 'flag')} refused: ", codes))
    if not items:
        return None
    return section("Warnings", None, element("ul", items, class_="warnings"), id_="warnings")


def settings(plan: plan_facts.Plan) -> Markup:
    return section("Settings", None, plan_tables.settings(plan))
