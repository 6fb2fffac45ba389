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
    from bigmodel.plan import plan as plan
    from bigmodel.recipe import default_config as default_config
    from bigmodel.run import evaluate as evaluate
    from bigmodel.run import generate as generate
    from bigmodel.run import load as load
    from bigmodel.sweep import sweep as sweep
    from bigmodel.train.loop import train as train
    from bigmodel.weights import export_hf as export_hf
    from bigmodel.weights import import_hf as import_hf

# Remote paths go through fsspec even where TensorFlow is installed: it would be imported for them.
os.environ.setdefault("EPATH_USE_TF", "0")

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "default_config",
    "evaluate",
    "export_hf",
    "generate",
    "import_hf",
    "load",
    "load_config",
    "plan",
    "sweep",
    "train",
]

# name here: (module, name there)
_PLACES = {
    "InputError": ("bigmodel.config", "InputError"),
    "default_config": ("bigmodel.recipe", "default_config"),
    "evaluate": ("bigmodel.run", "evaluate"),
    "export_hf": ("bigmodel.weights", "export_hf"),
    "generate": ("bigmodel.run", "generate"),
    "import_hf": ("bigmodel.weights", "import_hf"),
    "load": ("bigmodel.run", "load"),
    "load_config": ("bigmodel.config", "load"),
    "plan": ("bigmodel.plan", "plan"),
    "sweep": ("bigmodel.sweep", "sweep"),
    "train": ("bigmodel.train.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _PLACES[name]
    value = getattr(importlib.import_module(module), there)
    return globals().setdefault(name, value)  # or the room of that name, which is called alike


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Room(types.ModuleType):
    """A room that a function of the package is named like (`train`, `evaluate`): it can be called.

    So `bigmodel.train(...)` works before and after `import bigmodel.train.loop`, which makes
    Python set the attribute `train` of the package to the room.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        module, there = _PLACES[self.__name__.rpartition(".")[2]]
        return getattr(importlib.import_module(module), there)(*args, **options)


class _Package(types.ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PLACES and isinstance(value, types.ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
