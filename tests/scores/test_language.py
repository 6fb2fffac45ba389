"""Laws of the scores: probabilities sum to one, and counting by hand gives the same."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmodel import scores
from bigmodel.scores import language

V = 5
STREAMS = st.lists(st.integers(0, V - 1), min_size=1, max_size=40).map(np.array)
MODELS = {1: scores.unigram_nats, 2: scores.bigram_nats}


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    assert scores.perplexity(10 * math.log(257), 10) == pytest.approx(257)
    assert scores.perplexity(1e6, 1) == math.inf
    assert math.isnan(scores.perplexity(math.nan, 1))


def test_a_uniform_model_of_bytes_needs_eight_bits_a_byte():
    assert scores.bits_per_byte(10 * math.log(256), 10) == pytest.approx(8)


@given(train=STREAMS)
@settings(deadline=None)
def test_a_unigram_model_is_a_distribution(train):
    total = sum(np.exp(-scores.unigram_nats(train, np.array([b]), V)) for b in range(V))
    assert total == pytest.approx(1)


@given(train=STREAMS, before=st.integers(0, V - 1))
@settings(deadline=None)
def test_a_bigram_model_is_a_distribution_after_each_token(train, before):
    """A stream (b, before) asks for p(b | before) and p(before | b): the ring of two tokens."""

    def probability(a, b):
        ring = scores.bigram_nats(train, np.array([a, b]), V)
        return by_hand(train, a, b), by_hand(train, b, a), np.exp(-ring)

    rows = [probability(before, b) for b in range(V)]
    assert sum(row[0] for row in rows) == pytest.approx(1)
    for forth, back, ring in rows:
        assert ring == pytest.approx(forth * back)


def by_hand(train, a, b):
    """p(b | a) of interpolated Kneser-Ney, counted one by one."""
    pairs = Counter(zip([train[-1], *train[:-1]], train, strict=True))
    n = Counter(pairs.values())
    d = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.5
    q = (sum(second == b for _, second in pairs) + 1) / (len(pairs) + V)
    total = sum(count for (first, _), count in pairs.items() if first == a)
    if not total:
        return q
    followers = sum(first == a for first, _ in pairs)
    return (max(pairs[a, b] - d, 0) + d * followers * q) / total


@given(train=STREAMS, evaluation=STREAMS)
@settings(deadline=None)
def test_a_stream_costs_the_sum_of_its_tokens(train, evaluation):
    expected = -sum(
        math.log(by_hand(train, a, b))
        for a, b in zip([evaluation[-1], *evaluation[:-1]], evaluation, strict=True)
    )
    assert scores.bigram_nats(train, evaluation, V) == pytest.approx(expected)


@pytest.mark.parametrize("order", MODELS)
def test_counting_by_sorting_is_counting_by_table(order, monkeypatch):
    rng = np.random.default_rng(0)
    streams = rng.integers(0, 30, 2000), rng.integers(0, 30, 500)
    dense = MODELS[order](*streams, 30)
    monkeypatch.setattr(language, "DENSE_PAIRS", 0)
    assert MODELS[order](*streams, 30) == dense


def test_a_bigram_model_finds_the_entropy_of_a_markov_chain_and_a_unigram_model_does_not():
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.full(8, 0.3), size=8)
    cumulative, draws, stream = chain.cumsum(axis=1), rng.random(100_000), [0]
    for draw in draws:
        stream.append(min(int(np.searchsorted(cumulative[stream[-1]], draw)), 7))
    train, evaluation = np.array(stream[:50_000]), np.array(stream[50_000:])
    share = np.bincount(evaluation, minlength=8) / len(evaluation)
    entropy = -(share[:, None] * chain * np.log2(np.maximum(chain, 1e-300))).sum()
    bits = {
        order: scores.ngram_bits_per_byte(
            train, evaluation, order=order, vocab=8, bytes=len(evaluation)
        )
        for order in MODELS
    }
    assert bits[2] == pytest.approx(entropy, rel=0.01)
    assert bits[1] > 1.1 * bits[2]


def test_documents_start_from_the_end_token():
    """Every document starts with 1, which else stands nowhere; 0 ends them."""
    train = np.array([1, 2, 3, 0] * 50)
    assert scores.bigram_nats(train, np.array([1, 2, 3, 0]), 4) == pytest.approx(0, abs=0.1)
    assert scores.bigram_nats(train, np.array([2, 3, 1, 0]), 4) > 5


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="order=3"):
        scores.ngram_bits_per_byte(np.zeros(1), np.zeros(1), order=3, vocab=1, bytes=1)
