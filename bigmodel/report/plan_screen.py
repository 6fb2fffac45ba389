"""A plan in one screen of plain text, 100 columns wide, for a terminal and for a pipe."""

import textwrap
from collections.abc import Iterator, Sequence

from bigmodel.report import plan_facts, units

WIDTH, BAR = 100, 12
COLLECTIVES, LAYOUTS, WARNINGS, CHANGES = 6, 20, 4, 4  # rows that are shown; the page has them all
EIGHTHS = " ▏▎▍▌▋▊▉"


def screen(plan: plan_facts.Plan) -> str:
    """What a step costs, in about 40 lines; many warnings and tried changes make it a few more.

    Args:
        plan: the dict of `bigmodel plan --json`; what is null in it is "unknown" here.
    """
    blocks = (head, split, buffers, work, collectives, changes, warnings)
    texts = ("\n".join(block(plan)) for block in blocks)
    return "\n\n".join(filter(None, texts)) + "\n"


def ranking(plan: plan_facts.Plan) -> str:
    """The table of a search, best first; ties and what was compiled are marked.

    Args:
        plan: the dict of `bigmodel plan --search --json`; its "search" is not null.
    """
    search, layouts = plan["search"], plan["search"]["layouts"]
    ranks = plan_facts.ranks(layouts, search["objective"])
    goal = plan_facts.OBJECTIVES[search["objective"]][1]
    compiled = sum(row["compiled"] != "analytic" for row in layouts)
    common, own = plan_facts.apart([plan_facts.layout_words(row["layout"]) for row in layouts])
    heads = ["", "", "mesh", "layout", "HBM", "step", "MFU", "tok/s/chip"]
    table = [heads]
    for row, rank, words in list(zip(layouts, ranks, own, strict=True))[:LAYOUTS]:
        tie = "=" if rank is not None and ranks.count(rank) > 1 else " "
        table.append(
            [
                "no " if rank is None else f"{rank}{tie}",
                " " if row["compiled"] == "analytic" else "*",
                plan_facts.mesh_words(row["mesh"]),
                ", ".join(words),
                units.size(row["hbm_bytes"]),
                units.seconds(row["step_seconds"]),
                units.percent(row["mfu"]),
                units.count(row["tokens_per_second_per_chip"]),
            ]
        )
    extras = {"chips": units.count, "dollars_per_million_tokens": units.dollars}
    for key, write in extras.items():
        if len({row[key] for row in layouts}) > 1:
            column = [{"chips": "chips"}.get(key, "$/1M"), *(write(row[key]) for row in layouts)]
            table = [[*line, text] for line, text in zip(table, column, strict=False)]
    more = len(layouts) - LAYOUTS
    return "\n".join(
        [
            *wrapped(
                f"Search for {goal}: {units.times(search['admissible'], 'layout')} admissible, "
                f"{units.count(search['considered'])} of them fit by the estimate "
                f"({units.seconds(search['analytic_seconds'])}), {units.count(compiled)} compiled"
                + ("" if search["complete"] else "; cut short")
            ),
            *wrapped(
                f"All of these: {', '.join([*common, units.size(plan['hbm_limit_bytes'])])} of HBM"
            ),
            *columns(table, left=(2, 3), bends=3),
            *([f"and {units.count(more)} more"] if more > 0 else []),
            "* compiled, the others analytic;  = tied: within "
            f"{100 * plan_facts.TIE:.0f} % of each other;  no: does not fit",
            "",
        ]
    )


