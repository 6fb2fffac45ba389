"""A sweep: each run once, after a kill too, and one table that tells what the runs wrote."""

import json

import pytest

import bigmodel
from bigmodel import __main__ as door
from bigmodel.train import loop, processes, safety, writers
from tests import runs

SMALL = {"steps": 3, "model.layers": 1, "evals.validation.batches": 1}


def write(folder, pairs):
    """A sweep's file over the quick config, and its path."""
    config = str(runs.write_config(folder))
    path = folder / "sweep.py"
    told = [(name, (config, {**SMALL, **overrides})) for name, overrides in pairs]
    path.write_text(f"def get_configs():\n    return {told!r}\n")
    return str(path)


PAIRS = [("low", {"seed": 1}), ("broken", {"data.source": "jsonl:nowhere"}), ("high", {"seed": 2})]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Stopped in its first run, gone on with by two hosts; in between what lay there."""
    folder = tmp_path_factory.mktemp("sweep")
    file = write(folder, PAIRS)
    asked = iter([True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.StopRequest, "agreed", lambda *_: next(asked))
        with pytest.raises(safety.Stopped, match="step 1"):
            bigmodel.sweep(file, folder / "runs")
    between = bigmodel.sweep(file, folder / "runs", run=False)
    hosts = [bigmodel.sweep(file, folder / "runs", hosts=2, host=i) for i in range(2)]
    return file, folder / "runs", between, hosts


def test_two_hosts_do_each_run_once_and_a_failing_run_is_told(swept):
    _, _, between, (first, second) = swept
    assert [row["state"] for row in between] == ["partial", "missing", "missing"]
    assert [row["state"] for row in first] == ["finished", "missing", "finished"]
    assert [row["state"] for row in second] == ["finished", "failed", "finished"]
    assert "nowhere" in second[1]["failure"]


def test_a_stopped_run_goes_on_to_the_bits_that_it_has_alone(swept, tmp_path):
    file, folder, *_ = swept
    alone = bigmodel.load_config(file.replace("sweep.py", "config.py"), {**SMALL, "seed": 1})
    bigmodel.train(alone, tmp_path)
    assert runs.checksums(tmp_path, 3) == runs.checksums(folder / "low", 3)


def test_the_table_tells_the_last_figures_of_the_metrics(swept):
    _, folder, _, (_, rows) = swept
    assert json.loads((folder / "sweep.json").read_text()) == rows
    for row in (rows[0], rows[2]):
        assert row["train/loss"] == runs.losses(folder / row["run"])[3]
        measured = [r for r in writers.rows(folder / row["run"]) if "validation/loss" in r]
        assert row["validation/loss"] == measured[-1]["validation/loss"]
    assert [row["seed"] for row in rows] == [1, 0, 2]


def test_finished_runs_are_not_run_again_and_the_failed_one_is(swept, monkeypatch, capsys):
    file, folder, *_ = swept
    tried = []

    def fail(loaded, place):
        tried.append(place.name)
        raise bigmodel.InputError("still no rows")

    monkeypatch.setattr(loop, "train", fail)
    assert door.main(["sweep", "--configs", file, "--workdir", str(folder), "--json"]) == 1
    assert tried == ["broken"]
    assert json.loads(capsys.readouterr().out)[1]["failure"] == "InputError: still no rows"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "gives no run"),
        ([("../up", {})], "a name is a folder's"),
        ([("a", {}), ("A", {})], "twice"),
        ([("a", {}), ("b", {"model.widht": 1})], "run 'b'.*Did you mean \"width\""),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_written(tmp_path, pairs, words):
    with pytest.raises(bigmodel.InputError, match=words):
        bigmodel.sweep(write(tmp_path, pairs), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_file_without_get_configs_and_a_host_too_many_are_refused(tmp_path):
    with pytest.raises(bigmodel.InputError, match="get_configs"):
        bigmodel.sweep(str(runs.write_config(tmp_path)), tmp_path / "runs")
    with pytest.raises(bigmodel.InputError, match="0 to 1"):
        bigmodel.sweep("sweep.py", tmp_path / "runs", hosts=2, host=2)


def test_a_run_whose_overrides_have_changed_is_refused(swept):
    file, folder, *_ = swept
    other = folder.parent / "other"
    other.mkdir()
    file = write(other, [("low", {"seed": 5})])
    with pytest.raises(bigmodel.InputError, match=r"seed = 5, but .* was made with 1"):
        bigmodel.sweep(file, folder)
