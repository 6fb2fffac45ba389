"""Rotary positions as a Hugging Face config says them, in its older form and in its newer one."""

from typing import Any

from bigmodel import config as configs
from bigmodel.convert.architecture import Fields
from bigmodel.convert.fields import Foreign

LLAMA3 = {
    "original_max_position_embeddings": "rope_original_length",
    "low_freq_factor": "rope_low",
    "high_freq_factor": "rope_high",
}


def fields(theirs: Foreign, theta: float = 10_000.0) -> dict[str, Any]:
    """Our fields, of `rope_theta` and `rope_scaling` or of `rope_parameters`."""
    found = theirs.take("rope_parameters", None) or {}
    found = {"rope_theta": theirs.take("rope_theta", theta)} | found
    found |= theirs.take("rope_scaling", None) or {}
    return of_section(found, theirs.where)


def of_section(found: dict[str, Any], where: str) -> dict[str, Any]:
    """Of the section of one kind of layer."""
    given = dict(found)
    base = {"rope_theta": float(given.pop("rope_theta"))}
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if kind == "default":
        pass
    elif kind == "linear":
        base["rope_factor"] = float(given.pop("factor"))
    elif kind == "llama3":
        base["rope_factor"] = float(given.pop("factor"))
        for theirs, ours in LLAMA3.items():
            base[ours] = given.pop(theirs)
    else:
        raise configs.InputError(
            f"{where}: rope_type = {kind!r}; allowed are 'default', 'linear' and 'llama3'."
        )
    if given:
        raise configs.InputError(f"{where}: nobody knows what {sorted(given)} do to positions.")
    return base


def config(ours: Fields) -> dict[str, Any]:
    """And back, in the older form, which every version reads."""
    found: dict[str, Any] = {"rope_theta": ours["rope_theta"]}
    if ours["rope_factor"] == 1:
        return found
    scaling: dict[str, Any] = {"rope_type": "linear", "factor": ours["rope_factor"]}
    if ours["rope_original_length"]:
        scaling["rope_type"] = "llama3"
        scaling |= {name: ours[field] for name, field in LLAMA3.items()}
    return found | {"rope_scaling": scaling}