def head(plan: plan_facts.Plan) -> Iterator[str]:
    """What is planned, the verdict, the figures that people ask for, and how far to trust them."""
    layout = plan["layout"]
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    crosses = f", crossed along {plan['slice_axis']}" if plan["slice_axis"] else ""
    yield cut(" ".join([plan_facts.name(plan), *plan["config"]["overrides"]]), WIDTH)
    yield (
        f"{plan['task']} on {plan_facts.place(plan)}{crosses}: {units.times(plan['chips'], 'chip')}"
        f", {units.times(plan['devices'], 'device')} ({plan['device']})"
    )
    yield from wrapped(
        f"{plan_facts.mesh_words(plan['mesh'])}; {plan_facts.batch_words(layout)}; "
        f"{', '.join(plan_facts.layout_words(layout))}"
    )
    yield from wrapped(
        f"{units.rounded(plan['parameters'])} parameters; {plan_facts.compiled_words(plan)} "
        f"({versions})"
    )
    mark, sentence = plan_facts.verdict(plan)
    yield from ("", {"fits": "[ok] ", "over": "[NO] ", "unknown": "[??] "}[mark] + sentence)
    unit = plan_facts.unit(layout)
    figures = [
        (units.seconds(plan["step_seconds"]), "a step"),
        (units.count(plan["tokens_per_second_per_chip"]), f"{unit}/s/chip"),
        (units.count(plan["tokens_per_second"]), f"{unit}/s"),
        (units.dollars(plan["dollars_per_million_tokens"]), "per million tokens"),
    ]
    known = [f"{figure} {words}" for figure, words in figures if figure != units.UNKNOWN]
    yield from wrapped(", ".join([*known, f"MFU {plan_facts.mfu(plan)}"]), "     ")
    yield from wrapped(plan_facts.promise(plan), "     ")


def split(plan: plan_facts.Plan) -> Iterator[str]:
    """Memory on the left, against the limit; time on the right, against the step."""
    limit, free, step = plan["hbm_limit_bytes"], plan_facts.free(plan), plan["step_seconds"]
    whole = limit or plan["hbm_bytes"]
    size = units.alike(max(whole, plan["hbm_bytes"]), units.BYTES)
    left = [f"{'HBM a device':<16}{size(plan['hbm_bytes']):>11}{bar(plan['hbm_bytes'], whole)}"]
    for _, words, part in plan_facts.parts(plan["memory"], plan_facts.MEMORY):
        left.append(f"{words:<16}{size(part):>11}{bar(part, whole)}")
    if free is not None:
        left.append(f"{'free' if free >= 0 else 'too much':<16}{size(abs(free)):>11}")
        left.append(f"{'limit':<16}{size(limit):>11}")
    if plan["host_bytes"]:
        left.append(f"{'on the host':<16}{size(plan['host_bytes']):>11}")

    seconds = units.alike(step, units.SECONDS)
    right = [f"{'step':<20}{seconds(step):>10}"]
    for _, words, part in plan_facts.parts(plan["time"], plan_facts.TIME):
        right.append(f"{words:<20}{seconds(part):>10}{bar(part, step)}")
    hidden = (plan["time"] or {}).get("collectives_hidden")
    if hidden is not None:
        right.append(f"{'collectives, hidden':<20}{seconds(hidden):>10}  beside other work")
    for i in range(max(len(left), len(right))):
        one, two = (rows[i] if i < len(rows) else "" for rows in (left, right))
        yield f"{one:<50}{two}".rstrip()


def buffers(plan: plan_facts.Plan) -> Iterator[str]:
    rows = plan["largest_buffers"]
    if rows:
        names = ["largest buffers", "", "", ""]
        table = [[units.size(r["bytes"]), r["kind"], r["name"], r["shape"]] for r in rows]
        yield from columns([names, *table], left=(0, 1, 2, 3), bends=2)


def work(plan: plan_facts.Plan) -> Iterator[str]:
    """FLOPs of a step and MFU, by both conventions of counting attention."""
    flops, done = plan["flops"], plan["flops"]["compiled_per_device"]
    rows = [
        ("causal attention halved", flops["causal"], plan["mfu"]),
        ("full attention", flops["full"], plan["mfu_full_attention"]),
    ]
    for words, number, used in rows:
        share = "" if used is None else f", MFU {units.percent(used)}"
        yield f"FLOPs of a step, {words:<24}{units.flops(number):>12}{share}"
    if done is not None:
        yield f"{'FLOPs that the program does on a device':<41}{units.flops(done):>12}, " + (
            plan_facts.excess(plan)
        )


