"""The simpler pictures of a plan's page, as SVG: stacked bars, and weak scaling."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel.report import plan_facts, units
from bigmodel.report.markup import Inside, Markup, element

WIDE = 820.0  # of a chart, in its own units; a page shows it at most a tenth larger
Segment = tuple[str, str, float, str]  # key, words, number, the number as written


def stacked(
    segments: Sequence[Segment], whole: float, *, group: str, limit: float | None = None
) -> Markup:
    """One bar, its segments as wide as their share of `whole`, each telling itself when pointed at.

    Args:
        segments: the colour of one is that of the class "GROUP-KEY".
        whole: the number that the full width stands for.
        group: "memory" or "time".
        limit: where a mark stands, if any.
    """
    drawn, at = [], 0.0
    for key, words, number, written in segments:
        share = 100 * number / whole if whole else 0.0
        title = element("title", f"{words}: {written}")
        place = {"x": f"{at:.3f}%", "width": f"{share:.3f}%", "y": "0", "height": "100%"}
        drawn.append(element("rect", title, class_=f"part {group}-{key}", **place))
        at += share
    if limit is not None and whole:
        x = f"{100 * limit / whole:.3f}%"
        drawn.append(element("line", class_="limit", x1=x, x2=x, y1="0", y2="100%"))
    words = ", ".join(f"{words} {written}" for _, words, _, written in segments)
    return element("svg", drawn, class_="bar", role="img", aria_label=words)


def segments(
    numbers: Mapping[str, float | None] | None,
    names: Mapping[str, str],
    write: Callable[[float], str],
) -> list[Segment]:
    """The segments of a bar, from "memory" or "time" of a plan."""
    return [(*part, write(part[2])) for part in plan_facts.parts(numbers, names)]


def legend(parts: Sequence[Segment], whole: float, group: str) -> Markup:
    """Each segment of a bar with its colour, its number and its share."""
    items = [
        element(
            "li",
            element("span", class_=f"swatch {group}-{key}"),
            element("span", words),
            element("b", written),
            element("span", units.percent(part, whole), class_="faint"),
        )
        for key, words, part, written in parts
    ]
    return element("ul", items, class_="legend")


def frame(drawn: Inside, words: str, height: float) -> Markup:
    """A picture with labels in it: it shrinks with the page, but not so far that they blur."""
    box = f"0 0 {WIDE:.0f} {height:.0f}"
    picture = element("svg", drawn, viewBox=box, class_="chart", role="img", aria_label=words)
    return element("div", picture, class_="scroll")


def scaling(rows: Sequence[Mapping[str, Any]], chips: int) -> Markup:
    """Tokens/s/chip over chips, the batch growing with them; the plan itself is the full dot.

    Args:
        rows: "scaling" of a plan, at least two of them, fewest chips first.
        chips: of the plan.
    """
    high, left, right, top, bottom = 270.0, 74.0, 4.0, 30.0, 46.0
    key = "tokens_per_second_per_chip"
    best = max(row[key] for row in rows)
    step = (WIDE - left - right) / len(rows)
    base = high - bottom
    drawn: list[Markup] = [
        element("line", class_="base", x1=left, x2=WIDE - right, y1=base, y2=base)
    ]
    for i, row in enumerate(rows):
        x, y = left + step * (i + 0.5), base - (base - top) * row[key] / best
        title = (
            f"{units.times(row['chips'], 'chip')}: {units.count(row[key])} tokens/s/chip, step "
            f"{units.seconds(row['step_seconds'])}, MFU {units.percent(row['mfu'])}"
        )
        own = " own" if row["chips"] == chips else ""
        width = min(64.0, 0.6 * step)
        place = {"x": x - width / 2, "y": y, "width": width, "height": base - y}
        drawn += [
            element("rect", element("title", title), class_=f"column{own}", rx=2, **place),
            element("text", units.count(row[key]), x=x, y=y - 8, class_="middle strong"),
            element("text", f"{row['chips']:,}", x=x, y=base + 18, class_="middle"),
            element(
                "text",
                units.percent(row[key], rows[0][key]),
                x=x,
                y=base + 36,
                class_="middle faint",
            ),
        ]
    sides = (("tokens/s/chip", top - 8), ("chips", base + 18), ("kept", base + 36))
    drawn += [element("text", words, x=0, y=y, class_="faint") for words, y in sides]
    return frame(drawn, "Weak scaling: tokens/s/chip over chips", high)
