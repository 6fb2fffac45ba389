"""The field's scores of a model over a split: which there are, and of what they are told.

Every row counts once, whatever the batch, the mesh, and the number of processes: what the model
tells of it is brought to the host, where rows that only fill the last batch up are left out.
"""

from collections.abc import Mapping
from typing import Any

import jax

from bigmodel import config
from bigmodel import recipe as recipes
from bigmodel.data import kinds
from bigmodel.recipe import entries
from bigmodel.scoring import texts, told
from bigmodel.scoring.table import SCORES


def check(recipe: recipes.Recipe, name: str, entry: Mapping[str, Any]) -> None:
    """Refuses scores of an entry of `evals` that there are not, or not of this run."""
    fields = entries.evaluation(name, entry)
    of = kind(recipe)
    fitting = [score for score, row in SCORES.items() if of in row.needs]
    there = ", ".join(fitting) or "none"
    for score in fields["scores"]:
        if score not in SCORES:
            near = config.nearest(score, list(SCORES))
            raise config.InputError(
                f"evals.{name}.scores: there is no score {score!r}.{near} Those that fit this run: "
                f"{there}."
            )
        if score not in fitting:
            objective, data = recipe.config.objective.name, recipe.config.data.kind
            raise config.InputError(
                f"evals.{name}.scores: {score!r} is of {' or '.join(SCORES[score].needs)}, and the "
                f"objective {objective!r} with data.kind = {data!r} tells {of or 'none of that'}; "
                f"those that fit: {there}."
            )
    for axis in ("stage", "context"):
        if fields["scores"] and recipe.mesh.shape[axis] > 1:
            raise config.InputError(
                f"evals.{name}.scores with mesh.{axis} = {recipe.mesh.shape[axis]}: within the run "
                "they are told where that is 1; afterwards `bigmodel evaluate --scores` tells them."
            )


def kind(recipe: recipes.Recipe) -> str:
    """What the run tells, such as "classes" (see `table.Score`), or ""."""
    values = recipe.config
    if values.objective.name == "next_token":
        own = values.data.kind not in kinds.KINDS
        return "texts" if own or values.data.kind in PROMPTED else ""
    return OBJECTIVES.get(values.objective.name, "")


# Kinds of data whose rows ask for the text that follows; of plain text every token is asked for.
PROMPTED = ("chats", "pairs", "prompted_images", "prompted_text", "speech")
OBJECTIVES = {
    "classify": "classes",
    "contrastive": "pairs",
    "ctc": "texts",
    "label_tokens": "labels",
    "next_item": "ranks",
    "regress": "numbers",
    "sigmoid_contrastive": "pairs",
}


def check_rows(recipe: recipes.Recipe, evaluation: recipes.Evaluation) -> None:
    """Refuses scores that want other classes than the data has."""
    for name in evaluation.scores:
        if fault := SCORES[name].fits(*told.names_of(recipe, evaluation)):
            raise config.InputError(f"evals.{evaluation.name}.scores: {name!r} {fault}")


def score(
    recipe: recipes.Recipe,
    params: Any,
    evaluation: recipes.Evaluation,
    ends: tuple[int, ...] = (),
) -> dict[str, float]:
    """The scores that an evaluation asks for, and of how many they are: `scored`.

    Args:
        recipe: of the run.
        params: on the recipe's mesh, without adapters.
        evaluation: of which rows, and which scores.
        ends: tokens that end a text besides the tokenizer's end.
    """
    if not evaluation.scores:
        return {}
    check_rows(recipe, evaluation)
    with jax.transfer_guard("allow"):  # the loop refuses those that nobody asked for
        if (of := kind(recipe)) == "texts":
            seen = texts.texts(recipe, params, evaluation, ends)
        else:
            seen = told.KINDS[of](recipe, params, evaluation)
    if not len(seen.told):
        raise config.InputError(
            f"evals.{evaluation.name}: nothing to score among its {len(evaluation.batches.rows)} "
            "rows; it wants a row with a target that counts."
        )
    found: dict[str, float] = {"scored": len(seen.told)}
    for name in evaluation.scores:
        value = SCORES[name].of(seen)
        found |= value if isinstance(value, dict) else {name: value}
    return found
