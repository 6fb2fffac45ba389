"""What a trained run can do, from Python and from the command."""

import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import bigmodel
from bigmodel import config, run
from tests import quick, runs


def extended(optimizer):
    """A config whose optimizer is its own: no file of the library knows it."""
    return (
        runs.CONFIG.replace(
            "def get_config():",
            f"""import optax


def make_mine(learning_rate, axes, *, pull=0.5):
    def rate(step):
        return pull * learning_rate(step)

    return {optimizer}


EXTENSIONS = {{"optimizer": {{"mine": make_mine}}}}


def get_config():""",
        )
        .replace("default_config()", "default_config(extensions=EXTENSIONS)")
        .replace(
            "return config", 'config.optimizer.update(name="mine", pull=0.25)\n    return config'
        )
    )


EXTENDED = extended("optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(rate))")
AVERAGED = extended("optax.contrib.schedule_free(optax.sgd(rate), rate)")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extended")
    path = runs.write_config(folder, EXTENDED)
    bigmodel.train(config.load(str(path), ["steps=10", "ema=0.5"]), folder / "run")
    path.unlink()  # what the workdir keeps must be enough
    return folder / "run"


def test_an_optimizer_of_the_config_trains_and_is_found_again(trained):
    losses = runs.losses(trained)
    assert losses[10] < losses[1]
    loaded = bigmodel.load(trained)
    assert loaded.config.optimizer.pull == 0.25
    assert "mine" in loaded.recipe.loaded.extensions["optimizer"]


def test_values_can_be_read_without_running_the_stored_file(trained):
    from bigmodel.train import workdir

    assert workdir.read(trained, extensions=False).extensions == {}


def test_a_loaded_run_applies_its_averaged_parameters(trained):
    loaded = bigmodel.load(trained)
    tokens = jnp.asarray(loaded.tokenizer.encode("The mesh"))[None]
    outputs = loaded.apply(loaded.params, {"tokens": tokens})
    assert outputs["logits"].shape == (1, 8, 264)
    assert loaded.step == 10


def test_evaluation_tells_bits_per_byte_beside_the_baselines(trained):
    found = bigmodel.evaluate(trained)
    assert found["step"] == 10
    assert 0 < found["validation/bigram_bits_per_byte"] < found["validation/unigram_bits_per_byte"]
    assert found["validation/bits_per_byte"] > 0


def test_evaluation_tells_of_data_that_it_prepares(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path))
    monkeypatch.setattr("bigmodel.recipe.rows.SECONDS_BETWEEN_LINES", -1)
    bigmodel.evaluate(trained)
    out, err = capsys.readouterr()
    assert f"preparing jsonl:{runs.TEXT} all: 100%" in err
    assert out == ""


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (AVERAGED, []),
        pytest.param(
            runs.CONFIG,
            ["optimizer.name=schedule_free_adamw", "ema=0.5"],
            marks=pytest.mark.families,  # for its time
        ),
        (runs.CONFIG, ["ema=0.5", "model.param_dtype=bfloat16"]),
    ],
    ids=["own schedule-free", "average of schedule-free", "average of bfloat16"],
)
def test_a_checkpoint_scores_what_the_run_that_made_it_scored(tmp_path, text, overrides):
    path = runs.write_config(tmp_path, text.replace(", batches=2", ""))
    told = bigmodel.train(config.load(str(path), ["steps=4", *overrides]), tmp_path / "run")
    found = bigmodel.evaluate(tmp_path / "run")
    assert found["validation/loss"] == pytest.approx(told["validation/loss"], rel=1e-6)


def test_generation_is_reproduced_by_its_seed_and_streams_what_it_returns(trained):
    told: dict[tuple[int, int], str] = {}

    def on_text(prompt, sample, piece):
        told[prompt, sample] = told.get((prompt, sample), "") + piece

    options = dict(num_return_sequences=2, max_new_tokens=12, temperature=1.0)
    once = bigmodel.generate(trained, ["The", "设备"], seed=1, on_text=on_text, **options)
    again = bigmodel.generate(trained, ["The", "设备"], seed=1, **options)
    other = bigmodel.generate(trained, ["The", "设备"], seed=2, **options)
    assert once == again != other
    assert [[told[p, s] for s in range(2)] for p in range(2)] == once


