"""Laws of two towers alone: what each reads, what is held, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import config, objectives, recipe
from bigmodel.layers import feedforward
from bigmodel.models import two_towers
from tests import runs
from tests.models.families import captioned, make, params


def test_a_text_is_read_at_its_end_and_a_tail_of_padding_is_not_felt():
    x = jnp.arange(24.0).reshape(3, 4, 2)
    segments = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = two_towers.last(x, segments)[:, 0]
    np.testing.assert_array_equal(found, [x[0, 1], x[1, 3], [0, 0]])
    np.testing.assert_array_equal(two_towers.last(x, None)[:, 0], x[:, 3])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_embeddings_are_of_length_one_and_either_side_comes_alone(name):
    batch, apply = captioned(3, 0), jax.jit(make(name).apply)
    both = apply(params(name), batch)["embeddings"]
    for side, own in (("image", ("images",)), ("text", ("tokens", "segments"))):
        np.testing.assert_allclose(np.linalg.norm(both[side], axis=1), 1, rtol=1e-5)
        alone = apply(params(name), {key: batch[key] for key in own})["embeddings"]
        assert list(alone) == [side]
        np.testing.assert_allclose(alone[side], both[side], atol=1e-5)


def test_rows_of_zeros_have_gradients_that_are_numbers():
    batch = {key: np.zeros_like(array) for key, array in captioned(2, 0).items()}

    def total(params):
        found = make("clip").apply(params, batch)["embeddings"]
        return found["image"].sum() + found["text"].sum()

    grads = jax.jit(jax.grad(total))(params("clip"))
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


@pytest.mark.parametrize("sign, moves", [(1.0, True), (-1.0, False)])
def test_at_its_bound_the_scale_may_come_down_but_not_go_up(sign, moves):
    value, grad = jax.value_and_grad(lambda x: sign * two_towers.bounded(2.0, x))(3.0)
    assert (abs(float(value)), float(grad)) == (2.0, sign * moves)
    inside = jax.grad(lambda x: sign * two_towers.bounded(2.0, x))(1.0)
    assert float(inside) == sign


def test_quick_gelu_is_x_times_a_sigmoid():
    found = feedforward.ACTIVATIONS["quick_gelu"](jnp.float32(2.0))
    assert float(found) == pytest.approx(2 / (1 + np.exp(-3.404)), rel=1e-6)


REFUSED = [
    ({"mesh.stage": 2}, "model 'two_towers' has no stack that a pipeline could run"),
    ({"accumulate": 2}, "all rows of a batch together"),
    ({"data.text_length": 33}, "longer than model.text_length = 32"),
    ({"data.size": 16}, "the two must be equal"),
    ({"model.text_pooling": "first"}, "allowed are end, last"),
    ({"model.projections": "none"}, "allowed are both, text"),
    ({"model.projections": "text"}, "allowed is model.width = 64"),
    ({"model.pooling": "max"}, "allowed are class, mean, attention"),
    ({"model.text_heads": 3}, "does not divide model.text_width = 64"),
    ({"model.logit_scale": 200.0}, "at most model.logit_scale_max = 100"),
    ({"model.joint": 0}, "model.joint = 0"),
]


@pytest.mark.parametrize("changes, words", REFUSED)
def test_what_two_towers_cannot_be_is_refused_before_anything_runs(changes, words):
    loaded = config.load(f"{runs.ROOT}/configs/clip.py:tiny", changes)
    with pytest.raises(config.InputError) as error:
        recipe.make(loaded, devices=jax.devices()[: changes.get("mesh.stage", 1)])
    assert words in str(error.value)


def test_a_model_without_two_towers_has_no_contrastive_loss():
    vit = make("vit_class")
    images = captioned(2, 0)["images"]
    with pytest.raises(config.InputError, match="wants a model of images and texts"):
        objectives.OBJECTIVES["contrastive"](vit)(params("vit_class"), {"images": images}, None)
