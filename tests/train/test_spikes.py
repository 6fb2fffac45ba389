"""The running means that spikes are found by, without a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.train import spikes, state

FACTORS = {"loss": 2.0, "grad_norm": 10.0}


@functools.partial(jax.jit, static_argnums=2)
def judge(means, figures, steps):
    return spikes.judge(means, figures, FACTORS, steps)


def judged(losses, steps=4, norms=None, weights=None):
    """Verdicts on a row of steps, and the means after each."""
    means, verdicts, after = state.no_means(), [], []
    for at, loss in enumerate(losses):
        figures = dict(loss=jnp.float32(loss), grad_norm=jnp.float32(norms[at] if norms else 1))
        figures["weight"] = jnp.float32(weights[at] if weights else 1)
        spike, means = judge(means, figures, steps)
        verdicts.append(bool(spike))
        after.append(float(means["loss"]))
    return verdicts, after


def test_there_is_no_verdict_before_the_mean_is_full():
    assert judged([1, 1, 1, 100, 1, 100])[0] == [False] * 5 + [True]


def test_the_mean_is_of_all_steps_at_first_and_then_moves_by_its_share():
    _, means = judged([1, 1.3, 0.9, 1.2, 1.5])
    np.testing.assert_allclose(means[:4], np.cumsum([1, 1.3, 0.9, 1.2]) / np.arange(1, 5), 1e-6)
    np.testing.assert_allclose(means[4], means[3] + (1.5 - means[3]) / 4, 1e-6)


def test_a_spike_enters_the_mean_no_higher_than_its_limit_and_hides_no_other():
    verdicts, means = judged([1, 1, 1, 1, 1e30, 1e30, 1])
    assert verdicts == [False] * 4 + [True, True, False]
    assert means[4] == pytest.approx(1.25)
    assert means[5] == pytest.approx(1.25**2)


def test_a_level_that_stays_becomes_the_new_one():
    verdicts, _ = judged([1] * 4 + [3] * 8)
    assert verdicts[4]
    assert not verdicts[-1]


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_what_is_no_number_does_not_count(loss):
    assert judged([1, loss, 1, 1, 1, loss, 1, 3]) == (
        [False] * 7 + [True],
        [1] * 7 + [pytest.approx(1.25)],
    )


def test_a_batch_of_padding_does_not_count():
    assert judged([0, 1, 1, 1, 1, 0, 3], weights=[0, 1, 1, 1, 1, 0, 1])[0] == [False] * 6 + [True]


def test_either_figure_makes_a_spike_by_its_own_factor():
    assert judged([1] * 6, norms=[1, 1, 1, 1, 9, 50])[0] == [False] * 5 + [True]


def test_a_loss_below_zero_has_a_limit_above_its_mean():
    assert judged([-1] * 4 + [-1.5, 1])[0] == [False] * 5 + [True]


def test_a_mean_of_zero_makes_no_spike():
    assert not any(judged([0, 0, 0, 0, 5])[0])
