"""Laws of an encoder's data in a config: the vocabulary holds the mask, the head every class."""

import pathlib

import jax
import pytest
from flax.core import meta

from bigmodel import config, recipe

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def made(name, *overrides):
    return recipe.make(config.load(f"{CONFIGS}/{name}", overrides))


@pytest.mark.parametrize("vocab", [257, 256])
def test_a_vocabulary_without_room_for_the_mask_is_refused(vocab):
    with pytest.raises(config.InputError, match="less than the 258 tokens .* what is masked"):
        recipe.train_batches(made("bert.py:tiny", f"model.vocab={vocab}"))


def test_a_vocabulary_with_room_for_the_mask_will_do():
    assert len(recipe.train_batches(made("bert.py:tiny", "model.vocab=258")).rows)


@pytest.mark.parametrize(
    "name, field, classes",
    [("bert_classify.py:tiny", "classes", 4), ("bert_label.py:tiny", "token_classes", 6)],
)
def test_a_head_with_too_few_classes_is_refused(name, field, classes):
    assert len(recipe.train_batches(made(name)).rows)
    with pytest.raises(config.InputError, match=f"less than the {classes} of the data"):
        recipe.train_batches(made(name, f"model.{field}={classes - 1}"))


@pytest.mark.parametrize("name", ["bert", "bert_classify", "bert_label"])
def test_shapes_of_a_batch_are_known_before_its_data(name):
    of = made(f"{name}.py:tiny")
    assert recipe.batch_spec(of) == recipe.train_batches(of).spec


@pytest.mark.parametrize(
    "name, override, words",
    [
        ("bert.py:tiny", "model.masked_head=False", "model.masked_head = False: nothing tells"),
        ("bert_label.py:tiny", "model.token_classes=0", "no logits of tokens' classes"),
    ],
)
def test_a_model_that_cannot_answer_its_objective_is_refused(name, override, words):
    of = made(name, override)
    params = meta.unbox(jax.eval_shape(of.model.init, jax.random.key(0), of.example))
    with pytest.raises(config.InputError, match=words):
        jax.eval_shape(of.objective, params, recipe.batch_spec(of), None)


def test_a_row_longer_than_the_positions_is_refused():
    with pytest.raises(config.InputError, match="data.length = 129 is longer than model.length"):
        made("bert.py:tiny", "data.length=129")
