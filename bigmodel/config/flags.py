"""The command line's flags: a table of them in, absl's parsed values out, or one clear line."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from bigmodel.config.errors import WANTED, InputError, nearest


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a subcommand.

    Attributes:
        kind: bool, int, float or str.
        value: what --help writes for the value, such as "FILE".
        bounds: smallest and largest number that is allowed.
        choices: the texts that are allowed; any, where empty.
        words: how many values follow it; several are one text with a line each.
        repeats: whether it may be given many times; its values are a list.
    """

    name: str
    kind: type
    value: str
    help: str
    default: Any = None
    required: bool = False
    bounds: tuple[float | None, float | None] = (None, None)
    choices: tuple[str, ...] = ()
    words: int = 1
    repeats: bool = False

    def define(self, values: flags.FlagValues) -> None:
        low, high = self.bounds
        bounds: dict[str, Any] = {"lower_bound": low, "upper_bound": high}
        own: dict[str, Any] = {"help": self.help, "flag_values": values}
        if self.kind is bool:
            flags.DEFINE_boolean(self.name, self.default, **own)
        elif self.kind is int:
            flags.DEFINE_integer(self.name, self.default, **own, **bounds)
        elif self.kind is float:
            flags.DEFINE_float(self.name, self.default, **own, **bounds)
        elif self.repeats:
            flags.DEFINE_multi_string(self.name, self.default, **own)
        elif self.choices:
            flags.DEFINE_enum(self.name, self.default, self.choices, **own)
        else:
            flags.DEFINE_string(self.name, self.default, **own)


CONFIG = Flag("config", str, "FILE[:SIZE]", "a config file, and which of its sizes", required=True)


def parse(name: str, table: Sequence[Flag], argv: Sequence[str]) -> tuple[Any, list[str]]:
    """The flags' values as attributes, and the overrides that stood among them.

    `name` is the subcommand that a message is about. Only where a config is in the table are
    --config.a.b=v, --config.a.b v, --config.a.b and --noconfig.a.b overrides.
    """
    configures = any(flag.name == CONFIG.name for flag in table)
    argv, overrides = _overrides(argv) if configures else (list(argv), [])
    argv = _joined(argv, table)
    values = flags.FlagValues()
    for flag in table:
        flag.define(values)
    values.set_gnu_getopt()
    known = [flag.name for flag in table]
    try:
        rest = values(["bigmodel", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        near = nearest(error.flagname.split(".")[0], known)
        text = f"{name} takes no --{error.flagname}.{near} It takes: --{', --'.join(known)}."
        raise InputError(text) from error
    except flags.IllegalFlagValueError as error:
        raise InputError(_misfit(str(error), table)) from error
    except flags.Error as error:
        raise InputError(f"{name}: {error}.") from error
    if rest:
        raise InputError(f'{name}: "{rest[0]}" is no flag; a value follows its flag.')
    for flag in table:
        if flag.required and not values[flag.name].value:
            raise InputError(f"{name} needs --{flag.name} {flag.value}.")
    return values, overrides


def usage(name: str, help_text: str, table: Sequence[Flag]) -> str:
    """What `bigmodel NAME --help` prints."""
    shown = [flag for flag in table if flag.help]  # a config that is made has overrides alone
    rows = [(f"--{flag.name} {flag.value}".rstrip(), _help(flag)) for flag in shown]
    required = [row[0] for row, flag in zip(rows, shown, strict=True) if flag.required]
    if any(flag.name == CONFIG.name for flag in table):
        rows.insert(1, ("--config.FIELD=VALUE", "sets a field, as in --config.model.width=128"))
    width = max(len(row[0]) for row in rows) + 2
    lines = [f"  {flag:{width}}{text}" for flag, text in rows]
    first = " ".join(["usage: bigmodel", name, *required, "[flags]"])
    return "\n".join([first, "", f"  {help_text}", "", *lines])


def _overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    rest, overrides = [], []
    queue = list(argv)
    while queue:
        argument = queue.pop(0)
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(=.*)?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
        elif match[3]:
            overrides.append(match[2] + match[3])
        elif match[1] or not queue or re.match(r"--?[a-z]", queue[0]):  # a switch, on or off
            overrides.append(f"{match[2]}={not match[1]}")
        else:
            overrides.append(f"{match[2]}={queue.pop(0)}")
    return rest, overrides


def _joined(argv: Sequence[str], table: Sequence[Flag]) -> list[str]:
    """The values of flags that take several put into one, a line each."""
    joined, queue = [], list(argv)
    many = {f"--{flag.name}": flag for flag in table if flag.words > 1}
    while queue:
        argument = queue.pop(0)
        name, equals, value = argument.partition("=")
        if name in many:
            values = [value] if equals else []
            while len(values) < many[name].words and queue and not queue[0].startswith("--"):
                values.append(queue.pop(0))
            if len(values) < many[name].words:
                raise InputError(f"{name} wants {many[name].value}.")
            argument = f"{name}={chr(10).join(values)}"
        joined.append(argument)
    return joined


def _misfit(text: str, table: Sequence[Flag]) -> str:
    """absl's "flag --step=x: invalid literal for int()..." in words that help."""
    match = re.match(r"flag --(\w+)=(.*?): ", text, re.DOTALL)
    flag = next((f for f in table if match and f.name == match[1]), None)
    if match is None or flag is None:
        return " ".join(text.split())
    return f"--{match[1]}={match[2]}: wants {_allowed(flag)}.{nearest(match[2], flag.choices)}"


def _allowed(flag: Flag) -> str:
    if flag.choices:
        return f"one of {', '.join(flag.choices)}"
    low, high = flag.bounds
    least = "" if low is None else f", {low} or more"
    most = "" if high is None else f", {high} or less"
    return WANTED[flag.kind] + least + most


def _help(flag: Flag) -> str:
    choices = f": {', '.join(flag.choices)}" if flag.choices else ""
    default = "" if flag.default in (None, False) else f" (default {flag.default})"
    return f"{flag.help}{choices}{default}"
