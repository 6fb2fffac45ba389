"""T5's buckets and layers against a plain statement of them in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers import relative
from tests.models.families import make, pairs, params

HEADS, C = 4, 6


def bucket(apart, buckets, distance, causal):
    """Raffel et al. 2020, section 2.1, in the form of its authors' code, for a single number."""
    before = -apart
    first = 0
    if causal:
        before = max(before, 0)
    else:
        buckets //= 2
        first = buckets if before < 0 else 0
        before = abs(before)
    exact = buckets // 2
    if before < exact:
        return first + before
    scaled = math.log(before / exact) / math.log(distance / exact) * (buckets - exact)
    return first + min(exact + int(scaled + 1e-9), buckets - 1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 6), (64, 256), (4, 3)])
def test_buckets_are_those_of_the_formula(buckets, distance, causal):
    apart = np.arange(-300, 300)
    found = relative.bucket(jnp.asarray(apart), buckets, distance, causal=causal)
    assert found.tolist() == [bucket(int(a), buckets, distance, causal) for a in apart]


@pytest.mark.parametrize("causal", [True, False])
def test_a_bias_is_the_table_at_the_bucket_and_starts_where_the_queries_do(causal):
    layer = relative.RelativeBias(8, 6, HEADS, causal, jax.nn.initializers.normal(1.0))
    made = layer.init(jax.random.key(0), 1, 1)
    table = np.asarray(made["params"]["table"].value)
    for T, S, offset in ((5, 5, 0), (3, 9, 4), (1, 7, 6)):
        found = layer.apply(made, T, S, jnp.int32(offset))
        places = [[bucket(j - i - offset, 8, 6, causal) for j in range(S)] for i in range(T)]
        np.testing.assert_allclose(found[0], table[places].transpose(2, 0, 1), rtol=1e-6)


def rms(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def attend(of, x, memory, seen, bias):
    q, k, v = (
        np.einsum("TD,DHC->HTC", y, of[name]["kernel"])
        for name, y in (("query", x), ("key", memory), ("value", memory))
    )
    scores = np.where(seen, np.einsum("HTC,HSC->HTS", q, k) + bias, -np.inf)  # unscaled
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("HTS,HSC,HCD->TD", weights, v, of["out"]["kernel"])


def gated(of, x):
    up, gate = x @ of["up"]["kernel"], x @ of["gate"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return (gelu * up) @ of["down"]["kernel"]


def bias_of(table, T, causal):
    places = [[bucket(j - i, 8, 6, causal) for j in range(T)] for i in range(T)]
    return table[places].transpose(2, 0, 1)


def t5(of, source, tokens):
    """Hidden vectors of one row; every layer as in figure 1 of Vaswani et al. with T5's changes."""
    S, T = len(source), len(tokens)
    x = of["embed"]["table"][source]
    bias = bias_of(of["encoder_relative"]["table"], S, causal=False)
    for n in range(2):
        layer = jax.tree.map(lambda p, n=n: p[n], of["encoder_layers"])
        y = rms(x, layer["attention_norm"]["scale"])
        x = x + attend(layer["attention"], y, y, True, bias)
        x = x + gated(layer["feedforward"], rms(x, layer["feedforward_norm"]["scale"]))
    memory = rms(x, of["encoder_norm"]["scale"])

    x = of["embed"]["table"][tokens]
    bias, earlier = bias_of(of["relative"]["table"], T, causal=True), np.tri(T, dtype=bool)
    for n in range(2):
        layer = jax.tree.map(lambda p, n=n: p[n], of["layers"])
        y = rms(x, layer["attention_norm"]["scale"])
        x = x + attend(layer["attention"], y, y, earlier, bias)
        x = x + attend(layer["cross"], rms(x, layer["cross_norm"]["scale"]), memory, True, 0.0)
        x = x + gated(layer["feedforward"], rms(x, layer["feedforward_norm"]["scale"]))
    return rms(x, of["final_norm"]["scale"])


def test_the_model_is_the_plain_statement():
    batch = pairs(2, 5)
    found = jax.jit(make("t5", norm_epsilon=1e-5).apply)(params("t5"), batch)
    of = jax.tree.map(lambda p: np.asarray(p, np.float64), params("t5"))
    for row in range(2):
        source = batch["source"][row, batch["source_segments"][row] > 0]
        hidden = t5(of, source, batch["tokens"][row])
        np.testing.assert_allclose(found["hidden"][row], hidden, rtol=2e-4, atol=2e-5)
        logits = hidden @ of["embed"]["table"].T / math.sqrt(16)
        np.testing.assert_allclose(found["logits"][row], logits, rtol=2e-4, atol=2e-5)
