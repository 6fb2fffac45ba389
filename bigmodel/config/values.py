"""A config as plain values: as JSON and back, a line a field, compared."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

ABSENT = "(no such field)"


def plain(config: Mapping | ConfigDict) -> dict[str, Any]:
    """Nested dicts of what JSON holds."""

    def convert(value):
        if isinstance(value, ConfigDict | Mapping):
            return {str(k): convert(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [convert(v) for v in value]
        return value

    return convert(config)


def to_json(config: ConfigDict) -> str:
    return json.dumps(plain(config), indent=2, ensure_ascii=False)


def from_json(text: str) -> ConfigDict:
    """What `to_json` wrote, locked; no code of the config file runs."""

    def freeze(value):
        return tuple(map(freeze, value)) if isinstance(value, list) else value

    pairs = json.loads(text, object_pairs_hook=lambda p: {k: freeze(v) for k, v in p})
    return ConfigDict(pairs, allow_dotted_keys=True).lock()


def flat(config: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{"model.width": 64}: one entry a field, single values before sections."""
    fields: dict[str, Any] = {}
    for key, value in sorted(
        config.items(), key=lambda item: isinstance(item[1], Mapping | ConfigDict)
    ):
        if isinstance(value, Mapping | ConfigDict) and len(value):
            fields |= flat(value, f"{prefix}{key}.")
        else:
            fields[f"{prefix}{key}"] = value
    return fields


def differences(a: ConfigDict, b: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{path: (value in a, value in b)} of the fields that differ; ABSENT where there is none."""
    old, new = flat(plain(a)), flat(plain(b))
    pairs = {path: (old.get(path, ABSENT), new.get(path, ABSENT)) for path in {**old, **new}}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def diff(a: ConfigDict, b: ConfigDict) -> list[str]:
    """["model.width: 64 -> 128"], a line for each field that differs."""
    return [f"{path}: {shown(x)} -> {shown(y)}" for path, (x, y) in differences(a, b).items()]


def shown(value: Any) -> str:
    """A field's value on one line, as JSON writes it."""
    return value if value is ABSENT else json.dumps(value, ensure_ascii=False)
