"""What a person is told: a refused input, the words for what is wanted instead, and progress."""

import difflib
import sys
from collections.abc import Iterable
from typing import Any

WANTED: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: 'a tuple, such as "(1, 2)"',
    list: 'a list, such as "[1, 2]"',
    dict: "a section, such as \"{'name': 1}\"",
    Any: "a value",
}


def to_stderr(text: str) -> None:
    """One line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


class InputError(ValueError):
    """An input that a person gave and can mend: the law, what was found, what is allowed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean "width"?', or nothing where no known name is near."""
    by_lower = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f' Did you mean "{by_lower[close[0]]}"?' if close else ""


def known(field: str, value: str, allowed: Iterable[str]) -> None:
    """Refuses a value that is not among those allowed, with the nearest one."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(
            f"{field} = {value!r}: allowed are {', '.join(map(str, allowed))}."
            f"{nearest(value, allowed)}"
        )