def test_generation_on_a_mesh_gives_the_tokens_of_one_device(trained):
    loaded = bigmodel.load(trained)
    values = loaded.config.copy_and_resolve_references().unlock()
    values.mesh.update(data=2, fsdp=2, tensor=2)
    import dataclasses

    from bigmodel import checkpoint, recipe
    from bigmodel.train import state

    there = recipe.make(dataclasses.replace(loaded.recipe.loaded, config=values.lock()))
    with checkpoint.Checkpoints(trained / "checkpoints") as checkpoints:
        params = checkpoints.restore({"ema": state.abstract(there).ema}).tree["ema"]
    meshed = dataclasses.replace(loaded, recipe=there, params=params)
    options = dict(max_new_tokens=8, temperature=0.0)
    assert run.sample(meshed, ["The"], **options) == run.sample(loaded, ["The"], **options)


@pytest.fixture(scope="module")
def short():
    """A model that knows 24 places, as it is made."""
    from bigmodel import recipe
    from bigmodel.train import state

    made = recipe.make(runs.config(model=dict(position="learned", length=24), data=dict(length=24)))
    return run.Run("", made, state.create(made).params, 0)


def test_without_a_limit_text_ends_where_learned_positions_do(short):
    options = dict(temperature=0.0)
    found = run.sample(short, ["abc", "abcdefgh"], **options)
    assert found == run.sample(short, ["abc", "abcdefgh"], max_length=23, **options)
    assert found[1] == run.sample(short, ["abcdefgh"], max_new_tokens=15, **options)[0]
    assert run.sample(short, []) == []


@pytest.mark.parametrize(
    ("prompt", "limits", "words"),
    [
        ("abc", dict(max_new_tokens=21), "4 tokens with 21 more.*24 learned.*at most 20"),
        ("abc", dict(max_length=24), "4 tokens with 21 more.*24 learned.*at most 20"),
        ("a" * 23, {}, "prompt of 24 tokens.*24 learned positions.*at most 23"),
        ("a" * 40, dict(max_length=20), "prompt of 41 tokens.*24 learned positions"),
    ],
)
def test_text_beyond_the_learned_positions_is_refused(short, prompt, limits, words):
    with pytest.raises(config.InputError, match=words):
        run.sample(short, [prompt], **limits)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(config.InputError, match=r"holds no config.json"):
        bigmodel.load(tmp_path)


def test_a_run_of_an_earlier_version_and_of_other_devices_is_loaded(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    values = json.loads((trained / "config.json").read_text())
    del values["model"]["qk_norm"], values["profile"]
    values["model"]["attention"], values["mesh"]["tensor"] = "cudnn", 3
    (tmp_path / "run" / "config.json").write_text(json.dumps(values))
    options = dict(max_new_tokens=4, temperature=0.0)
    found = bigmodel.generate(tmp_path / "run", ["The"], **options)
    assert found == bigmodel.generate(trained, ["The"], **options)


def test_a_run_without_a_sound_checkpoint_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for manifest in (tmp_path / "run").glob("checkpoints/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(config.InputError, match=r"no sound checkpoint in .*: step 10: manifest"):
        bigmodel.load(tmp_path / "run")


@pytest.mark.smoke
def test_training_by_the_command_imports_no_tensorflow(tmp_path):
    path = runs.write_config(tmp_path)
    code = (
        "import sys; from bigmodel.__main__ import main; "
        f"status = main(['train', '--config', '{path}', '--workdir', '{tmp_path / 'run'}', "
        "'--config.steps=2', '--config.data.source=python_stdlib', '--config.data.split=train', "
        "'--config.log.tensorboard=True', '--config.evals={}']); "
        "bad = [name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'torch')]; "
        "print('imported', bad); sys.exit(status)"
    )
    import os
    import subprocess

    environment = {**os.environ, "XLA_FLAGS": quick.FLAGS, "PYTHONPATH": str(runs.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "imported []" in done.stdout
    assert list((tmp_path / "run").glob("events.out.tfevents*"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"]
    assert np.isfinite(list(runs.losses(tmp_path / "run").values())).all()
