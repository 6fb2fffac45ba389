"""Evaluation: its figures are sums over rows, however many of them are taken at a time."""

import pytest

from bigmodel import recipe as recipes
from bigmodel.evaluate import evaluate
from bigmodel.recipe import rows
from bigmodel.train import state
from tests import runs


def scored(params=None, *, batches, **overrides):
    """(rows at a time, figures, parameters) of the split of the tests' config."""
    recipe = recipes.make(runs.config(**overrides))
    params = state.create(recipe).params if params is None else params
    entry = recipes.evaluation(recipe, "validation", dict(split="all", batches=batches))
    return entry.batches.batch, evaluate(recipe, params, entry), params


@pytest.mark.parametrize("batches", [0, 3])
def test_evaluation_takes_as_many_rows_at_a_time_as_training_and_tells_the_same(batches):
    at_a_time, whole, params = scored(batches=batches, batch=16)
    assert at_a_time == 16
    at_a_time, in_parts, _ = scored(params, batches=batches, batch=16, accumulate=8)
    assert at_a_time == 2
    assert in_parts["targets"] == whole["targets"]
    assert in_parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("batches", "parts", "most", "chosen"),
    [
        (4, 1, 0, [0, 1, 2, 3]),
        (4, 1, 2, [0, 2]),
        (4, 1, 9, [0, 1, 2, 3]),
        (7, 2, 0, [0, 1, 2, 3, 4, 5, 6]),
        (7, 2, 2, [0, 1, 4, 5]),
        (5, 4, 2, [0, 1, 2, 3, 4]),
    ],
)
def test_a_part_of_a_split_is_spread_over_all_of_it(batches, parts, most, chosen):
    assert rows.spread(batches, parts, most) == chosen
