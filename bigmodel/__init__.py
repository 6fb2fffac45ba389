"""bigmodel trains large transformers in JAX, from one config file.

What the command does is here as functions, imported at first use: `import bigmodel` costs nothing.
"""

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigmodel.config import InputError as InputError
    from bigmodel.config import load as load_config
    from bigmodel.recipe import default_config as default_config
    from bigmodel.run import evaluate as evaluate
    from bigmodel.run import generate as generate
    from bigmodel.run import load as load
    from bigmodel.train.loop import train as train

# Remote paths go through fsspec even where TensorFlow is installed: it would be imported for them.
os.environ.setdefault("EPATH_USE_TF", "0")

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "default_config",
    "evaluate",
    "generate",
    "load",
    "load_config",
    "train",
]

# name here: (module, name there)
_PLACES = {
    "InputError": ("bigmodel.config", "InputError"),
    "default_config": ("bigmodel.recipe", "default_config"),
    "evaluate": ("bigmodel.run", "evaluate"),
    "generate": ("bigmodel.run", "generate"),
    "load": ("bigmodel.run", "load"),
    "load_config": ("bigmodel.config", "load"),
    "train": ("bigmodel.train.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _PLACES[name]
    value = getattr(importlib.import_module(module), there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Door(types.ModuleType):
    """A package whose functions win over its rooms of the same name (`train`, `evaluate`).

    Importing bigmodel.train.loop makes Python set the attribute `train` here to the room; that is
    left out, so `bigmodel.train(...)` works before and after. `from bigmodel.train import loop`
    finds the room in sys.modules.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
