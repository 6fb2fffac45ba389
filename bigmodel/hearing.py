"""What a run hears frame by frame, written down: no token of it is drawn after another."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bigmodel import config
from bigmodel import recipe as recipes
from bigmodel.decode import ctc
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules


def hears(recipe: recipes.Recipe) -> bool:
    """Whether the model tells what each frame says; one that reads tokens does not."""
    if "tokens" in recipe.example:
        return False
    params = nn.unbox(recipe.boxed_params)
    return "frame_logits" in jax.eval_shape(recipe.model.apply, params, recipe.example)


def transcribe(
    recipe: recipes.Recipe,
    params: Any,
    inputs: Mapping[str, np.ndarray],
    *,
    asked: Mapping[str, Any],
    num_return_sequences: int = 1,
    num_beams: int = 1,
) -> list[list[str]]:
    """The text of each sound, or several, the likeliest first.

    Args:
        recipe: of the run.
        params: to hear with, on the recipe's mesh.
        inputs: what the model reads, [sounds, ...] each.
        asked: what was said besides of prompts and of how tokens are drawn: nothing may be.
        num_return_sequences: texts of each sound.
        num_beams: 1: the likeliest alignment's; more: of a search that follows so many prefixes.
    """
    for name, value in asked.items():
        if value is not None:
            raise config.InputError(
                f"{name}={value}: the model {recipe.config.model.name!r} says what it hears at "
                "each moment, and draws nothing after a prompt; allowed are num_beams and "
                "num_return_sequences."
            )
    with meshes.use(recipe.mesh, recipe.rules):
        found = ctc.transcribe(
            recipe.model,
            params,
            inputs,
            vocab=recipe.tokenizer.size,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            multiple=rules.parts(recipe.mesh, dict(recipe.rules)["batch"]),
        )
    return [[recipe.tokenizer.decode(labels) for labels in of_sound] for of_sound in found]
