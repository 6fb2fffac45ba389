"""Every family is evaluated alike each time, whatever the batch."""

import dataclasses

import jax
import pytest

from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.evaluate import evaluate, make_eval_step
from bigmodel.train import state
from tests.train.family_runs import TWO, load, over_families, whole_batch


@over_families(TWO)
def test_an_evaluation_is_the_same_each_time_and_whatever_the_batch(name):
    recipe = recipes.make(load(name), devices=jax.devices()[:1])
    params, eval_step = state.create(recipe).params, make_eval_step(recipe)
    entry = recipes.evaluation(recipe, "validation", {"split": "validation"})
    found = []
    for batch in (8, 8, 6):
        few = pipeline.Batches(First(entry.batches.rows, 20), batch, shuffle=False, repeat=False)
        of_batch = dataclasses.replace(entry, batches=few, chosen=range(len(few)))
        found.append(evaluate(recipe, params, of_batch, eval_step))
    assert found[0] == found[1]
    if not whole_batch(name):
        for metric, value in found[0].items():
            assert found[2][metric] == pytest.approx(value, rel=2e-5), metric


class First:
    """The first of some rows."""

    def __init__(self, rows, most):
        self.rows, self.most = rows, most

    def __len__(self):
        return min(self.most, len(self.rows))

    def take(self, indices, epochs=None):
        return self.rows.take(indices, epochs)
