"""Images held against texts: classes without training for them, and retrieval over a split."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import bigmodel
from bigmodel import config, matching, run, scores
from bigmodel import recipe as recipes
from bigmodel.data import image_text
from bigmodel.scores import matches
from bigmodel.train import state
from tests import runs

TEXTS = ["zero", "one", "a picture of a two"]


def of_config(name, **fields):
    """A run of fresh parameters."""
    loaded = config.load(f"{runs.ROOT}/configs/{name}:tiny", {"batch": 8, **fields})
    recipe = recipes.make(loaded, devices=jax.devices()[: fields.get("mesh.fsdp", 1)])
    return run.Run("/runs/fresh", recipe, state.create(recipe).params, 0)


@pytest.fixture(scope="module", params=["clip.py", "siglip.py"])
def fresh(request):
    return of_config(request.param)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_probabilities_are_those_of_the_products(fresh):
    recipe, params = fresh.recipe, fresh.params
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    found = matching.classify(recipe, params, images, [[text] for text in TEXTS])
    tokens = image_text.text_arrays(TEXTS, recipe.tokenizer, recipe.config.data)
    shown, read = (fresh.apply(params, batch) for batch in ({"images": images}, tokens))
    products = shown["embeddings"]["image"] @ read["embeddings"]["text"].T
    logits = np.float64(products * shown["logit_scale"] + shown.get("logit_bias", 0.0))
    wanted = 1 / (1 + np.exp(-logits)) if "logit_bias" in shown else np.exp(logits)
    wanted = wanted if "logit_bias" in shown else wanted / wanted.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_several_texts_of_a_class_are_one_vector(fresh):
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    args = (fresh.recipe, fresh.params, images)
    twice = matching.classify(*args, [["zero", "zero"], ["one"]])
    np.testing.assert_allclose(twice, matching.classify(*args, [["zero"], ["one"]]), rtol=1e-4)


def test_texts_alone_are_those_of_rows(fresh):
    recipe = fresh.recipe
    rows = recipes.train_batches(recipe).rows
    batch = rows.take(np.arange(4))
    texts = [rows.tokenizer.decode(ids[real > 0]) for ids, real in zip(*both(batch), strict=True)]
    found = image_text.text_arrays(texts, rows.tokenizer, recipe.config.data)
    for name, array in found.items():
        np.testing.assert_array_equal(array, batch[name])


def both(batch):
    return batch["tokens"], batch["segments"]


@pytest.mark.families  # for its time
def test_retrieval_of_a_split_counts_each_pair_once_whatever_the_batch_and_mesh():
    found = []
    for fields in ({"batch": 8}, {"batch": 6}, {"batch": 8, "mesh.fsdp": 4}):
        loaded = of_config("clip.py", **fields)
        entry = recipes.evaluation(loaded.recipe, "validation", {"split": "validation"})
        found.append(matching.retrieval(loaded.recipe, loaded.params, entry))
    assert set(found[0]) == {f"{a}_recall_{n}" for a in SIDES for n in (1, 5, 10)}
    assert found[0] == pytest.approx(found[1], abs=0.02)
    assert found[0] == pytest.approx(found[2], abs=0.02)


SIDES = ("image_to_text", "text_to_image")


def test_recall_is_counted_in_parts_as_at_once(monkeypatch):
    draw = np.random.default_rng(0)
    queries, items = draw.normal(size=(2, 50, 4))
    whole = scores.recall(queries, items, np.arange(50), at=5)
    monkeypatch.setattr(matches, "QUERIES", 7)
    assert scores.recall(queries, items, np.arange(50), at=5) == whole
    assert 0 < whole < 1


def test_the_command_tells_the_likeliest_texts_of_each_image(fresh, pictures, monkeypatch):
    given = {"image": pictures}
    found = run.sample(fresh, TEXTS, inputs=given, num_return_sequences=2)
    assert [len(of_image) for of_image in found] == [2, 2, 2]
    images = matching.inputs.image(pictures, fresh.tokenizer, fresh.config.data)["images"]
    likely = matching.classify(fresh.recipe, fresh.params, images, [[text] for text in TEXTS])
    for of_image, row in zip(found, likely, strict=True):
        best = np.argsort(-row)[0]
        assert of_image[0] == f"{row[best]:.3f} {TEXTS[best]}"
    for wrong in (dict(inputs={}), dict(inputs={"sound": ["a"]})):
        with pytest.raises(config.InputError, match="wants --input image=FILE"):
            run.sample(fresh, TEXTS, **wrong)
    with pytest.raises(config.InputError, match="the texts by --prompts FILE"):
        run.sample(fresh, [], inputs=given)


@pytest.mark.families  # for its time
def test_a_trained_run_is_asked_from_the_command_line(tmp_path, pictures, capsys):
    from bigmodel import __main__ as door

    fields = {"steps": 2, "batch": 8, "log.tensorboard": False}
    bigmodel.train(config.load(f"{runs.ROOT}/configs/clip.py:tiny", fields), tmp_path / "run")
    (tmp_path / "classes.txt").write_text("\n".join(TEXTS))
    (tmp_path / "images.txt").write_text("\n".join(pictures))
    capsys.readouterr()
    call = ["generate", "--workdir", str(tmp_path / "run"), "--input"]
    call += [f"image={tmp_path}/images.txt", "--prompts", str(tmp_path / "classes.txt")]
    assert door.main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in told] == pictures
    assert all(row["samples"][0].split(" ", 1)[1] in TEXTS for row in told)
    assert door.main(call) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert "validation/image_to_text_recall_1" in bigmodel.evaluate(tmp_path / "run")
