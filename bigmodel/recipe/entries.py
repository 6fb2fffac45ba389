"""Entries of the config's open sections, `data.mixture`, `evals`, `compiler`: read, or refused."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from bigmodel import config
from bigmodel.recipe import checks

EVAL_FIELDS: dict[str, Any] = {
    **{"source": "", "split": "validation", "every": 0, "batches": 0},
    # of scores.SCORES; and how the texts that they are of are written, 0: as many as a row has
    **{"scores": (), "num_beams": 1, "max_new_tokens": 0},
}


def mixture(entries: Mapping[str, Any]) -> dict[str, float]:
    """Source -> weight, from entries name -> weight or name -> {"source", "weight"}."""
    weights: dict[str, float] = {}
    for name, entry in entries.items():
        where, source, weight = f"data.mixture.{name}", name, entry
        if isinstance(entry, ConfigDict | Mapping):
            for field in entry:
                config.known(f"{where}: field", field, ("source", "weight"))
            if "weight" not in entry:
                raise config.InputError(f"{where}: has no weight; it is a share of the rows drawn.")
            source, weight = entry.get("source", name), entry["weight"]
        source = config.fit(source, str, f"{where}.source")
        weight = config.fit(weight, float, f"{where}.weight")
        if not 0 < weight < float("inf"):
            raise config.InputError(
                f"{where}.weight = {weight}: must be above 0; leave a source out to have none of "
                f"it."
            )
        if source in weights:
            raise config.InputError(
                f"{where}: the source {source!r} has an entry already; a mixture holds a source "
                f"once, so add up the weights."
            )
        weights[source] = weight
    return weights


def evaluation(name: str, entry: Any) -> dict[str, Any]:
    """An entry of `evals` with every field."""
    if not isinstance(entry, ConfigDict | Mapping):
        raise config.InputError(
            f"evals.{name} = {entry!r}: wants a section with fields of {', '.join(EVAL_FIELDS)}."
        )
    for field in entry:
        config.known(f"evals.{name}: field", field, EVAL_FIELDS)
    fields = EVAL_FIELDS | dict(entry)
    for field, default in EVAL_FIELDS.items():
        config.fit(fields[field], type(default), f"evals.{name}.{field}")
    for field, least in (("every", 0), ("batches", 0), ("num_beams", 1), ("max_new_tokens", 0)):
        checks.at_least(least, f"evals.{name}.{field}", fields[field])
    return fields


def sources(loaded: config.Loaded) -> list[str]:
    """Names of all sources of the library that a config reads, each once."""
    data, own = loaded.config.data, loaded.extensions
    if data.kind in own.get("data", {}):
        return []
    mixed = mixture(data.mixture) if "mixture" in data else {}
    evals = loaded.config.evals.items()
    asked = [*(mixed or [data.source]), *(evaluation(*entry)["source"] for entry in evals)]
    return [name for name in dict.fromkeys(asked) if name and name not in own.get("source", {})]


def compiler(entries: Mapping[str, Any]) -> None:
    """Checks XLA's options, name -> value; whether it knows their names is seen when it runs."""
    for name, value in entries.items():
        config.fit(value, bool | int | float | str, f"compiler.{name}")


def rates(entries: Mapping[str, Any]) -> None:
    """Checks factors of the learning rate, pattern of parameters -> factor."""
    for pattern, value in entries.items():
        if not 0 < config.fit(value, float, f"rates.{pattern}") < float("inf"):
            raise config.InputError(
                f"rates.{pattern} = {value}: a factor is above 0; what should not move is `frozen`."
            )


def prices(entries: Mapping[str, Any]) -> None:
    """Checks dollars of a chip and hour, name of the hardware -> price."""
    for name, value in entries.items():
        if not config.fit(value, float, f"prices.{name}") > 0:
            raise config.InputError(f"prices.{name} = {value}: dollars an hour, above 0.")
