"""A config section held against the builder that it describes.

The builder's own fields and defaults are the schema; there is no second copy of it.
"""

import contextlib
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from bigmodel.config.errors import WANTED, InputError, nearest
from bigmodel.config.values import plain

REQUIRED = inspect.Parameter.empty  # the "default" of a field that has none


def schema(builder: Callable, skip: int = 0) -> dict[str, tuple[Any, Any]]:
    """{field: (type, default)} of a dataclass, a flax module, a function's keyword-only arguments.

    The first `skip` fields are the caller's own. A field without a default has REQUIRED.
    """
    hints = _type_hints(builder)
    if dataclasses.is_dataclass(builder):
        found = {f.name: _default(f) for f in dataclasses.fields(builder) if f.init}
        for own in ("parent", "name") if "parent" in found else ():  # flax's, not the builder's
            del found[own]
    else:
        parameters = inspect.signature(builder).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return {
        name: (hints.get(name, type(default) if default not in (None, REQUIRED) else Any), default)
        for name, default in list(found.items())[skip:]
    }


def resolve(
    section: ConfigDict, builder: Callable, where: str, besides: Collection[str] = ("name",)
) -> dict[str, Any]:
    """Keyword arguments for `builder` out of a config section; None leaves the builder's default.

    `where` names the section in messages; `besides` are its fields that someone else reads.
    """
    known = schema(builder)
    arguments: dict[str, Any] = {}
    for field, value in section.items():
        if field in besides:
            continue
        if field not in known:
            if value is None:
                continue
            builder_name = getattr(builder, "__name__", type(builder).__name__)
            raise InputError(
                f"{where}.{field}={_plain(value)!r}: {builder_name} takes no such field."
                f"{nearest(field, known)} It takes: {', '.join(sorted(known))}."
            )
        wanted, default = known[field]
        if value is not None:
            arguments[field] = fit(value, wanted, f"{where}.{field}")
        elif default is REQUIRED:
            raise InputError(f"{where}.{field}: has no default and needs {_describe(wanted)}.")
    return arguments


def fit(value: Any, wanted: Any, where: str) -> Any:
    """The value as the type that is wanted; `where` names its field in the message if it is not."""
    try:
        return _fit(value, wanted)
    except TypeError as error:
        choices = [c for c in typing.get_args(wanted) if isinstance(c, str)]
        text = f"{where}={_plain(value)!r}: wants {_describe(wanted)}.{nearest(value, choices)}"
        raise InputError(text) from error


def _type_hints(builder: Callable) -> dict[str, Any]:
    """Of every field whose annotation can be read; others name what only type checkers import."""
    of = getattr(builder, "func", builder)
    try:
        return typing.get_type_hints(of)
    except (NameError, TypeError):
        hints: dict[str, Any] = {}
        for name, hint in getattr(of, "__annotations__", {}).items():
            alone = types.SimpleNamespace(__annotations__={name: hint})
            with contextlib.suppress(NameError, TypeError):
                hints |= typing.get_type_hints(alone, getattr(of, "__globals__", {}))
        return hints


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _fit(value: Any, wanted: Any) -> Any:
    """The value as the builder wants it: whole numbers as floats, lists as tuples; or TypeError."""
    kind, options = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if kind in (Any, object):  # nothing is known: a field without annotation, elements of `tuple`
        return value
    if kind in (typing.Union, types.UnionType):
        for option in options:
            with contextlib.suppress(TypeError):
                return _fit(value, option)
    elif kind is typing.Literal:
        if value in options:
            return value
    elif kind in (tuple, list, Sequence):
        if isinstance(value, list | tuple):
            inner = _element_types(kind, options, len(value))
            return tuple(_fit(v, w) for v, w in zip(value, inner, strict=True))
    elif kind in (dict, Mapping):
        if isinstance(value, ConfigDict | dict):
            return plain(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif kind in (bool, int, str, types.NoneType):
        if type(value) is kind:
            return value
    elif not isinstance(value, bool | int | float | list | tuple) or not isinstance(kind, type):
        return value  # a dtype or a callable, or its name: the builder's caller knows
    raise TypeError(f"{value!r} is no {wanted}")


def _plain(value: Any) -> Any:
    """What is shown on one line; a ConfigDict shows itself on several."""
    return plain(value) if isinstance(value, ConfigDict) else value


def _element_types(kind: Any, options: tuple, count: int) -> tuple:
    if not options:
        return (Any,) * count
    if kind is not tuple or options[-1] is Ellipsis:
        return options[:1] * count
    if len(options) != count:
        raise TypeError(f"{len(options)} values are wanted, not {count}")
    return options


def _describe(wanted: Any) -> str:
    kind, options = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if kind is typing.Literal:
        return f"one of {', '.join(map(str, options))}"
    if kind in (typing.Union, types.UnionType):
        return " or ".join(_describe(o) for o in options if o is not type(None))
    return WANTED.get(kind, getattr(kind, "__name__", str(kind)))
