"""A config held against the schema of its builders: no field too many or too few."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel import config
from bigmodel.recipe import defaults

# Fields of builders' sections that someone other than the builder reads.
BESIDES = {
    "model": ("name",),
    "objective": ("name",),
    "optimizer": ("name", "clip", "offload"),
    "schedule": ("name",),
}


def against_schema(values: Any, extensions: Mapping) -> None:
    """Refuses fields beside the schema: a dict assigned to a section replaces it whole."""
    for name in ("model", "objective"):
        if not isinstance(values.get(name), defaults.ConfigDict) or "name" not in values[name]:
            raise config.InputError(
                f"{name}: must be a section with a name; start from bigmodel.default_config()."
            )
        config.fit(values[name].name, str, f"{name}.name")
    complete = defaults.default_config(
        values.model.name,
        objective=values.objective.name,
        data=kind_of_data(values),
        extensions=extensions,
    )
    same_fields("the config", values, complete, "Start from bigmodel.default_config().")
    for name, section in complete.items():
        config.fit(values[name], kind(section), name)
        if not isinstance(section, defaults.ConfigDict) or name in OPEN:
            continue
        cure = f"A dict assigned to a section replaces it: use config.{name}.update(...)."
        same_fields(name, values[name], section, cure)
        # A builder's own fields may be None, and are held against the builder.
        for field in BESIDES.get(name, section):
            config.fit(values[name][field], kind(section[field]), f"{name}.{field}")


# Sections whose entries have checks of their own.
OPEN = ("evals", "compiler", "prices", "rates", "mup")


def kind_of_data(values: Any) -> str:
    """The kind that a config's section `data` says."""
    section = values.data if "data" in values else None
    if not isinstance(section, defaults.ConfigDict) or "kind" not in section:
        raise config.InputError(
            "data: must be a section with a kind; start from bigmodel.default_config()."
        )
    return config.fit(section.kind, str, "data.kind")


def same_fields(where: str, found: Any, wanted: Any, cure: str) -> None:
    """Refuses a field too many or too few."""
    if extra := sorted(set(found) - set(wanted), key=str):
        raise config.InputError(
            f"{where} has no field {extra[0]!r}.{config.nearest(extra[0], wanted)}"
        )
    if missing := sorted(set(wanted) - set(found), key=str):
        raise config.InputError(f"{where} lacks the field {missing[0]!r}. {cure}")


def kind(default: Any) -> type:
    """What a field's value must be, told by its default."""
    return dict if isinstance(default, defaults.ConfigDict) else type(default)


def drop_foreign(section: Any, builder: Callable, where: str, overrides: Sequence[str]) -> None:
    """Another builder chosen on the command line drops what only the file's own one takes."""
    said = {override.partition("=")[0] for override in overrides}
    if f"{where}.name" not in said:
        return
    kept = {*config.schema(builder), *BESIDES[where]}
    for field in section:
        if field not in kept and f"{where}.{field}" not in said:
            section[field] = None
