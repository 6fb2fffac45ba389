"""Laws of the recommenders: whom an item sees, what a layer computes, how many parameters."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

import bigmodel
from bigmodel import config, recipe, trees
from tests.models.families import FAMILIES, make, params

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def given(name, rows=2):
    return FAMILIES[name].batch(rows, 0)


def reached(name):
    """[T, T] bool: whether a row's output at the first place moves with its input at the second.

    By gradients, of what goes into the layers: items themselves have none.
    """
    model, batch = make(name), given(name, 1)
    batch["segments"][:] = 1
    batch["tokens"] = np.arange(1, 8, dtype=np.int32)[None]  # each place an item of its own

    def hidden(table):
        moved = params(name) | {"embed": {"table": table}}
        return model.apply(moved, batch)["hidden"][0]

    jacobian = jax.jit(jax.jacrev(hidden))(params(name)["embed"]["table"])  # [T, D, V, D]
    return np.abs(jacobian).max((1, 3))[:, 1:8] > 1e-9


def test_an_item_of_sasrec_sees_itself_and_those_before_it():
    np.testing.assert_array_equal(reached("sasrec"), np.tri(7, dtype=bool))


def test_an_item_of_bert4rec_sees_both_sides():
    assert reached("bert4rec").all()


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-8) * p["scale"] + p["bias"]


def stated(p, tokens, real):
    """Kang and McAuley 2018, section 3, in float64; of a row alone, [T] -> [T, D]."""
    T, D = len(tokens), p["embed"]["table"].shape[1]
    x = p["embed"]["table"][tokens] * np.sqrt(D) + p["positions"]["table"][:T]
    for layer in range(2):
        of = jax.tree.map(lambda leaf, i=layer: leaf[i], p["layers"])
        mixed, a = norm(x, of["attention_norm"]), of["attention"]
        heads = []
        for h in range(4):
            q, k, v = (mixed @ a[name]["kernel"][:, h] for name in ("query", "key", "value"))
            scores = q @ k.T / np.sqrt(q.shape[1])  # eq. 2
            seen = np.tri(T, dtype=bool) & real
            weights = np.exp(np.where(seen, scores, -np.inf))
            total = weights.sum(-1, keepdims=True)
            heads.append(np.divide(weights, total, where=total > 0, out=0 * weights) @ v)
        out = np.stack(heads, 1)
        x = x + np.einsum("THC,HCD->TD", out, a["out"]["kernel"]) + a["out"]["bias"]
        mixed, f = norm(x, of["feedforward_norm"]), of["feedforward"]
        inner = np.maximum(mixed @ f["up"]["kernel"] + f["up"]["bias"], 0)  # eq. 5
        x = x + inner @ f["down"]["kernel"] + f["down"]["bias"]
    return norm(x, p["final_norm"])


def test_sasrec_is_what_its_paper_states():
    batch = given("sasrec", 3)
    outputs = jax.jit(make("sasrec").apply)(params("sasrec"), batch)
    exact = jax.tree.map(np.float64, params("sasrec"))
    for row, (tokens, real) in enumerate(zip(batch["tokens"], batch["segments"] > 0, strict=True)):
        wanted = stated(exact, tokens, real)[real]
        np.testing.assert_allclose(outputs["hidden"][row][real], wanted, rtol=1e-4, atol=1e-5)
        logits = wanted @ exact["embed"]["table"].T
        np.testing.assert_allclose(outputs["logits"][row][real], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_scores_of_some_items_are_their_logits(name):
    model, batch = make(name), given(name)
    items = np.random.default_rng(0).integers(0, 24, (2, 7, 5)).astype(np.int32)

    def both(p):
        outputs = model.apply(p, batch)
        scores = model.score(model.head(p), outputs["hidden"], items)
        return scores, jnp.take_along_axis(outputs["logits"], items, -1)

    scores, logits = jax.jit(both)(params(name))
    np.testing.assert_allclose(scores, logits, rtol=1e-5, atol=1e-5)
    mask = np.random.default_rng(1).normal(size=scores.shape)
    of = [jax.jit(jax.grad(lambda p, i=i: (both(p)[i] * mask).sum()))(params(name)) for i in (0, 1)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *of)


def test_padding_in_front_is_what_segments_say_it_is():
    batch = given("sasrec")
    run = jax.jit(make("sasrec").apply)
    whole = run(params("sasrec"), batch)["hidden"]
    del batch["segments"]
    np.testing.assert_array_equal(
        jax.jit(make("sasrec").apply)(params("sasrec"), batch)["hidden"], whole
    )


# Kang and McAuley's code: items, positions; a layer's 3 products (with biases, which the paper and
# we have none of), 2 norms, 2 products; the last norm. Here a layer has a product out besides.
D, T = 50, 50
SASREC = 23_716 * D + T * D + 2 * (3 * D * D + 2 * 2 * D + 2 * (D * D + D)) + 2 * D
# Sun et al.'s code, bert_config_ml-1m_64: less its two token types, and 2 of the 4 rows that its
# vocabulary of 3,420 has besides the 3,416 items; each row is an embedding and a bias.
W, F = 64, 256
LAYER = 4 * (W * W + W) + 2 * 2 * W + (W * F + F) + (F * W + W)
BERT4REC = (3_420 - 2) * (W + 1) + 200 * W + 2 * W + 2 * LAYER + (W * W + W) + 2 * W


@pytest.mark.parametrize(
    "name, wanted",
    [("sasrec.py:games", SASREC + 2 * (D * D + D)), ("bert4rec.py:ml-1m", BERT4REC)],
)
def test_a_size_has_the_parameters_of_the_authors_code(name, wanted):
    values = recipe.resolve(config.load(f"{CONFIGS}/{name}")).config
    schema, builder = bigmodel.models.FAMILIES["recommender"]
    model = builder(**config.resolve(values.model, schema, "model"))
    made = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
    assert trees.count(made) == wanted
