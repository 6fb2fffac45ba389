"""The tiny configs of every family besides the decoder, and what laws ask of them.

A new family is tested by its config's `tiny` size being here: all of them are.
"""

import functools
import math
import runpy
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import pytest

from bigmodel import config, objectives, trees
from bigmodel import recipe as recipes
from bigmodel.sharding import mesh as meshes
from bigmodel.train import state, step
from tests import runs

CONFIGS = runs.ROOT / "configs"
BATCH = 8


def of_other_families() -> list[str]:
    found = []
    for path in sorted(CONFIGS.glob("*.py")):
        for size in runpy.run_path(str(path)).get("SIZES", {}):
            if size.startswith("tiny"):
                name = f"{path.name}:{size}"
                if config.load(f"{CONFIGS}/{name}").config.model.name != "decoder":
                    found.append(name)
    return found


NAMES = of_other_families()
# The first of each: family -> name.
ONE_OF_EACH = {config.load(f"{CONFIGS}/{n}").config.model.name: n for n in reversed(NAMES)}


# An encoder, both sides, a decoder of images, one without text: of laws that take long.
FOUR = [ONE_OF_EACH[family] for family in ("encoder", "encoder_decoder", "vision_language", "vit")]
TWO = [ONE_OF_EACH[family] for family in ("encoder_decoder", "vit")]  # and longest
ONE = [ONE_OF_EACH["vit"]]  # and longer still


def param(name: str, *values: Any, of: Collection[str], long: bool = False) -> Any:
    """A row of a table over NAMES: `make test` has some of them, and no long ones.

    All are `make test-families`, the long ones `make test-layouts`.
    """
    marks = [pytest.mark.layouts] if long else []
    marks += [pytest.mark.families] * (name not in of)
    return pytest.param(name, *values, marks=marks)


def over_families(of: Collection[str]) -> Any:
    return pytest.mark.parametrize("name", [param(name, of=of) for name in NAMES])


def load(name: str, **changes: Any) -> config.Loaded:
    """A tiny config with a small batch, and dropout where the family has it."""
    plain = config.load(f"{CONFIGS}/{name}")
    fields: dict[str, Any] = {"batch": BATCH, "log.tensorboard": False}
    if "dropout" in plain.config.model:
        fields["model.dropout"] = 0.1
    return config.load(f"{CONFIGS}/{name}", {**fields, **changes})


@functools.cache
def first_batch(name: str) -> dict[str, np.ndarray]:
    recipe = recipes.make(load(name), devices=jax.devices()[:1])
    return recipes.train_batches(recipe).host(0)


def gradient(name: str, **changes: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients for each unit of weight of the first batch, by path.

    Args:
        name: of NAMES.
        **changes: fields of the config; those of `mesh` say how many devices there are.
    """
    loaded = load(name, **changes)
    devices = math.prod(n for axis, n in changes.items() if axis.startswith("mesh."))
    recipe = recipes.make(loaded, devices=jax.devices()[:devices])

    def of_batch(params, frozen, batch, rng):
        return recipe.objective(params, batch, rng)

    summed = step.accumulated(jax.value_and_grad(of_batch, has_aux=True), recipe.accumulate)

    def of_unit(params, batch, rng):
        (loss, sums), grads = summed(params, {}, batch, rng)
        return loss / sums["weight"], trees.scale(grads, 1 / sums["weight"])

    with meshes.use(recipe.mesh, recipe.rules):
        now = state.create(recipe)
        batch = jax.device_put(first_batch(name), recipe.batch_sharding)
        loss, grads = jax.jit(of_unit)(felt(now.params), batch, now.rng)
    return float(loss), trees.flatten(jax.device_get(grads))


def felt(params: Any) -> Any:
    """Parameters of which none is zero everywhere: every gradient is felt."""

    def one(path, leaf):
        draw = np.random.default_rng(len(path) + leaf.size)
        noise = 0.05 * draw.normal(size=leaf.shape).astype(leaf.dtype)
        return leaf + jax.device_put(noise, leaf.sharding)

    return trees.map_with_path(one, params)


@functools.cache
def reference(name: str) -> tuple[float, dict[str, np.ndarray]]:
    return gradient(name)


def whole_batch(name: str) -> bool:
    """Whether the config's objective is about all rows of a batch together."""
    return hasattr(objectives.OBJECTIVES[load(name).config.objective.name], "whole_batch")
