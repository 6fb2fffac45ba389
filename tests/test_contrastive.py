"""Both contrastive losses are their papers' pseudocode, and padding takes part in nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import objectives
from bigmodel.models.handle import Model

SCALE, BIAS = 7.0, -2.5
LOSSES = ("contrastive", "sigmoid_contrastive")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clip_loss(image, text):
    """Radford et al. 2021, figure 3: for a pair, the mean of both directions' cross entropies."""
    logits = image @ text.T * SCALE
    n = len(logits)

    def cross_entropy(logits):
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -log_p[np.arange(n), np.arange(n)].mean()

    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def siglip_loss(image, text):
    """Zhai et al. 2023, algorithm 1."""
    logits = image @ text.T * SCALE + BIAS
    labels = 2 * np.eye(len(logits)) - 1
    return -np.log(1 / (1 + np.exp(-labels * logits))).sum() / len(logits)


PAPERS = {"contrastive": clip_loss, "sigmoid_contrastive": siglip_loss}


def pairs(rows, seed=0):
    """Embeddings of which some texts are near their images."""
    draw = np.random.default_rng(seed)
    image = draw.normal(size=(rows, 5))
    return unit(image), unit(image + draw.normal(size=(rows, 5)))


def objective(name):
    def apply(params, batch, rngs=None, cache=None):
        found = {"embeddings": params, "logit_scale": jnp.float32(SCALE)}
        return found | ({"logit_bias": jnp.float32(BIAS)} if name != "contrastive" else {})

    return objectives.OBJECTIVES[name](Model(init=lambda *_: None, apply=apply))


def embedded(image, text):
    return {"image": jnp.asarray(image, jnp.float32), "text": jnp.asarray(text, jnp.float32)}


def padded(image, text, where, rows=9):
    """The pairs at some places of a batch, and what must not count at the others."""
    noise = pairs(rows, seed=5)
    for whole, own in zip(noise, (image, text), strict=True):
        whole[where] = own
    weights = np.zeros(rows, np.float32)
    weights[where] = 1
    return embedded(*noise), {"weights": jnp.asarray(weights)}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_that_of_its_paper(name):
    image, text = pairs(6)
    loss, sums = objective(name)(embedded(image, text), {}, None)
    assert sums["weight"] == 6
    assert loss / sums["weight"] == pytest.approx(PAPERS[name](image, text), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_no_weight_are_neither_rows_nor_negatives(name):
    image, text = pairs(6)
    where = np.array([0, 2, 3, 5, 7, 8])
    params, batch = padded(image, text, where)
    run = jax.value_and_grad(objective(name), has_aux=True)
    (loss, sums), grads = run(params, batch, None)
    (wanted, wanted_sums), wanted_grads = run(embedded(image, text), {}, None)
    assert loss / sums["weight"] == pytest.approx(PAPERS[name](image, text), rel=1e-5)
    assert {k: float(v) for k, v in sums.items()} == {k: float(v) for k, v in wanted_sums.items()}
    for side in ("image", "text"):
        grad = np.asarray(grads[side])
        np.testing.assert_allclose(grad[where], wanted_grads[side], rtol=1e-4, atol=1e-5)
        assert not grad[[1, 4, 6]].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_padding_alone_is_nothing(name):
    params, batch = padded(*pairs(0), np.array([], int))
    (loss, sums), grads = jax.value_and_grad(objective(name), has_aux=True)(params, batch, None)
    assert loss == 0
    assert not any(map(float, sums.values()))
    assert not any(np.asarray(grad).any() for grad in grads.values())


def test_retrieval_both_ways_counts_what_is_nearest():
    """Both images are nearest to text 0; text 0 to image 0, and text 1 to image 1."""
    image = np.array([[1.0, 0.0], [0.8, 0.6]])
    text = np.array([[1.0, 0.0], [0.0, 1.0]])
    for name in LOSSES:
        sums = objective(name)(embedded(image, text), {}, None)[1]
        assert (float(sums["correct"]), float(sums["image_recall"])) == (1.0, 2.0)


def test_of_equal_texts_each_is_right():
    image = np.array([[1.0, 0.0], [0.8, 0.6]])
    text = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert objective("contrastive")(embedded(image, text), {}, None)[1]["correct"] == 2


def test_the_bias_is_felt():
    """-log sigmoid(s x y + b) of one pair, by hand."""
    one = np.array([[1.0, 0.0]])
    loss, _ = objective("sigmoid_contrastive")(embedded(one, one), {}, None)
    assert loss == pytest.approx(np.log1p(np.exp(-(SCALE + BIAS))), rel=1e-5)
