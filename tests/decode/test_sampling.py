"""Laws of sampling: each filter is its definition, written out in NumPy and float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from bigmodel.config import InputError
from bigmodel.decode import sampling
from bigmodel.decode.sampling import Sampling, next_tokens

B, V = 3, 11
LOGITS = st.integers(0, 2**31).map(lambda s: np.random.default_rng(s).normal(0, 3, (B, V)))
QUICK = settings(max_examples=25, deadline=None)


def softmax(logits):
    exps = np.exp(logits - logits.max())
    return exps / exps.sum()


def kept(filtered):
    return np.isfinite(np.asarray(filtered))


@QUICK
@given(logits=LOGITS, k=st.integers(1, V))
def test_top_k_keeps_the_k_largest(logits, k):
    found = sampling.top_k(jnp.float32(logits), k)
    for row, mask in zip(logits, kept(found), strict=True):
        assert set(np.flatnonzero(mask)) == set(np.argsort(row)[-k:])


@QUICK
@given(logits=LOGITS, p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_that_hold_the_share(logits, p):
    found = kept(sampling.top_p(jnp.float32(logits), p))
    for row, mask in zip(logits, found, strict=True):
        order = np.argsort(-row)
        shares = np.cumsum(softmax(row)[order])
        assume(np.min(np.abs(shares - p)) > 1e-5)  # a share that float32 may put on either side
        assert set(np.flatnonzero(mask)) == set(order[: np.searchsorted(shares, p) + 1])


@QUICK
@given(logits=LOGITS, p=st.floats(0.001, 1.0))
def test_min_p_keeps_what_is_likely_beside_the_likeliest(logits, p):
    found = kept(sampling.min_p(jnp.float32(logits), p))
    for row, mask in zip(logits, found, strict=True):
        ratios = softmax(row) / softmax(row).max()
        assume(np.min(np.abs(np.delete(ratios, row.argmax()) / p - 1)) > 1e-4)
        np.testing.assert_array_equal(mask, ratios >= p)


@QUICK
@given(logits=LOGITS, seed=st.integers(0, 99), penalty=st.floats(0.5, 3.0))
def test_penalty_makes_seen_tokens_less_likely_whatever_their_sign(logits, seed, penalty):
    seen = np.random.default_rng(seed).random((B, V)) < 0.5
    found = sampling.penalise(jnp.float32(logits), jnp.asarray(seen), penalty)
    expected = np.array(logits)
    for where in zip(*np.nonzero(seen), strict=True):
        expected[where] *= penalty if logits[where] < 0 else 1 / penalty
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("keep", [lambda x: sampling.top_k(x, 1), lambda x: sampling.top_p(x, 0.1)])
def test_equals_stay_together(keep):
    assert kept(keep(jnp.array([[1.0, 2.0, 2.0, 0.0]]))).tolist() == [[False, True, True, False]]


def test_the_order_is_temperature_then_top_k_then_top_p_then_min_p():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.06, 0.04]]))
    # Halving the temperature squares: 16, 9, 4, ... of 29 in the top three.
    halved = Sampling(temperature=0.5, top_k=3, top_p=0.56)
    assert kept(sampling.filtered(logits, halved)).tolist() == [[True, True, False, False, False]]
    # Without top-k the two likeliest hold 25 of 29.5; the third is asked for from 0.85 on.
    hotter = Sampling(top_k=2, top_p=0.58, min_p=0.74)
    assert kept(sampling.filtered(logits, hotter)).tolist() == [[True, True, False, False, False]]
    hotter = Sampling(top_k=2, top_p=0.58, min_p=0.76)
    assert kept(sampling.filtered(logits, hotter)).tolist() == [[True, False, False, False, False]]


def draw(logits, how, count):
    """`count` tokens from one row of logits, each with a key of its own."""
    keys = jax.random.split(jax.random.key(0), count)
    rows = jnp.broadcast_to(logits, (count, len(logits)))
    return np.asarray(next_tokens(rows, jnp.zeros(rows.shape, bool), keys, how))


@pytest.mark.parametrize(
    "how",
    [
        Sampling(),
        Sampling(temperature=0.7),
        Sampling(top_k=4),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(temperature=1.5, top_k=6, top_p=0.9, min_p=0.05),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_filtered_distribution_says(how):
    logits = np.random.default_rng(0).normal(0, 1.5, V).astype(np.float32)
    filtered = np.asarray(sampling.filtered(jnp.array([logits]), how)[0])
    counts = np.bincount(draw(logits, how, 20_000), minlength=V)
    possible = np.isfinite(filtered)
    assert not counts[~possible].any()
    expected = 20_000 * softmax(filtered[possible])
    statistic = np.sum((counts[possible] - expected) ** 2 / expected)
    assert statistic < stats.chi2.ppf(0.9999, possible.sum() - 1)


@QUICK
@given(logits=LOGITS)
def test_temperature_zero_is_greedy_and_top_k_of_one_too(logits):
    keys, seen = jax.random.split(jax.random.key(0), B), jnp.zeros((B, V), bool)
    for how in (Sampling(temperature=0.0), Sampling(top_k=1), Sampling(temperature=0.0, top_p=0.1)):
        found = next_tokens(jnp.float32(logits), seen, keys, how)
        np.testing.assert_array_equal(found, logits.argmax(axis=1))


def test_greedy_heeds_the_penalty():
    logits = jnp.array([[3.0, 2.0], [-2.0, -3.0]])
    seen = jnp.array([[True, False], [True, False]])
    keys = jax.random.split(jax.random.key(0), 2)
    how = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert next_tokens(logits, seen, keys, how).tolist() == [1, 1]


def test_a_row_is_drawn_alike_in_any_batch_and_in_bfloat16_as_in_float32():
    logits = np.random.default_rng(1).normal(0, 1, (8, V)).astype(jnp.bfloat16)
    keys, seen = jax.random.split(jax.random.key(0), 8), np.zeros((8, V), bool)
    how = Sampling(temperature=0.9, top_p=0.95)
    draw = jax.jit(next_tokens, static_argnums=3)
    together = draw(logits, seen, keys, how)
    rows = np.array([7, 2])
    np.testing.assert_array_equal(
        draw(logits[rows].astype(np.float32), seen[:2], keys[rows], how), together[rows]
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("temperature", float("nan")),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name_and_value(field, value):
    with pytest.raises(InputError, match=re.escape(f"{field}={value}")):
        Sampling(**{field: value})
