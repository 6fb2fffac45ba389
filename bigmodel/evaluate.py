"""A model over a data split: sums of an objective, and the figures that are told of them."""

from collections.abc import Callable
from typing import Any

import jax

from bigmodel import compat, scores
from bigmodel import recipe as recipes
from bigmodel.data import text
from bigmodel.sharding import mesh as meshes

EvalStep = Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(recipe: recipes.Recipe) -> EvalStep:
    """(params, batch) -> the objective's sums; nothing is random."""

    def eval_step(params, batch):
        loss, sums = recipe.objective(params, batch, None)
        return sums | {"loss": loss}

    return jax.jit(eval_step)


def evaluate(
    recipe: recipes.Recipe,
    params: Any,
    evaluation: recipes.Evaluation,
    eval_step: EvalStep | None = None,
) -> dict[str, float]:
    """The figures of a split: loss and nll in nats a target, perplexity, accuracy, bits per byte.

    Args:
        recipe: of the run.
        params: to evaluate, on the recipe's mesh.
        evaluation: which rows.
        eval_step: what `make_eval_step` gave, to compile once for many calls.
    """
    eval_step = eval_step or make_eval_step(recipe)
    totals: dict[str, float] = {}
    with meshes.use(recipe.mesh, recipe.rules), recipes.placed(recipe, evaluation) as batches:
        pending = None
        for _, batch in batches:
            sums = compat.in_turn(eval_step(params, batch))
            add(totals, pending)  # of the batch before: this one runs meanwhile
            pending = sums
        add(totals, pending)
    return figures(totals, evaluation.bytes_per_target)


def add(totals: dict[str, float], sums: dict[str, jax.Array] | None) -> None:
    """Adds sums that are single numbers; a load of experts is none."""
    for name, value in jax.device_get(sums or {}).items():
        if value.ndim == 0:
            totals[name] = totals.get(name, 0.0) + float(value)


def figures(totals: dict[str, float], bytes_per_target: float) -> dict[str, float]:
    """Means over the weight, and what is told of them."""
    weight = totals.pop("weight")
    means = {name: value / weight for name, value in totals.items()}
    found = {"loss": means.pop("loss")}
    if "nll" in means:
        nll = means.pop("nll")
        found["perplexity"] = scores.perplexity(nll, 1)
        if bytes_per_target:  # of text
            found["bits_per_byte"] = scores.bits_per_byte(nll, bytes_per_target)
    if "correct" in means:
        found["accuracy"] = means.pop("correct")
    return found | means | {"targets": weight}


# Counting pairs sorts the tokens of the training split: a minute for so many, and it says little
# about a corpus that large.
MOST_TOKENS_OF_BASELINES = 10**8


def baselines(
    recipe: recipes.Recipe, rows: Any, progress: recipes.Progress | None = None
) -> dict[str, float]:
    """Bits per byte of counts of tokens and of pairs of tokens, or {}.

    They are counted on the split that the run trains on (`data.split`), of the source that `rows`
    are of: an evaluation with a source of its own is held against that source's. There are none of
    a mixture, of more than `MOST_TOKENS_OF_BASELINES`, and where preparing the split would take
    long: to score a checkpoint needs only what is scored.
    """
    if not isinstance(rows, text.Rows):
        return {}
    train = recipes.open_small_rows(
        recipe.loaded,
        rows.source,
        recipe.config.data.split,
        progress,
        tokens=MOST_TOKENS_OF_BASELINES,
    )
    if train is None:
        return {}
    return {
        f"{name}_bits_per_byte": scores.ngram_bits_per_byte(
            train.flat()[0],
            rows.flat()[0],
            order=order,
            vocab=recipe.tokenizer.size,
            bytes=rows.bytes,
        )
        for order, name in ((1, "unigram"), (2, "bigram"))
    }
