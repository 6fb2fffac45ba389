"""The recipe of a run that a workdir holds, to use it on the devices that are here."""

import dataclasses
import math
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from bigmodel import config, models
from bigmodel.recipe import build, defaults
from bigmodel.sharding import kernels


def make_stored(loaded: config.Loaded) -> build.Recipe:
    """`make`, but for use: the run may be of an earlier version, and of other devices.

    The mesh is the run's, without the axes that only training needs, if devices, batch and
    parameters fit it; else it is one device.

    Raises:
        InputError: the config cannot be run on one device either.
    """
    values = completed(loaded.config, loaded.extensions)
    if of_another_platform(values, loaded.extensions):
        values.model.attention = "auto"
    folded = values.copy_and_resolve_references()
    folded.mesh.update(fold(values.mesh.to_dict()))
    try:
        return build.make(dataclasses.replace(loaded, config=folded.lock()))
    except config.InputError:
        values.mesh.update(dict.fromkeys(values.mesh, 1))
        values.mesh_slices = 1
        return build.make(dataclasses.replace(loaded, config=values.lock()))


def completed(stored: ConfigDict, extensions: defaults.Extensions) -> ConfigDict:
    """A config with the fields that came after it, at their defaults; unlocked."""
    values = stored.copy_and_resolve_references().unlock()
    if "kind" not in values.data:
        values.data.kind = "text"
    complete = defaults.default_config(
        values.model.name,
        objective=values.objective.name,
        data=values.data.kind,
        extensions=extensions,
    )
    for name, section in complete.items():
        if name not in values:
            values[name] = section
        elif isinstance(section, ConfigDict):
            for field in set(section) - set(values[name]):
                values[name][field] = section[field]
    return values


def of_another_platform(values: ConfigDict, extensions: defaults.Extensions) -> bool:
    """Whether attention is by a kernel that the devices here do not run."""
    if values.model.name in extensions.get("model", {}) or values.model.name not in models.FAMILIES:
        return False
    here = jax.devices()[0].platform
    here = "gpu" if here in ("cuda", "rocm") else here
    return kernels.PLATFORMS.get(values.model.attention, here) != here


def fold(sizes: Mapping[str, int]) -> dict[str, int]:
    """A mesh without stages and without a cut length: "fsdp" takes their devices."""
    moved = [sizes["stage"], sizes["context"]]
    rest = -1 in (*moved, sizes["fsdp"])  # the axis that takes what the others leave
    fsdp = -1 if rest else sizes["fsdp"] * math.prod(moved)
    return {**sizes, "stage": 1, "context": 1, "fsdp": fsdp}
