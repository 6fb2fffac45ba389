"""The loop, as functions call it: what a run leaves behind, and what it refuses."""

import functools
import json

import fsspec
import numpy as np
import pytest
from etils import epath

import bigmodel
from bigmodel import checkpoint, config
from bigmodel import recipe as recipes
from bigmodel.train import processes, safety, watch, workdir
from tests import buckets, runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 12 steps that never stopped."""
    folder = tmp_path_factory.mktemp("trained")
    loaded = config.load(str(runs.write_config(folder)), ["steps=12", "checkpoint.every=4"])
    metrics = bigmodel.train(loaded, folder / "run")
    return loaded, folder / "run", metrics


@pytest.mark.smoke
def test_a_run_leaves_its_config_its_provenance_its_metrics_and_its_checkpoints(trained):
    loaded, folder, metrics = trained
    stored = json.loads((folder / "config.json").read_text())
    assert stored["steps"] == 12
    assert stored["optimizer"]["b1"] == 0.9  # a default that was filled in
    assert runs.CONFIG in (folder / "config.py").read_text()
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["packages"]["jax"]
    assert provenance["mesh"]["data"] == 1
    losses = runs.losses(folder)
    assert sorted(losses) == list(range(1, 13))
    assert losses[12] < losses[1]
    assert metrics["validation/bits_per_byte"] > 0
    with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [8, 12]


def test_a_finished_run_is_not_run_again(trained):
    loaded, folder, _ = trained
    before = (folder / "metrics.jsonl").read_text()
    bigmodel.train(loaded, folder)
    assert (folder / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.width=64", "model.width = 64, but .* made with 32"),
        ("data.source=jsonl:nowhere", "data.source = 'jsonl:nowhere', but .* made with 'jsonl:"),
        ("model.vocab=256", "model.vocab = 256 is less than the 257 tokens"),
        ("data.length=16", "data.length = 16, but .* made with 32"),
        ("seed=3", "seed = 3, but .* made with 0"),
    ],
)
def test_another_run_is_refused_before_data_are_prepared(trained, override, told, monkeypatch):
    loaded, folder, _ = trained
    monkeypatch.delattr("bigmodel.recipe.prepare_data")
    other = config.load(loaded.path, [*loaded.overrides, override])
    with pytest.raises(config.InputError, match=told):
        bigmodel.train(other, folder)


def test_another_tokenizer_is_refused():
    facts = dict(config={}, tokenizer="a" * 64, rows="b" * 64)
    with pytest.raises(config.InputError, match="data.tokenizer: its content"):
        workdir.check_resume(facts, facts | dict(tokenizer="c" * 64), "somewhere", dict)


def test_a_field_that_a_checkpoint_does_not_know_was_its_default(trained):
    loaded, folder, _ = trained
    recipe = recipes.make(loaded)
    now = workdir.facts(recipe.loaded, "bytes")
    unsaid = functools.partial(recipes.unsaid, recipe.loaded)
    older = {
        field: value for field, value in now["config"].items() if field != "model.norm_epsilon"
    }
    workdir.check_resume(now | dict(config=older), now, str(folder), unsaid)
    other = now | dict(config=now["config"] | {"model.norm_epsilon": 1e-3})
    with pytest.raises(config.InputError, match=r"norm_epsilon = 0.001, but .* made with 1e-0"):
        workdir.check_resume(now | dict(config=older), other, str(folder), unsaid)


def test_a_loss_that_is_no_number_stops_the_run_and_is_written_down(tmp_path):
    loaded = config.load(
        str(runs.write_config(tmp_path)), ["steps=6", "schedule.peak=1e30", "optimizer.clip=0.0"]
    )
    with pytest.raises(watch.NonFiniteError, match=r"step \d: loss .*nan.*debug/step_\d"):
        bigmodel.train(loaded, tmp_path / "run")
    (folder,) = (tmp_path / "run" / "debug").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert "nan" in report["metrics"].values()
    assert np.load(folder / "batch.npz")["tokens"].shape == (8, 32)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        ([1.0], "after step 6 the parameters are still"),
        ([np.nan], "after step 6 1 .* first kernel"),
    ],
)
def test_what_went_wrong_says_after_which_step_the_parameters_were_seen(tmp_path, kernel, told):
    """One step may be under way while the metrics of the one before it are looked at."""
    seen = dict(metrics=dict(loss=np.nan, grad_norm=1.0), batch={}, resume=None)
    params = {"kernel": np.array(kernel)}
    error = watch.stop(epath.Path(tmp_path), step=5, params=params, params_step=6, **seen)
    with pytest.raises(watch.NonFiniteError, match=told):
        raise error


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path, monkeypatch):
    """Where a workdir can be."""
    if request.param == "local":
        yield tmp_path
        return
    name = buckets.make("gs", monkeypatch)
    with buckets.serving(fsspec.filesystem("gs")) as address:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        yield epath.Path(name) / "run"


def test_a_request_to_stop_is_kept_and_the_run_goes_on_bit_for_bit(trained, place, monkeypatch):
    loaded, folder, metrics = trained
    asked = iter([False] * 4 + [True] + [False] * 20)
    with monkeypatch.context() as patch:
        patch.setattr(processes.StopRequest, "agreed", lambda *_: next(asked))
        with pytest.raises(safety.Stopped, match="step 5"):
            bigmodel.train(loaded, place)
    again = bigmodel.train(loaded, place)
    assert runs.losses(place) == runs.losses(folder)
    assert again["train/loss"] == metrics["train/loss"]
    assert runs.checksums(place, 12) == runs.checksums(folder, 12)
