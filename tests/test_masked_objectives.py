"""Laws of the losses of masked tokens, next sentences and labelled tokens."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.objectives import tokens as objectives

B, T, D, V, N = 4, 9, 8, 23, 5


def model():
    """All head: hidden vectors, and logits of rows and tokens, are parameters."""

    def unembed(params, hidden):
        return jnp.einsum("...D,VD->...V", hidden, params["head"])

    def apply(params, batch, rngs=None):
        rows = batch["rows"]
        return {
            "hidden": params["hidden"][rows],
            "sentence_logits": params["sentences"][rows],
            "token_logits": params["tokens"][rows],
        }

    head = lambda params: {"head": params["head"]}  # noqa: E731
    return types.SimpleNamespace(apply=apply, unembed=unembed, head=head)


def example():
    draw = np.random.default_rng(0)
    shapes = dict(hidden=(B, T, D), head=(V, D), sentences=(B, 2), tokens=(B, T, N))
    params = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    batch = {
        "rows": np.arange(B),
        "targets": draw.integers(0, N, (B, T)),
        "weights": draw.choice([0.0, 1.0], (B, T), p=[0.6, 0.4]).astype(np.float32),
        "labels": draw.integers(0, 2, B),
    }
    return params, batch


def nll(logits, targets):
    logits = logits.astype(np.float64)
    at_target = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - at_target


@functools.cache
def gradient(name, **options):
    objective = getattr(objectives, name)(model(), **options)
    return jax.jit(jax.value_and_grad(lambda p, b: objective(p, b, None), has_aux=True))


def found(params, batch, name="masked_token", **options):
    return gradient(name, **options)(params, batch)


@pytest.mark.parametrize("sentence_loss", [1.0, 0.3])
def test_the_loss_is_that_of_masked_tokens_and_of_each_rows_sentence_by_its_masked_tokens(
    sentence_loss,
):
    params, batch = example()
    (loss, sums), _ = found(params, batch, sentence_loss=sentence_loss)
    of_tokens = nll(params["hidden"] @ params["head"].T, batch["targets"]) * batch["weights"]
    of_rows = nll(params["sentences"], batch["labels"]) * batch["weights"].sum(-1)
    np.testing.assert_allclose(loss, of_tokens.sum() + sentence_loss * of_rows.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["nll"], of_tokens.sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["sentence_nll"], of_rows.sum(), rtol=1e-5)
    assert sums["weight"] == batch["weights"].sum()
    right = (params["sentences"].argmax(-1) == batch["labels"]) * batch["weights"].sum(-1)
    assert sums["sentence_correct"] == right.sum()


def test_with_as_many_masked_tokens_in_all_rows_it_is_the_sum_of_two_means():
    params, batch = example()
    batch["weights"] = np.tile(np.arange(T) < 3, (B, 1)).astype(np.float32)
    (loss, sums), _ = found(params, batch)
    of_tokens = nll(params["hidden"] @ params["head"].T, batch["targets"])[:, :3]
    of_rows = nll(params["sentences"], batch["labels"])
    np.testing.assert_allclose(loss / sums["weight"], of_tokens.mean() + of_rows.mean(), rtol=1e-5)


def test_without_labels_there_is_no_loss_of_sentences():
    params, batch = example()
    of_tokens = nll(params["hidden"] @ params["head"].T, batch["targets"]) * batch["weights"]
    del batch["labels"]
    (loss, sums), _ = found(params, batch)
    np.testing.assert_allclose(loss, of_tokens.sum(), rtol=1e-5)
    assert set(sums) == {"nll", "correct", "weight"}


@pytest.mark.parametrize("name", ["masked_token", "label_tokens"])
def test_sums_add_up_over_parts_of_the_batch(name):
    params, batch = example()
    whole = found(params, batch, name)
    halves = [
        found(params, jax.tree.map(lambda x, rows=rows: x[rows], batch), name)
        for rows in (np.s_[:1], np.s_[1:])
    ]
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-4, atol=1e-5), whole, *halves
    )


@pytest.mark.parametrize("name", ["masked_token", "label_tokens"])
def test_rows_of_zeros_count_nothing(name):
    params, batch = example()
    batch["weights"][2:] = 0
    (loss, sums), grads = found(params, batch, name)
    zeroed = {key: array * (np.arange(B) < 2).reshape(-1, *[1] * (array.ndim - 1))
              for key, array in batch.items() if key != "rows"}  # fmt: skip
    (again, again_sums), again_grads = found(params, zeroed | {"rows": batch["rows"]}, name)
    np.testing.assert_allclose([loss, *sums.values()], [again, *again_sums.values()], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, grads, again_grads)
    for of in ("hidden", "sentences", "tokens"):
        assert (np.asarray(grads[of])[2:] == 0).all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_of_labelled_tokens_is_its_formula(label_smoothing):
    params, batch = example()
    (loss, sums), grads = found(params, batch, "label_tokens", label_smoothing=label_smoothing)
    logits = params["tokens"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = nll(logits, batch["targets"])
    terms = (1 - label_smoothing) * own - label_smoothing * log_p.mean(-1)
    np.testing.assert_allclose(loss, (terms * batch["weights"]).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["nll"], (own * batch["weights"]).sum(), rtol=1e-5)
    wanted = (1 - label_smoothing) * np.eye(N)[batch["targets"]] + label_smoothing / N
    by_hand = (np.exp(log_p) - wanted) * batch["weights"][..., None]
    np.testing.assert_allclose(grads["tokens"], by_hand, rtol=1e-4, atol=1e-6)
