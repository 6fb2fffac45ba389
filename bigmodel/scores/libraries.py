"""Libraries that scores are told by, imported when they are asked."""

import importlib
from typing import Any

from bigmodel import config


def wanted(module: str, package: str) -> Any:
    """A module of a package that may not be installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise config.InputError(
            f"this score is told by {package}, which is not here: pip install 'bigmodel[scores]'."
        ) from error
