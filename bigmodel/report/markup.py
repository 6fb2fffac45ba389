"""HTML and SVG as nested calls: what is written is escaped and its tags close, always."""

import html
import pathlib
from collections.abc import Iterable
from typing import Any

from bigmodel import config

VOID = ("meta", "br", "img", "wbr")
# No page may hold control characters: each is shown by its picture.
CONTROLS = {i: 0x2400 + i for i in range(32) if i not in (9, 10, 13)}


class Markup(str):
    """Text that is markup already; any other text is escaped before it goes into an element."""


Inside = str | Iterable[Any] | None


def element(tag: str, *inside: Inside, **attributes: Any) -> Markup:
    """`element("p", "a < b", class_="note")` is `<p class="note">a &lt; b</p>`.

    Args:
        tag: its name.
        inside: texts, markup, or iterables of them; None is nothing.
        attributes: by name, "_" for "-" and one at the end for names that Python keeps for itself;
            None leaves one out, and a float is written to a hundredth.
    """
    words = [tag]
    for name, value in attributes.items():
        if value is not None:
            value = f"{value:.2f}" if isinstance(value, float) else str(value)
            words.append(f'{name.rstrip("_").replace("_", "-")}="{escaped(value)}"')
    opened = " ".join(words)
    if tag in VOID:
        return Markup(f"<{opened}/>")
    return Markup(f"<{opened}>{join(*inside)}</{tag}>")


def join(*inside: Inside) -> Markup:
    """Several pieces of markup and text as one."""
    texts = []
    for piece in inside:
        if isinstance(piece, Markup):
            texts.append(str(piece))
        elif isinstance(piece, str):
            texts.append(escaped(piece, quote=False))
        elif piece is not None:
            texts.append(str(join(*piece)))
    return Markup("".join(texts))


def escaped(text: str, quote: bool = True) -> str:
    return html.escape(text, quote=quote).translate(CONTROLS)


def page(title: str, styles: Iterable[pathlib.Path], *inside: Inside) -> str:
    """A whole page that needs nothing but itself; light and dark as its style sheets say."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", [Markup(style.read_text(encoding="utf-8")) for style in styles]),
    )
    body = element("body", element("main", *inside))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def write(path: str, page: str) -> None:
    """Writes a page where --report says."""
    try:
        pathlib.Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise config.InputError(f"--report={path}: {error.strerror}.") from error


def path(text: str) -> Markup:
    """A path that may break after each slash."""
    first, *rest = text.split("/")
    return join(first, [["/", element("wbr"), word] for word in rest])


def table(heads: Iterable[Inside], rows: Iterable[Iterable[Inside]], *, numbers: Iterable[int]):
    """A table that scrolls by itself where it is too wide; columns `numbers` are set to the right.

    A row may be markup, for one that the caller has made.
    """
    right = set(numbers)

    def cells(tag: str, row: Iterable[Inside]) -> Markup:
        return element(
            "tr",
            [
                element(tag, cell, class_="number" if i in right else None)
                for i, cell in enumerate(row)
            ],
        )

    body = [row if isinstance(row, Markup) else cells("td", row) for row in rows]
    return element(
        "div",
        element("table", element("thead", cells("th", list(heads))), element("tbody", body)),
        class_="scroll",
    )
