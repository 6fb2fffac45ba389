"""Rotary positions as a Hugging Face config says them, in its older form and in its newer one."""

from typing import Any

from bigmodel import config as configs
from bigmodel.convert.architecture import Fields
from bigmodel.convert.fields import Foreign

# kind -> our scaling, and names of the numbers that it takes besides the factor
LENGTH = {"original_max_position_embeddings": "rope_original_length"}
LLAMA3 = LENGTH | {"low_freq_factor": "rope_low", "high_freq_factor": "rope_high"}
YARN = LENGTH | {"beta_slow": "rope_low", "beta_fast": "rope_high"}
YARN |= {"attention_factor": "rope_attention_factor"}
KINDS: dict[str, dict[str, str]] = {"linear": {}, "llama3": LLAMA3, "yarn": YARN}
USUAL = {"rope_low": 1.0, "rope_high": 32.0, "rope_attention_factor": 0.0}  # of YaRN


def fields(theirs: Foreign, theta: float = 10_000.0) -> dict[str, Any]:
    """Our fields, of `rope_theta` and `rope_scaling` or of `rope_parameters`."""
    found = theirs.take("rope_parameters", None) or {}
    found = {"rope_theta": theirs.take("rope_theta", theta)} | found
    found |= theirs.take("rope_scaling", None) or {}
    if found.get("rope_type", found.get("type")) == "yarn":
        length = theirs.take("max_position_embeddings")
        found = {"original_max_position_embeddings": length} | found
    return of_section(found, theirs.where)


def of_section(found: dict[str, Any], where: str) -> dict[str, Any]:
    """Of the section of one kind of layer."""
    given = dict(found)
    base: dict[str, Any] = {"rope_theta": float(given.pop("rope_theta"))}
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if kind != "default" and kind not in KINDS:
        known = ", ".join(map(repr, ("default", *KINDS)))
        raise configs.InputError(f"{where}: rope_type = {kind!r}; allowed are {known}.")
    if kind != "default":
        base |= {"rope_factor": float(given.pop("factor")), "rope_scaling": kind}
        for theirs, ours in KINDS[kind].items():
            value = given.pop(theirs, None)
            base[ours] = USUAL[ours] if kind == "yarn" and value is None else value
    if kind == "yarn" and given.get("truncate", True):
        given.pop("truncate", None)
    if given:
        raise configs.InputError(f"{where}: nobody knows what {sorted(given)} do to positions.")
    return base


def config(ours: Fields) -> dict[str, Any]:
    """And back, in the older form, which every version reads."""
    found: dict[str, Any] = {"rope_theta": ours["rope_theta"]}
    if ours["rope_factor"] == 1:
        return found
    kind = ours["rope_scaling"] or ("llama3" if ours["rope_original_length"] else "linear")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": ours["rope_factor"]}
    scaling |= {name: ours[field] for name, field in KINDS.get(kind, {}).items()}
    if not ours["rope_attention_factor"]:
        scaling.pop("attention_factor", None)
    return found | {"rope_scaling": scaling}
