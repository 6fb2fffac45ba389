"""A data set as one HTML page that needs nothing but itself: what is in it, looked at."""

import base64
import io
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigmodel.report import markup, plan_charts, units
from bigmodel.report.markup import Markup, element, join, table

STYLES = [pathlib.Path(__file__).with_name(f"{name}_page.css") for name in ("plan", "data")]


def page(title: str, parts: Sequence[Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        title: of it.
        parts: one for each source: its "name", "lead", "share" of the rows, "facts" by name,
            "lengths" as {what: (a sentence, [(range, count)])}, and "examples": dicts of
            "row", "texts" by name, whether they are "marked", "picture" (of 0 to 1) or None, and
            whether it is a "sound".
    """
    top = element(
        "header",
        element("p", "bigmodel data", class_="eyebrow"),
        element("h1", title),
        shares(parts),
    )
    return markup.page(f"Data: {title}", STYLES, top, [section(part) for part in parts])


def shares(parts: Sequence[Mapping[str, Any]]) -> Markup | None:
    """A mixture's sources, by their share of the rows."""
    if len(parts) < 2:
        return None
    return bars([(part["name"], part["share"], units.percent(part["share"])) for part in parts])


def section(part: Mapping[str, Any]) -> Markup:
    rows = part["facts"].items()
    pieces: list[Any] = [element("h2", part["name"]), element("p", part["lead"], class_="lead")]
    pieces.append(
        element("dl", [element("div", element("dt", k), element("dd", v)) for k, v in rows])
    )
    for what, (sentence, counts) in part["lengths"].items():
        drawn = [(words, count, units.count(count)) for words, count in counts]
        pieces += [element("h3", what), element("p", sentence, class_="lead"), bars(drawn)]
    pieces.append(element("h3", "Examples"))
    pieces.append(element("div", map(example, part["examples"]), class_="examples"))
    return element("section", pieces)


def bars(rows: Iterable[tuple[str, float, str]]) -> Markup:
    """(name, number, the number as written) of each; the largest is the whole width."""
    rows = list(rows)
    most = max((number for _, number, _ in rows), default=0)
    return element(
        "div",
        [
            element(
                "div",
                element("span", name, class_="name"),
                plan_charts.stacked([("matrix", name, n, words)], most, group="time"),
                element("b", words),
                class_="row",
            )
            for name, n, words in rows
        ],
        class_="bars",
    )


def example(shown: Mapping[str, Any]) -> Markup:
    """A row: its picture, and its texts by name."""
    texts = [
        (
            element("code", name),
            element("div", learnt(text) if shown["marked"] else text, class_="text"),
        )
        for name, text in shown["texts"].items()
    ]
    picture = shown["picture"]
    return element(
        "figure",
        None if picture is None else image(picture, shown["sound"]),
        element("figcaption", f"row {shown['row']:,}"),
        table((), texts, numbers=()) if texts else None,
        class_="wide" if picture is None or shown["sound"] else None,
    )


def learnt(text: str) -> Markup:
    """What stands in [[ ]] is marked."""
    pieces = re.split(r"\[\[(.*?)\]\]", text, flags=re.DOTALL)
    return join([element("mark", p) if at % 2 else p for at, p in enumerate(pieces)])


def image(numbers: Any, sound: bool) -> Markup:
    """A PNG inside the page; of a sound time goes to the right and its low bands are below."""
    from matplotlib import image as images

    file = io.BytesIO()
    how: dict[str, Any] = dict(cmap="magma", origin="lower") if sound else dict(cmap="gray")
    images.imsave(file, numbers.T if sound else numbers, vmin=0, vmax=1, format="png", **how)
    data = base64.b64encode(file.getvalue()).decode()
    words = "spectrogram" if sound else "image"
    return element("img", src=f"data:image/png;base64,{data}", alt=words, class_=words)