def collectives(plan: plan_facts.Plan) -> Iterator[str]:
    """The largest ones; bytes go in on one device, once; seconds are of a whole step."""
    rows = sorted(plan["collectives"], key=plan_facts.size_of, reverse=True)
    if not rows:
        yield "no collectives: nothing moves between devices"
        return
    heads = ["collective", "axes", "over", "bytes", "times", "seconds", "exposed", "layer"]
    table = [heads]
    for row in rows[:COLLECTIVES]:
        axes = "×".join(row["axes"])
        kind = row["kind"] + (" (sync)" if row["synchronous"] else "")
        size, times = units.size(row["bytes"]), units.count(row["times"])
        spent = [units.seconds(row[key]) for key in ("seconds", "exposed_seconds")]
        where = f"{row['layer']} {row['pass']}".strip()
        table.append([kind, f"{axes} {row['devices']}", row["network"], size, times, *spent, where])
    rest = rows[COLLECTIVES:]
    if rest:
        moved = units.size(sum(row["bytes"] * row["times"] for row in rest))
        times = units.count(sum(row["times"] for row in rest))
        spent = [units.seconds(plan_facts.total(rest, k)) for k in ("seconds", "exposed_seconds")]
        table.append(
            [f"{len(rest)} smaller", "", "", "", times, *spent, f"{moved} in all of the step"]
        )
    yield from columns(table, left=(0, 1, 2, 7), bends=7)


def changes(plan: plan_facts.Plan) -> Iterator[str]:
    tried = plan["changes"]
    if tried:
        yield "tried, in order:"
    for row in tried[:CHANGES]:
        fate = "fits" if row["fits"] else "does not fit"
        figures = f"{units.size(row['hbm_bytes'])}, step {units.seconds(row['step_seconds'])}"
        yield cut(f"  {plan_facts.change_words(row['change']):<40} {fate:<13} {figures}", WIDTH)
    if len(tried) > CHANGES:
        yield f"  and {len(tried) - CHANGES} more"


def warnings(plan: plan_facts.Plan) -> Iterator[str]:
    """Each begins on a line of its own; when there are too many the rest is counted."""
    for text in plan["warnings"][:WARNINGS]:
        yield from wrapped(f"warning: {text}", lines=2)
    if len(plan["warnings"]) > WARNINGS:
        yield f"and {len(plan['warnings']) - WARNINGS} more warnings"
    if plan["flags_refused"]:
        flags = plan["flags_refused"]
        yield from wrapped(f"{units.times(len(flags), 'flag')} refused: {' '.join(flags)}", lines=2)


def bar(part: float, whole: float | None) -> str:
    """A share in per cent and as a bar, to an eighth of a character."""
    share = part / whole if whole else 0.0
    full, rest = divmod(round(min(share, 1.0) * BAR * 8), 8)
    return f"{100 * share:4.0f} % {('█' * full + EIGHTHS[rest]).strip()}"


def columns(table: Sequence[Sequence[str]], *, left: Sequence[int], bends: int) -> Iterator[str]:
    """Lines of a table, two spaces apart; the column that bends is cut to keep within the width."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    spare = WIDTH - sum(widths) - 2 * (len(widths) - 1)
    widths[bends] += min(0, spare)
    for row in table:
        cells = [
            cut(cell, width).ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def cut(text: str, width: int) -> str:
    """Of a path its end tells more than its beginning."""
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if "/" in text else f"{text[: width - 1]}…"


def wrapped(text: str, indent: str = "", lines: int = 3) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        max_lines=lines,
        placeholder=" …",
    )
