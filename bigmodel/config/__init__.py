"""Config files and flags in; checked, locked values out.

A config file is Python with a function `get_config(size)`: `load` runs it and applies overrides
through `ml_collections.config_flags`. `resolve` turns one section into a builder's arguments.
"""

import importlib
from typing import TYPE_CHECKING, Any

from bigmodel.config.errors import InputError, known, nearest, to_stderr
from bigmodel.config.flags import CONFIG, Flag, parse, usage
from bigmodel.config.places import place

if TYPE_CHECKING:
    from bigmodel.config.builders import REQUIRED, fit, resolve, schema
    from bigmodel.config.files import Loaded, call, load, load_text
    from bigmodel.config.values import diff, differences, flat, from_json, plain, shown, to_json

__all__ = [
    "CONFIG",
    "REQUIRED",
    "Flag",
    "InputError",
    "Loaded",
    "call",
    "diff",
    "differences",
    "fit",
    "flat",
    "from_json",
    "known",
    "load",
    "load_text",
    "nearest",
    "parse",
    "place",
    "plain",
    "resolve",
    "schema",
    "shown",
    "to_json",
    "to_stderr",
    "usage",
]

# These need ml_collections, whose import takes a third of the time that `bigmodel --help` may take.
_LATER = ("builders", "files", "values")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _LATER:
            found = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
