"""What a run hears of files, written down: by CTC and by Whisper's decoder."""

import itertools
import json
import wave

import jax
import numpy as np
import pytest

import bigmodel
from bigmodel import config, hearing, run
from bigmodel import recipe as recipes
from bigmodel.data import dtmf, inputs
from bigmodel.train import state
from tests import runs


def of_config(name, **fields):
    """A run of fresh parameters."""
    loaded = config.load(f"{runs.ROOT}/configs/{name}", fields)
    recipe = recipes.make(loaded, devices=jax.devices()[:1])
    return run.Run("/runs/fresh", recipe, state.create(recipe).params, 0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    paths = []
    for number in (1, 2, 3):
        paths.append(str(folder / f"{number}.wav"))
        with wave.open(paths[-1], "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(dtmf.RATE)
            file.writeframes((dtmf.sound_of(number) * 32767).astype("<i2").tobytes())
    return paths


@pytest.fixture(scope="module")
def ctc():
    return of_config("ctc.py:tiny")


@pytest.fixture(scope="module")
def whisper():
    return of_config("whisper.py:tiny")


def test_the_likeliest_alignment_of_a_file_is_its_text(ctc, files):
    """Of each file alone; what only pads the vocabulary is never said, and 263 is the blank."""
    found = run.sample(ctc, inputs={"audio": files})
    data = ctc.config.data.to_dict()
    for path, texts in zip(files, found, strict=True):
        batch = inputs.arrays({"audio": [path]}, ctc.recipe.example, ctc.tokenizer, data)
        outputs = ctc.apply(ctc.params, batch)
        logits = np.array(outputs["frame_logits"][0])
        logits[:, 257:-1] = -np.inf
        best = logits[np.asarray(outputs["frame_segments"][0]) > 0].argmax(-1)
        runs_of = [label for label, _ in itertools.groupby(best.tolist())]
        assert texts == [ctc.tokenizer.decode([label for label in runs_of if label != 263])]


def test_a_search_gives_several_texts_and_tells_of_each(ctc, files):
    told = []
    how = dict(num_beams=3, num_return_sequences=2, on_text=lambda *of: told.append(of))
    found = run.sample(ctc, inputs={"audio": files[:2]}, **how)
    assert [len(texts) for texts in found] == [2, 2]
    assert told == [(i, j, text) for i, texts in enumerate(found) for j, text in enumerate(texts)]
    assert found[0][0] != found[0][1]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (dict(prompts=["a"]), "prompt=a"),
        (dict(max_new_tokens=3), "max_new_tokens=3"),
        (dict(max_length=3), "max_length=3"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(top_k=2), "top_k=2"),
        (dict(num_return_sequences=2), "num_return_sequences=2"),
    ],
)
def test_what_ctc_has_no_use_for_is_refused(ctc, files, asked, named):
    with pytest.raises(config.InputError) as refused:
        run.sample(ctc, inputs={"audio": files}, **asked)
    assert named in str(refused.value)


def test_a_model_of_sound_wants_sound(ctc, whisper):
    for model in (ctc, whisper):
        with pytest.raises(config.InputError, match="audio=FILE"):
            run.sample(model, ["a"])
        assert hearing.hears(model.recipe) == (model is ctc)


@pytest.mark.families  # for its time
def test_whisper_writes_what_it_writes_of_one_file_alone(whisper, files):
    """As many tokens as it has positions, where nobody says a limit."""
    for how in (dict(temperature=0.0), dict(num_beams=2)):
        whole = run.sample(whisper, inputs={"audio": files}, **how)
        assert len(whole) == 3
        assert run.sample(whisper, inputs={"audio": files[2:]}, **how) == whole[2:]
    with pytest.raises(config.InputError, match="8 learned positions"):
        run.sample(whisper, inputs={"audio": files}, max_new_tokens=8)


def test_the_command_prints_a_line_for_each_sound(files, tmp_path, capsys):
    loaded = config.load(f"{runs.ROOT}/configs/ctc.py:tiny", {"steps": 1, "batch": 4})
    bigmodel.train(loaded, tmp_path / "run")
    capsys.readouterr()
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n")
    from bigmodel.__main__ import main

    given = ["generate", "--workdir", str(tmp_path / "run"), "--input"]
    assert main([*given, f"audio={tmp_path}/list.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["audio"] for row in found] == files
    assert main([*given, f"audio={files[0]}", "--prompt", "x"]) == 2
    assert "prompt=x" in capsys.readouterr().err
