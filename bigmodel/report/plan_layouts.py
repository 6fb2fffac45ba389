"""The layouts of a search on a plan's page: memory against the limit, and time beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel.report import markup, plan_charts, plan_facts, units
from bigmodel.report.markup import Inside, Markup, element

LAYOUTS = 24  # rows; the JSON has them all


def lead(plan: plan_facts.Plan) -> str:
    """How many layouts there were, what they share, and how to read the rows."""
    search = plan["search"]
    common, _ = plan_facts.apart([plan_facts.layout_words(r["layout"]) for r in rows_of(plan)])
    return (
        f"For {plan_facts.OBJECTIVES[search['objective']][1]}: "
        f"{units.times(search['admissible'], 'layout')} admissible, "
        f"{units.count(search['considered'])} of them fit by the estimate "
        f"({units.seconds(search['analytic_seconds'])})"
        + ("" if search["complete"] else ", then cut short")
        + f". All of these: {', '.join(common) or 'nothing'}. The line is the limit of "
        f"{units.size(plan['hbm_limit_bytes'])}. Equal ranks (=) are ties: predictions within "
        f"{100 * plan_facts.TIE:.0f} % are not told apart; ✕: too large, or "
        "without a prediction. Below, the first."
    )


def bars(plan: plan_facts.Plan) -> tuple[Markup, Markup]:
    """(the key of colours, the table), best layout first."""
    rows, objective = rows_of(plan), plan["search"]["objective"]
    ranks = plan_facts.ranks(plan["search"]["layouts"], objective)
    _, own = plan_facts.apart([plan_facts.layout_words(row["layout"]) for row in rows])
    most = 1.01 * max(max(row["hbm_bytes"], row["hbm_limit_bytes"] or 0) for row in rows)
    slowest = max(row["step_seconds"] or 0 for row in rows)
    heads = ["", "layout", "memory a device", "", "step", "", "MFU", "tokens/s/chip"]
    price = "dollars_per_million_tokens"
    priced = any(row[price] is not None for row in rows)
    body = []
    for row, rank, words in zip(rows, ranks, own, strict=False):
        tie = "=" if rank is not None and ranks.count(rank) > 1 else ""
        memory = plan_charts.segments(row["memory"], plan_facts.MEMORY, units.size)
        time = plan_charts.segments(row["time"], plan_facts.TIME, units.seconds)
        limit = row["hbm_limit_bytes"]
        cells: list[Inside] = [
            element("span", "✕" if rank is None else f"{rank}{tie}", class_="rank"),
            name(row, words, plan["chips"]),
            plan_charts.stacked(memory, most, group="memory", limit=limit),
            units.size(row["hbm_bytes"]),
            plan_charts.stacked(time, slowest, group="time"),
            units.seconds(row["step_seconds"]),
            units.percent(row["mfu"]),
            units.count(row["tokens_per_second_per_chip"]),
        ]
        body.append(cells + ([units.dollars(row[price])] if priced else []))
    heads += ["$ per million"] if priced else []
    table = markup.table(heads, body, numbers=(3, 5, 6, 7, 8))
    return key(rows), element("div", table, class_="layouts")


def rows_of(plan: plan_facts.Plan) -> Sequence[Mapping[str, Any]]:
    return plan["search"]["layouts"][:LAYOUTS]


def name(row: Mapping[str, Any], words: Sequence[str], chips: int) -> Markup:
    """The mesh, how far it was compiled, and what sets the layout apart from the others."""
    how = "analytic" if row["compiled"] == "analytic" else "compiled"
    where = f" on {units.times(row['chips'], 'chip')} " if row["chips"] != chips else " "
    return element(
        "span",
        element("b", plan_facts.mesh_words(row["mesh"]), where),
        element("span", how, class_=f"tag {how}"),
        element("br"),
        element("span", ", ".join(words), class_="faint"),
    )


def key(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The colours of what some row has."""
    groups = (("memory", plan_facts.MEMORY), ("time", plan_facts.TIME))
    items = [
        element("li", element("span", class_=f"swatch {group}-{part}"), words)
        for group, names in groups
        for part, words in names.items()
        if any((row[group] or {}).get(part) for row in rows)
    ]
    return element("ul", items, class_="key")
