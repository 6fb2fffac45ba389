"""Config files and overrides in, a locked config out."""

import ast
import dataclasses
import inspect
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from bigmodel.config.errors import WANTED, InputError, nearest


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A config and all that it takes to make it again.

    Attributes:
        config: the values, locked.
        text: source of the config file.
        path: where the file was.
        argument: what stood after the colon, for example "8b".
        overrides: as "model.width=128", in the order given.
        extensions: the file's own builders, as {"optimizer": {"mine": make_mine}}.
    """

    config: ConfigDict
    text: str
    path: str
    argument: str | None = None
    overrides: tuple[str, ...] = ()
    extensions: Mapping[str, Mapping[str, Callable]] = dataclasses.field(default_factory=dict)


def load(spec: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Loaded:
    """Runs the config file of "FILE[:ARGUMENT]", then sets fields as "model.width=128" says."""
    name, _, argument = spec.partition(":")
    return load_text(_read(name), argument or None, overrides, name)


def call(name: str, function: str) -> Any:
    """What a function without arguments of a Python file returns."""
    module = _run(_read(name), name)
    if not callable(getattr(module, function, None)):
        raise InputError(f"{name}: needs a function {function}().")
    try:
        return getattr(module, function)()
    except Exception as error:
        raise InputError(_blame(name, error)) from error


def _read(name: str) -> str:
    path = pathlib.Path(name)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        files = [str(f) for folder in (path.parent, "configs") for f in _python_files(folder)]
        raise InputError(f"config file {name!r}: {found}.{nearest(name, files)}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"config file {name!r}: is no UTF-8 text.") from error


def load_text(
    text: str,
    argument: str | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    path: str = "config.py",
) -> Loaded:
    """The same from a config file's text, such as a workdir keeps."""
    if isinstance(overrides, Mapping):
        overrides = [f"{field}={value}" for field, value in overrides.items()]
    module = _run(text, path)
    config = _get_config(module, argument, path)
    for override in overrides:
        _override(config, override)
    config.lock()
    extensions = getattr(module, "EXTENSIONS", {})
    return Loaded(config, text, path, argument, tuple(overrides), extensions)


def _python_files(folder: str | pathlib.Path) -> list[pathlib.Path]:
    return sorted(pathlib.Path(folder).glob("*.py"))


def _run(text: str, path: str) -> types.ModuleType:
    """A module of its own in sys.modules, where dataclasses and flax look for their globals."""
    module = types.ModuleType(f"bigmodel_config_{pathlib.Path(path).stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except InputError:
        raise
    except Exception as error:
        raise InputError(_blame(path, error)) from error
    return module


def _get_config(module: types.ModuleType, argument: str | None, path: str) -> ConfigDict:
    if not callable(getattr(module, "get_config", None)):
        raise InputError(f"{path}: a config file needs a function get_config(size).")
    sizes = list(getattr(module, "SIZES", ()))
    allowed = f" Sizes: {', '.join(map(str, sizes))}." if sizes else ""
    arguments = () if argument is None else (argument,)
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError as error:
        law = (
            f"takes no {argument!r} after the colon" if arguments else "needs a size after a colon"
        )
        raise InputError(f"{path}: its get_config {law}.{allowed}") from error
    try:
        config = module.get_config(*arguments)
    except InputError:
        raise
    except Exception as error:
        if sizes and arguments and argument not in sizes:
            raise InputError(
                f"{path}: no size {argument!r}.{nearest(arguments[0], sizes)}{allowed}"
            ) from error
        raise InputError(_blame(path, error)) from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"{path}: get_config must return a ConfigDict, not {type(config).__name__};"
            " start from bigmodel.default_config()."
        )
    return config


def _blame(path: str, error: Exception) -> str:
    """One line for a fault in a config file: where, what, and the nearest name."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [1])[-1]
    text = " ".join(str(error).split())
    unknown = re.search(r'Key "([^"]*)" does not exist and cannot be added', text)
    if unknown:  # ml_collections goes on with the whole section, object addresses and all
        suggestion = re.search(r'Did you mean "[^"]*"', text)
        cure = f" {suggestion[0]}?" if suggestion else ""
        return f'{path}:{line}: the config has no field "{unknown[1]}" here.{cure}'
    return f"{path}:{line}: {type(error).__name__}: {text}"


# Overrides


def _override(config: ConfigDict, override: str) -> None:
    """Sets one field in place, from "model.width=128"; "None" means the builder's own default."""
    path, equals, value = override.partition("=")
    if not equals:
        raise InputError(f"{override}: an override is field=value, as in model.width=128.")
    if (entry := _entry_without(config, path)) is not None:
        with entry.unlocked():
            entry[path.split(".")[-1]] = _literal(value)
        return
    kind = _field_type(config, path, override)
    try:
        if value == "None":
            config_path.set_value(path, config, None)
        elif kind in (int, float, bool, tuple):
            _set_by_flag(config, path, value)
        elif kind is str:
            if isinstance(_literal(value), list | tuple | dict | set):
                raise ValueError(f"{value} is no text")
            _set_by_flag(config, path, value)
        elif kind is ConfigDict:  # keys with dots, such as file names, are beyond config_flags
            section = ConfigDict(ast.literal_eval(value), allow_dotted_keys=True)
            config_path.set_value(path, config, section)
        else:
            config_path.set_value(path, config, _literal(value))
    except (flags.Error, ValueError, TypeError, SyntaxError, AttributeError) as error:
        wanted = WANTED.get(dict if kind is ConfigDict else kind, kind.__name__)
        raise InputError(f"{override}: {path} wants {wanted}.") from error


def _entry_without(config: ConfigDict, path: str) -> ConfigDict | None:
    """The evaluation that a path adds a field to; which fields it may have is checked with it."""
    section, *parts = path.split(".")
    if section != "evals" or len(parts) != 2 or not isinstance(config.get("evals"), ConfigDict):
        return None
    entry = config.evals.get(parts[0])
    return entry if isinstance(entry, ConfigDict) and parts[1] not in entry else None


def _field_type(config: ConfigDict, path: str, override: str) -> type:
    section: Any = config
    *parents, last = path.split(".")
    for depth, part in enumerate([*parents, last]):
        where = ".".join(path.split(".")[:depth]) or "the config"
        if not isinstance(section, ConfigDict):
            raise InputError(f"{override}: {where} is a single value and has no fields.")
        if part not in section:
            known = sorted(map(str, section.keys()))
            raise InputError(
                f'{override}: {where} has no field "{part}".{nearest(part, known)}'
                f" It has: {', '.join(known) or 'none'}."
            )
        holder, section = section, section[part]
    return holder.get_type(last)


def _set_by_flag(config: ConfigDict, path: str, value: str) -> None:
    argument = f"--config.{path}={value}"
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=[argument])
    values(["bigmodel", argument])


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
