"""Laws of the losses of the next item, and of what is told of its rank."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import config
from bigmodel.objectives import items, negatives
from tests.test_objectives import largest_float32

B, T, D, N = 3, 5, 4, 11  # items 1 to N; 0 is padding, and two ids after them are none
V = N + 3


def unembed(params, hidden):
    return jnp.einsum("...D,VD->...V", hidden, params["head"])


def score(params, hidden, tokens):
    return jnp.einsum("BTD,BTND->BTN", hidden, jnp.asarray(params["head"])[tokens])


def apply(params, batch, rngs=None):
    return {"hidden": params["hidden"][batch["rows"]]}


MODEL = types.SimpleNamespace(
    apply=apply, unembed=unembed, score=score, head=lambda params: {"head": params["head"]}
)


def example():
    draw = np.random.default_rng(0)
    params = {"hidden": draw.normal(size=(B, T, D)), "head": draw.normal(size=(V, D))}
    batch = {
        "rows": np.arange(B),
        "targets": draw.integers(1, N + 1, (B, T)),
        "weights": draw.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32),
    }
    return jax.tree.map(np.float32, params), batch


def found(batch, key=None, **options):
    """Loss, sums and gradients; of evaluation without a key."""
    objective = items.next_item(MODEL, items=N, **options)
    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, sums), grads = run(example()[0], batch, key)
    return loss, sums, grads


def stated():
    """The softmax's loss in float64, and the logits of items alone."""
    params, batch = example()
    logits = np.float64(params["hidden"]) @ np.float64(params["head"]).T
    logits[..., [0, *range(N + 1, V)]] = -np.inf
    at_target = np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
    nll = np.log(np.exp(logits).sum(-1)) - at_target
    return (nll * batch["weights"]).sum(), logits, at_target


@pytest.mark.parametrize("chunk", [0, 1, 2, 5, 9])
def test_the_softmax_is_over_the_items_whatever_the_chunk(chunk):
    loss, sums, _ = found(example()[1], jax.random.key(0), chunk=chunk)
    np.testing.assert_allclose([loss, sums["nll"]], stated()[0], rtol=1e-5)


@pytest.mark.parametrize("chunk", [0, 1, 5])
def test_with_all_items_as_negatives_sampled_is_full_in_value_and_gradient(chunk):
    batch = example()[1]
    everyone = np.broadcast_to(np.arange(1, N + 1), (B, T, N))
    options = dict(loss="sampled", negatives=N, chunk=chunk)
    loss, _, grads = found(batch | {"negatives": everyone}, jax.random.key(0), **options)
    wanted, _, exact = found(batch, jax.random.key(0))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, exact)


@pytest.mark.parametrize("draw", negatives.DRAWS)
def test_draws_have_the_probabilities_that_are_said_of_them(draw):
    make, log_q = negatives.DRAWS[draw]
    drawn = np.asarray(make(jax.random.key(0), 200_000, N))
    assert (drawn.min(), drawn.max()) == (1, N)
    q = np.exp(log_q(jnp.arange(1, N + 1), N))
    assert q.sum() == pytest.approx(1, rel=1e-5)
    shares = np.bincount(drawn, minlength=N + 1)[1:] / len(drawn)
    assert (np.abs(shares - q) < 5 * np.sqrt(q / len(drawn))).all()


@pytest.mark.parametrize("draw", negatives.DRAWS)
def test_what_stands_for_the_softmaxs_sum_is_right_in_the_mean(draw):
    """exp(loss + s_target) of one position, over many draws, is the sum over all items."""
    params, _ = example()
    many, target, count = 20_000, 3, 4
    hidden = np.broadcast_to(params["hidden"][:1, 0], (many, 1, D))
    how = items.sampled_softmax(MODEL, negatives.DRAWS[draw][1], N)
    places = dict(rows=jnp.arange(many), indices=jnp.zeros((many, 1), jnp.int32))
    drawn = negatives.drawn(jax.random.key(0), draw, number=count, items=N, **places)
    ids = np.concatenate([np.full((many, 1, 1), target), drawn], -1)

    def one(hidden, ids):
        return how(params, hidden[None], ids[None], jnp.ones((1, 1)))[0]

    losses = np.float64(jax.jit(jax.vmap(one))(hidden, ids))
    _, logits, _ = stated()
    sums = np.exp(losses + logits[0, 0, target])
    error = sums.std() / math.sqrt(many)
    wanted = np.exp(logits[0, 0]).sum()
    assert abs(sums.mean() - wanted) < 4 * error < 0.05 * wanted


def test_binary_is_two_questions_of_which_a_draw_of_the_target_is_none():
    _, batch = example()
    others = np.random.default_rng(1).integers(1, N + 1, (B, T, 2))
    others[0, 0] = batch["targets"][0, 0]
    loss, _, _ = found(batch | {"negatives": others}, jax.random.key(0), loss="binary", negatives=2)
    _, logits, at_target = stated()
    against = np.log1p(np.exp(np.take_along_axis(logits, others, -1)))
    against[others == batch["targets"][..., None]] = 0
    wanted = np.log1p(np.exp(-at_target)) + against.sum(-1)
    np.testing.assert_allclose(loss, (wanted * batch["weights"]).sum(), rtol=1e-5)


