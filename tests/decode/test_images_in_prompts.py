"""Laws of prompts with images and prefixes: a text goes on as the full forward pass says."""

import jax
import numpy as np
import pytest

import bigmodel
from bigmodel import config
from bigmodel.decode import beam, generate, prompting
from bigmodel.decode.sampling import Sampling
from tests import runs
from tests.data.test_image_text import picture
from tests.models import variants
from tests.models.families import images, make, params

GREEDY = Sampling(temperature=0.0)


def test_places_of_patches_follow_the_padding_before_a_prompt():
    texts = [np.array([5, -1, -1, 7]), np.array([3]), np.array([-1, -1, 9])]
    batch = prompting.left_padded(texts, prefix=True)
    T = batch["tokens"].shape[1]
    assert batch["image_positions"].tolist() == [[T - 3, T - 2], [-1, -1], [T - 3, T - 2]]
    assert batch["tokens"].min() == 0
    np.testing.assert_array_equal(batch["prefix"], batch["segments"] > 0)
    plain = prompting.left_padded([np.array([5, 7])])
    assert set(plain) == {"tokens", "segments", "positions"}


def written(model, params, prompts, pixels, prefix, count):
    """Greedy text by whole forward passes, a row at a time."""
    apply, found = jax.jit(model.apply), []
    for row, prompt in enumerate(prompts):
        ids, given = list(prompt), len(prompt)
        for _ in range(count):
            whole = np.zeros((1, 16), np.int32)
            whole[0, : len(ids)] = np.maximum(ids, 0)
            batch = {"tokens": whole, "segments": (np.arange(16) < len(ids))[None].astype(np.int32)}
            if pixels is not None:
                batch["images"] = pixels[row : row + 1]
                batch["image_positions"] = np.flatnonzero(np.array(ids) < 0)[None]
            if prefix:
                batch["prefix"] = (np.arange(16) < given)[None]
            logits = apply(params, batch)["logits"][0, len(ids) - 1]
            ids.append(int(np.argmax(logits)))
        found.append(ids[given:])
    return found


@pytest.mark.parametrize("name, prefix", [("llava", False), ("paligemma", True)])
def test_text_of_an_image_is_that_of_whole_forward_passes(name, prefix):
    pixels = images(3, 0)["images"]
    draw = np.random.default_rng(0)
    prompts = [
        np.array([4, *[-1] * 4, *draw.integers(0, 19, more)], np.int32) for more in (1, 4, 2)
    ]
    model = make(name)
    wanted = written(model, params(name), prompts, pixels, prefix, 5)
    how = dict(max_new_tokens=5, inputs={"images": pixels}, prefix=prefix)
    found = generate.generate(model, params(name), prompts, sampling=GREEDY, multiple=2, **how)
    assert [list(one) for one in found] == wanted
    best = beam.search(model, params(name), prompts, num_beams=1, **how)
    assert [list(one[0].tokens) for one in best] == wanted


def test_text_after_a_prefix_is_that_of_whole_forward_passes():
    prompts = [np.array([4, 7, 2], np.int32), np.array([1, 9, 9, 3, 5], np.int32)]
    model, of = variants.make("llama", length=16), variants.params("llama")
    wanted = written(model, of, prompts, None, True, 4)
    assert wanted != written(model, of, prompts, None, False, 4)  # so the law can fail
    found = generate.generate(model, of, prompts, max_new_tokens=4, sampling=GREEDY, prefix=True)
    assert [list(one) for one in found] == wanted


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    fields = {"steps": 1, "batch": 4, "log.tensorboard": False}
    bigmodel.train(config.load(f"{runs.ROOT}/configs/llava.py:tiny", fields), folder)
    return folder


@pytest.mark.families  # for its time
def test_a_run_is_asked_about_files_of_images(workdir, tmp_path):
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    how = dict(inputs={"image": paths}, max_new_tokens=3)
    found = bigmodel.generate(workdir, ["What is it?"], **how)
    assert [len(samples) for samples in found] == [1, 1]


@pytest.mark.families  # for its time
@pytest.mark.parametrize(
    "inputs, words",
    [
        (None, "reads an image besides each prompt: --input image=FILE"),
        ({"source": ["x"]}, "input 'source': this model takes image"),
        ({"image": ["none.png"]}, "no such file, none.png"),
        ({"image": ["broken.png"]}, "is no whole image"),
    ],
)
def test_a_run_without_a_whole_image_is_refused(workdir, tmp_path, monkeypatch, inputs, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(config.InputError) as error:
        bigmodel.generate(workdir, ["x"], inputs=inputs, max_new_tokens=1)
    assert words in str(error.value)
    assert " at 0x" not in str(error.value)


def test_an_image_of_a_command_is_a_file_or_several_in_a_list(tmp_path):
    from bigmodel.data import inputs

    assert inputs.parse("image=a/b.PNG") == ("image", ["a/b.PNG"])
    (tmp_path / "list.txt").write_text("a.png\nb.jpg\n")
    beside = [str(tmp_path / name) for name in ("a.png", "b.jpg")]
    assert inputs.parse(f"image={tmp_path}/list.txt") == ("image", beside)
