"""What goes wrong between families and their data, not in one of the two."""

import jax
import pytest

import bigmodel
from bigmodel import config
from bigmodel import recipe as recipes
from bigmodel.evaluate import make_eval_step
from bigmodel.train import state
from tests import runs


def load(name, **fields):
    return config.load(f"{runs.ROOT}/configs/{name}", fields)


def test_a_mixture_of_masked_text_is_evaluated_without_bits_per_byte():
    loaded = load("bert.py:tiny", **{"data.mixture": {"python_stdlib": 1.0}, "data.pairs": False})
    recipe = recipes.make(loaded, devices=jax.devices()[:1])
    assert recipes.evaluation(recipe, "validation", {"split": "validation"}).bytes_per_target == 0


def test_more_negatives_than_an_evaluation_has_are_drawn_for_its_loss():
    fields = {"objective.loss": "sampled", "objective.negatives": 120, "batch": 4}
    recipe = recipes.make(load("sasrec.py:tiny", **fields), devices=jax.devices()[:1])
    batch = recipes.evaluation(recipe, "validation", {"split": "validation"}).batches.host(0)
    assert batch["negatives"].shape[-1] < 120
    params = state.create(recipe).params
    first, again = (make_eval_step(recipe)(params, batch) for _ in range(2))
    assert first["loss"] == again["loss"] > 0


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("ctc.py:tiny", {"data.frames": 178}, "data.frames = 178: the model takes sounds of"),
        ("whisper.py:tiny", {"data.mels": 32}, "data.mels = 32: the model takes sounds of"),
        ("whisper.py:tiny", {"model.frames": 177, "data.frames": 177}, "model.frames = 177: two"),
        ("whisper.py:tiny", {"data.length": 9}, "data.length = 9 is longer than model.length = 8"),
        ("whisper.py:tiny", {"model.mels": 0, "data.mels": 0}, "model.mels = 0: must be at least"),
        ("ctc.py:tiny", {"data.end": True}, "data.end = True: labels of the objective 'ctc' end"),
        ("ctc.py:tiny", {"model.vocab": 257}, "and one for the blank; allowed are 258 and more"),
    ],
)
def test_sounds_and_texts_that_a_model_of_speech_cannot_have_are_refused(name, changes, named):
    with pytest.raises(config.InputError) as refused:
        recipes.train_batches(recipes.make(load(name, **changes), devices=jax.devices()[:1]))
    assert named in str(refused.value)


def test_a_run_that_writes_no_text_says_so(tmp_path):
    bigmodel.train(load("bert.py:tiny", steps=1, batch=4), tmp_path)
    with pytest.raises(config.InputError, match="writes no text"):
        bigmodel.generate(tmp_path, ["x"], max_new_tokens=2)
