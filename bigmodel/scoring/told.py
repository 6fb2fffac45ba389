"""What a model tells of every row of a split, on the host, beside what is true."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import matching, trees
from bigmodel import recipe as recipes
from bigmodel.objectives import items
from bigmodel.sharding import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Told:
    """What a model tells of a split, beside what is true; N of both.

    Attributes:
        true: classes int [N], numbers float [N, K], texts, or vectors of images [N, J].
        told: the same of the model: classes, -1 where its logits are no numbers; numbers; texts;
            vectors of texts; or of items how many stand above the true one, int [N].
        sentence: of labels, the number of the row of each, int [N].
        names: of classes and labels, where the data has some.
        classes: how many there are.
    """

    true: Any
    told: Any
    sentence: np.ndarray | None = None
    names: tuple[str, ...] = ()
    classes: int = 0


def outputs(
    recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation, of: Callable
) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    """(of(params, batch), targets and weights) of each batch on the host, without added rows."""
    run, rows = program(of), len(evaluation.batches.rows)
    with meshes.use(recipe.mesh, recipe.rules), recipes.placed(recipe, evaluation) as batches:
        for _, batch in batches:
            asked = {name: batch[name] for name in ("rows", *ASKED) if name in batch}
            found, asked = trees.on_host((run(params, batch), asked))
            real = asked.pop("rows") < rows
            yield jax.tree.map(lambda x, real=real: x[real], (found, asked))


ASKED = ("labels", "targets", "weights")
program = functools.cache(jax.jit)  # evaluations of a run share what is compiled


def best(logits: jax.Array) -> jax.Array:
    """The class with the largest logit, -1 where one is no number.  [..., N] -> int [...]"""
    return jnp.where(jnp.isnan(logits).any(-1), -1, logits.argmax(-1))


@functools.cache
def class_of(apply: Callable, name: str) -> Callable:
    return lambda params, batch: best(apply(params, batch)[name])


@functools.cache
def numbers_of(apply: Callable) -> Callable:
    return lambda params, batch: apply(params, batch)["class_logits"].astype(jnp.float32)


@functools.cache
def ranks_of(model: Any, most: int) -> Callable:
    return lambda params, batch: items.ranks(model, params, batch, most)


def classes(recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation) -> Told:
    """The class of each example, of mixed ones the largest share."""
    true, told = [], []
    of = class_of(recipe.model.apply, "class_logits")
    for found, asked in outputs(recipe, params, evaluation, of):
        labels = asked["labels"]
        counts = asked["weights"] > 0 if "weights" in asked else np.ones(len(labels), bool)
        true.append((labels if labels.ndim == 1 else labels.argmax(-1))[counts])
        told.append(found[counts])
    return named(recipe, evaluation, true, told)


def labels(recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation) -> Told:
    """The label of each word, by its first token."""
    true, told, sentence, before = [], [], [], 0
    of = class_of(recipe.model.apply, "token_logits")
    for found, asked in outputs(recipe, params, evaluation, of):
        counts = asked["weights"] > 0
        true.append(asked["targets"][counts])
        told.append(found[counts])
        sentence.append(before + np.nonzero(counts)[0])
        before += len(counts)
    made = named(recipe, evaluation, true, told)
    return dataclasses.replace(made, sentence=np.concatenate(sentence))


def named(recipe: recipes.Recipe, evaluation: recipes.Evaluation, true: list, told: list) -> Told:
    names, number = names_of(recipe, evaluation)
    return Told(np.concatenate(true), np.concatenate(told), names=names, classes=number)


def names_of(recipe: recipes.Recipe, evaluation: recipes.Evaluation) -> tuple[tuple[str, ...], int]:
    """Names of the classes or labels, where the data has some, and how many there are."""
    names = tuple(getattr(evaluation.batches.rows, "classes", ()))
    of_model = (recipe.fields.get(field, 0) for field in ("token_classes", "classes"))
    return names, len(names) or next((number for number in of_model if number), 0)


def numbers(recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation) -> Told:
    true, told = [], []
    for found, asked in outputs(recipe, params, evaluation, numbers_of(recipe.model.apply)):
        counts = asked["weights"] > 0 if "weights" in asked else np.ones(len(found), bool)
        true.append(asked["labels"].reshape(len(found), -1)[counts])
        told.append(found[counts])
    return Told(np.concatenate(true), np.concatenate(told))


def pairs(recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation) -> Told:
    return Told(*matching.vectors(recipe, params, evaluation))


def ranks(recipe: recipes.Recipe, params: Any, evaluation: recipes.Evaluation) -> Told:
    of = ranks_of(recipe.model, recipe.config.objective["items"])
    found = [rank[asked["weights"] > 0] for rank, asked in outputs(recipe, params, evaluation, of)]
    return Told(None, np.concatenate(found))


KINDS: dict[str, Callable[..., Told]] = {
    "classes": classes,
    "labels": labels,
    "numbers": numbers,
    "pairs": pairs,
    "ranks": ranks,
}
