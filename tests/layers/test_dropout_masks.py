"""Laws of dropout: a mask is that of its row, place, layer and step, and of nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers.dropout import dropout, row_keys

KEY = jax.random.key(0)
X = np.ones((6, 5, 40), np.float32)


def masks(rows, *, key=KEY, layer=0, site=1, rate=0.3, x=X):
    rows = np.asarray(rows)
    return np.asarray(dropout(x[: len(rows)], row_keys(key, layer, rows), rate=rate, site=site))


def test_what_is_left_is_scaled_so_that_the_mean_stays():
    found = masks(range(6))
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.7)}
    assert (found == 0).mean() == pytest.approx(0.3, abs=0.04)


def test_a_mask_is_that_of_its_row_in_any_order_and_any_part_of_the_batch():
    whole = masks(range(6))
    for rows in ([5, 2, 0], [3], [1, 1]):
        np.testing.assert_array_equal(masks(rows), whole[rows])
    assert (whole[0] != whole[1]).any()


@pytest.mark.parametrize(
    "other",
    [dict(layer=1), dict(site=2), dict(key=jax.random.fold_in(KEY, 1))],
    ids=["layer", "site", "step"],
)
def test_another_layer_place_or_step_draws_another_mask(other):
    assert (masks(range(6)) != masks(range(6), **other)).mean() > 0.2


def test_a_layer_may_be_known_only_when_the_program_runs():
    run = jax.jit(lambda layer: row_keys(KEY, layer, jnp.arange(3)))
    np.testing.assert_array_equal(
        jax.random.key_data(run(4)), jax.random.key_data(row_keys(KEY, 4, jnp.arange(3)))
    )


def test_without_keys_or_rate_nothing_is_dropped():
    assert row_keys(None, 0, np.arange(6)) is None
    assert dropout(X, None, rate=0.5, site=0) is X
    np.testing.assert_array_equal(masks(range(6), rate=0.0), X)


def test_the_dtype_stays():
    x = jnp.ones((2, 3), jnp.bfloat16)
    assert dropout(x, row_keys(KEY, 0, jnp.arange(2)), rate=0.5, site=0).dtype == jnp.bfloat16
