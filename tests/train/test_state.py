"""The state: which of its parts are evaluated, and with what."""

import jax
import pytest

from bigmodel import recipe as recipes
from bigmodel.train import state as states
from tests import runs

SCHEDULE_FREE = dict(name="schedule_free_adamw")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (dict(), {"params"}),
        (dict(ema=0.9), {"ema"}),
        (dict(optimizer=SCHEDULE_FREE), {"params", "opt_state"}),
        (dict(optimizer=SCHEDULE_FREE, ema=0.9), {"ema"}),
    ],
    ids=str,
)
def test_only_the_parts_that_are_evaluated_are_restored(overrides, parts):
    abstract = states.abstract(recipes.make(runs.config(**overrides)))
    assert set(states.eval_parts(abstract)) == parts


def test_parameters_that_train_are_evaluated_where_they_lie():
    state = states.create(recipes.make(runs.config()))
    chosen = states.eval_params(states.eval_parts(state))
    own = zip(jax.tree.leaves(chosen), jax.tree.leaves(state.params), strict=True)
    assert all(one is other for one, other in own)