@pytest.mark.parametrize("loss", items.LOSSES)
def test_rows_without_weight_count_nothing(loss):
    _, batch = example()
    batch["weights"][2] = 0
    other = batch | {"targets": batch["targets"].copy()}
    other["targets"][2] = 0  # as rows that fill up a last batch have it
    for key in (None, jax.random.key(0)):
        one, another = (found(b, key, loss=loss) for b in (batch, other))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, another)
        assert np.isfinite(another[2]["head"]).all()


def test_draws_belong_to_rows_and_places_and_change_with_the_step():
    draw = functools.partial(negatives.drawn, how="uniform", number=2, items=1000)
    rows, places = jnp.arange(4), jnp.broadcast_to(jnp.arange(6), (4, 6))
    whole = draw(jax.random.key(0), rows=rows, indices=places)
    turned = draw(jax.random.key(0), rows=rows[::-1], indices=places[:, ::-1])
    np.testing.assert_array_equal(whole, turned[::-1, ::-1])
    other = draw(jax.random.key(1), rows=rows, indices=places)
    assert (np.asarray(whole) != np.asarray(other)).mean() > 0.9
    assert len(np.unique(whole)) > 40  # of 48


def test_ranks_are_those_of_a_sort_and_ties_count_against():
    params, batch = example()
    _, logits, at_target = stated()
    rank = (logits > at_target[..., None]).sum(-1)
    sums = found(batch)[1]
    hits = ((rank < 10) * batch["weights"]).sum()
    np.testing.assert_allclose(sums["hit_rate_10"], hits, rtol=1e-5)
    gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0)
    np.testing.assert_allclose(sums["ndcg_10"], (gain * batch["weights"]).sum(), rtol=1e-5)
    assert 0 < sums["hit_rate_10"] < batch["weights"].sum()

    objective = items.next_item(MODEL, items=N)
    for value in (0.0, np.nan):  # knows nothing
        nothing = jax.tree.map(lambda x, v=value: np.full_like(x, v), params)
        assert jax.jit(objective)(nothing, batch, None)[1]["hit_rate_10"] == 0


def test_sampled_ranks_are_among_the_negatives_of_the_batch():
    _, batch = example()
    others = np.random.default_rng(1).integers(1, N + 1, (B, T, 30))
    others = np.where(others == batch["targets"][..., None], others % N + 1, others)
    _, logits, at_target = stated()
    rank = (np.take_along_axis(logits, others, -1) > at_target[..., None]).sum(-1)
    sums = found(batch | {"negatives": others})[1]
    hits = ((rank < 10) * batch["weights"]).sum()
    np.testing.assert_allclose(sums["sampled_hit_rate_10"], hits, rtol=1e-5)
    gain = np.where(rank < 10, 1 / np.log2(rank + 2), 0)
    np.testing.assert_allclose(sums["sampled_ndcg_10"], (gain * batch["weights"]).sum(), rtol=1e-5)
    assert "hit_rate_10" not in found(batch, jax.random.key(0))[1]


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(loss="sample"), "objective.loss = 'sample': allowed are softmax, sampled, binary"),
        (dict(draw="log"), "objective.draw = 'log': allowed are uniform, log_uniform"),
        (dict(negatives=0), "objective.negatives = 0: must be at least 1"),
    ],
)
def test_what_is_no_loss_is_refused(options, words):
    with pytest.raises(config.InputError, match=words):
        items.next_item(MODEL, **options)


def test_more_items_than_rows_and_fewer_negatives_than_asked_are_refused():
    params, batch = example()
    with pytest.raises(config.InputError, match="objective.items = 14: .* model.vocab = 14"):
        items.next_item(MODEL, items=V)(params, batch, None)
    given = batch | {"negatives": np.ones((B, T, 2), np.int32)}
    with pytest.raises(config.InputError, match="objective.negatives = 3: the data gives 2"):
        items.next_item(MODEL, loss="binary", negatives=3)(params, given, jax.random.key(0))


@pytest.mark.parametrize("loss", ["sampled", "binary"])
def test_no_array_of_all_logits_is_made_in_training(loss):
    b, t, v = 8, 16, 4096
    params = {"hidden": jnp.zeros((b, t, D)), "head": jnp.zeros((v, D))}
    batch = {"rows": jnp.arange(b), "targets": jnp.ones((b, t), jnp.int32)}
    objective = items.next_item(MODEL, loss=loss, negatives=2)
    run = jax.jit(jax.grad(objective, has_aux=True))
    text = run.lower(params, batch, jax.random.key(0)).as_text()
    assert largest_float32(text) < b * t * v / 8
