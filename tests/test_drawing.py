"""Laws of images that a run draws: what they depend on, and the files that hold them."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import bigmodel
from bigmodel import __main__, config, drawing, recipe, run
from bigmodel.train import state
from tests import runs

CONFIG = """
import bigmodel


def get_config():
    config = bigmodel.default_config("dit", objective="flow_matching", data="images")
    config.steps, config.batch, config.log.tensorboard = 2, 8, False
    config.model.update(
        image=8, channels=1, patch=4, classes=10, width=16, layers=2, heads=2, dtype="float32"
    )
    config.data.update(source="digits", size=8, channels=1)
    config.mesh.update(MESH)
    return config
"""


def made(mesh=""):
    """A run as it is made, but with a velocity."""
    text = CONFIG.replace("MESH", mesh)
    built = recipe.make(config.load_text(text))
    params = state.create(built).params

    def moved(path, leaf):
        draw = np.random.default_rng(sum(map(ord, path)))
        return jax.device_put(
            (0.3 * draw.normal(size=leaf.shape)).astype(np.float32), leaf.sharding
        )

    from bigmodel import trees

    return run.Run("somewhere", built, trees.map_with_path(moved, params), 0)


@pytest.fixture(scope="module")
def one_device():
    return made()


def draw(of, labels=("3", "none"), **options):
    options = dict(num_return_sequences=3, num_inference_steps=4) | options
    return drawing.draw(of.recipe, of.params, labels, **options)


def test_an_image_depends_on_seed_label_and_its_number_alone(one_device):
    whole = draw(one_device)
    assert whole.shape == (6, 8, 8, 1)
    assert whole.dtype == np.uint8
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    np.testing.assert_array_equal(draw(one_device, ["none"], num_return_sequences=2), whole[3:5])
    np.testing.assert_array_equal(draw(one_device, rows=2), whole)
    np.testing.assert_array_equal(draw(one_device, [], num_return_sequences=3), whole[3:])
    assert (draw(one_device, seed=1) != whole).any((1, 2, 3)).all()


def test_guidance_is_towards_the_class(one_device):
    plain = draw(one_device, guidance_scale=1.0).astype(int)
    changed = (draw(one_device, guidance_scale=4.0) != plain).any((1, 2, 3))
    np.testing.assert_array_equal(changed, [True] * 3 + [False] * 3)  # "none" has no other side


def test_a_mesh_draws_the_images_of_one_device(one_device):
    meshed = made("data=2, fsdp=2, tensor=2")
    difference = draw(meshed).astype(int) - draw(one_device)
    assert np.abs(difference).max() <= 1  # of 255, where a sum in another order rounds otherwise


def test_pixels_are_those_that_the_data_normalised(one_device):
    data = one_device.recipe.config.data
    rows = recipe.open_rows(one_device.recipe.loaded, "", "train")
    given = rows.take(np.arange(5))["images"]
    back = drawing.pixels(given, data)
    again = (back.astype(np.float32) / 255 - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(again, given, atol=1e-6)
    assert drawing.pixels(given - 9, data).max() == 0
    assert drawing.pixels(given + 9, data).min() == 255


@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_the_pixels(tmp_path, channels):
    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, channels), np.uint8)
    files = drawing.save(images, ["7", "none"], str(tmp_path / "a" / "b"), seed=3)
    assert [file.rpartition("/")[2] for file in files] == [
        f"label-{label}-seed-3-sample-{n}.png" for label in ("7", "none") for n in (0, 1)
    ]
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)).reshape(image.shape), image)


@pytest.mark.parametrize("label", ["10", "-1", "three", "", "1.0"])
def test_what_is_no_class_is_refused(one_device, label):
    with pytest.raises(config.InputError, match=r"no class of this run; allowed: 0 to 9, and none"):
        draw(one_device, [label])


def test_text_is_not_asked_of_a_run_that_draws_nor_images_of_one_that_writes(one_device):
    with pytest.raises(config.InputError, match=r"draws images .* takes no --prompt.*--out DIR"):
        run.sample(one_device, ["a"])
    text = recipe.make(runs.config())
    with pytest.raises(config.InputError, match=r"'decoder' draws no images"):
        drawing.draw(text, None)


def test_latents_are_drawn_as_they_are_stored(tmp_path):
    made = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    found = drawing.pixels(0.5 * made, ConfigDict({"scale": 0.5}))
    files = drawing.save(found, ["1"], str(tmp_path), seed=0)
    assert [file.rpartition(".")[2] for file in files] == ["npy", "npy"]
    np.testing.assert_allclose([np.load(file) for file in files], made, rtol=1e-6)


def test_the_command_trains_and_draws(tmp_path, capsys):
    path = runs.write_config(tmp_path, CONFIG.replace("MESH", ""))
    bigmodel.train(config.load(str(path)), tmp_path / "run")
    capsys.readouterr()
    argv = ["generate", "--workdir", str(tmp_path / "run"), "--out", str(tmp_path / "images")]
    argv += ["--input", "label=4", "--input", "label=none", "--num_inference_steps", "2", "--json"]
    assert __main__.main(argv) == 0
    files = json.loads(capsys.readouterr().out)
    assert sorted(map(str, (tmp_path / "images").iterdir())) == sorted(files)
    assert len(files) == 2
