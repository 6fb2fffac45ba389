"""Numbers that go wrong: each is found, told, and left out as the config says, to the last bit."""

import json

import numpy as np
import pytest

from bigmodel import checkpoint, config, trees
from bigmodel.train import state, void, watch, writers
from tests import runs
from tests.train import faulty
from tests.train.test_processes import start

BAD = "data.bad=(6,)"  # the batch of step 7; checkpoints are at 4 and 8
NAN = (BAD, faulty.INFINITE)


def assert_ended_alike(folder, other):
    """Two runs of 12 steps left the same: losses that they told, and checksums of all they are."""
    one, two = runs.losses(folder), runs.losses(other)
    for step in one.keys() & two:  # a start tells its first step, whatever `log.every`
        assert one[step] == two[step], step
    assert {1, 5, 10, 12} <= one.keys() & two
    assert runs.checksums(folder, 12) == runs.checksums(other, 12)


def parameters(folder):
    with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        return trees.flatten(checkpoints.restore({"params": {"kernel": KERNEL}}).tree)


KERNEL = state.jax.ShapeDtypeStruct((8,), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numbers")


@pytest.mark.parametrize(
    "given",
    [
        (*NAN, "nonfinite=skip"),
        (*NAN, "nonfinite=rollback"),
        (BAD, "spikes.action=tell"),
        (BAD, "spikes.action=skip"),
        (BAD, "spikes.action=rollback"),
    ],
    ids=lambda given: given[-1],
)
def test_a_run_that_went_wrong_and_was_killed_ends_as_one_that_was_not_killed(
    folder, given, capsys
):
    name = given[-1]
    faulty.train(folder / name, *given)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 7:")]
    assert len(told) == 1
    assert "grad_norm" in told[0]
    faulty.train(folder / f"{name}, killed", *given, killed_at=9)
    (folder / f"{name}, killed" / void.FILE).unlink(missing_ok=True)  # checkpoint 8 knows it too
    faulty.train(folder / f"{name}, killed", *given)
    assert_ended_alike(folder / f"{name}, killed", folder / name)
    rows = {row["step"]: row for row in writers.rows(folder / name)}
    if "rollback" in name:
        (entry,) = json.loads((folder / name / void.FILE).read_text())
        assert (entry["batch"], entry["step"], entry["checkpoint"]) == (6, 7, 4)
        assert 7 not in rows
        assert (folder / name / "debug" / "step_7" / "batch.npz").exists()
        for run in (name, f"{name}, killed"):
            with checkpoint.Checkpoints(folder / run / "checkpoints") as checkpoints:
                assert checkpoints.metadata()["void"] == [6]
    else:
        counts = "skipped" if "skip" in name else "spike"
        assert sum(row.get(f"train/{counts}", 0) for row in rows.values()) == 1
        assert rows[7][f"train/{counts}"] == 1
    if "tell" not in name:
        assert np.isfinite(parameters(folder / name)["params/kernel"]).all()


@pytest.mark.parametrize(
    ("given", "field", "error"),
    [(NAN, "nonfinite", watch.NonFiniteError), ((BAD,), "spikes.action", watch.SpikeError)],
    ids=["NaN", "spike"],
)
def test_a_run_that_stopped_goes_on_with_another_answer_as_if_that_had_been_the_first(
    folder, given, field, error
):
    run = folder / f"{field} stopped"
    for _ in range(2):  # the second time it goes on from step 4, and finds the same
        with pytest.raises(error, match=rf"step 7: loss .* is step 4. .* {field}=.?\"skip\""):
            faulty.train(run, *given, f"{field}=stop")
        with checkpoint.Checkpoints(run / "checkpoints") as checkpoints:
            assert checkpoints.steps() == [4]
    faulty.train(run, *given, f"{field}=skip")
    faulty.train(folder / f"{field} first", *given, f"{field}=skip")
    assert_ended_alike(run, folder / f"{field} first")


def test_a_kill_between_the_verdict_and_the_checkpoint_loses_nothing(folder, monkeypatch):
    given = (*NAN, "nonfinite=rollback")
    faulty.train(folder / "whole", *given)

    def killed(*_):
        raise faulty.Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "restore", killed)  # the entry is in the file, the run not yet back
        faulty.train(folder / "between", *given)
    (entry,) = json.loads((folder / "between" / void.FILE).read_text())
    assert entry["batch"] == 6
    faulty.train(folder / "between", *given)
    assert_ended_alike(folder / "between", folder / "whole")


def test_to_leave_an_update_out_and_to_go_back_end_in_the_same_parameters(folder):
    for action in ("skip", "rollback"):
        faulty.train(folder / f"same {action}", *NAN, f"nonfinite={action}")
    skipped, back = (parameters(folder / f"same {action}") for action in ("skip", "rollback"))
    np.testing.assert_allclose(skipped["params/kernel"], back["params/kernel"], rtol=1e-6)


def test_a_run_goes_back_to_its_newest_local_checkpoint(folder):
    run, given = folder / "local", (BAD, "spikes.action=rollback")
    local = (f"checkpoint.local={folder / 'disk'}", "checkpoint.local_every=1")
    faulty.train(run, *given, *local)
    (entry,) = json.loads((run / void.FILE).read_text())
    assert (entry["batch"], entry["checkpoint"]) == (6, 6)  # the persistent one is of step 4
    faulty.train(folder / "no local", *given)
    assert_ended_alike(run, folder / "no local")


def test_before_the_first_checkpoint_a_run_goes_back_to_its_beginning(folder, capsys):
    run = folder / "beginning"
    faulty.train(run, "data.bad=(1, 2)", faulty.INFINITE, "nonfinite=rollback")
    assert [entry["checkpoint"] for entry in json.loads((run / void.FILE).read_text())] == [0, 0]
    assert np.isfinite(parameters(run)["params/kernel"]).all()
    assert runs.losses(run)[1] == pytest.approx(7.828, abs=1e-3)
    capsys.readouterr()
    faulty.train(run, "data.bad=(1, 2)", faulty.INFINITE, "nonfinite=rollback", "steps=13")
    assert "without the batches [1, 2]" in capsys.readouterr().out


def test_a_run_that_goes_back_too_often_stops_and_says_so(folder):
    run = folder / "often"
    given = ("data.bad=(5, 6, 7)", faulty.INFINITE, "nonfinite=rollback", "rollbacks=2")
    for _ in range(2):  # what was void stays so, and is counted
        with pytest.raises(watch.WentWrongError, match="rollbacks = 2, .* back to step 4 that"):
            faulty.train(run, *given)
    assert len(json.loads((run / void.FILE).read_text())) == 2
    faulty.train(run, *given, "rollbacks=3")
    assert np.isfinite(parameters(run)["params/kernel"]).all()


def test_spikes_can_be_asked_for_in_a_run_that_had_no_means(folder):
    faulty.train(folder / "later", "steps=4")
    faulty.train(folder / "later", "spikes.action=skip")
    assert runs.checksums(folder / "later", 12)["spikes/seen"]["shape"] == []
    faulty.train(folder / "later", "steps=13")  # and again without


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "is no list of void batches"), ('[{"step": 3}]', "is no list of void batches")],
)
def test_a_file_of_void_batches_that_says_none_is_refused(tmp_path, text, told):
    (tmp_path / void.FILE).write_text(text)
    with pytest.raises(config.InputError, match=told):
        void.Void(void.epath.Path(tmp_path))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("nonfinite=rolback", "Did you mean .rollback"),
        ("spikes.action=no", "spikes.action = 'no'"),
        ("spikes.factor=1.0", "spikes.factor = 1.0: a multiple of a mean, above 1"),
        ("spikes.loss_factor=inf", "a multiple of a mean, above 1"),
        ("spikes.steps=0", "spikes.steps = 0: must be at least 1"),
        ("rollbacks=-1", "rollbacks = -1: must not be negative"),
        ("replay.every=-1", "replay.every = -1: must not be negative"),
    ],
)
def test_what_no_run_can_do_is_refused(folder, override, told):
    with pytest.raises(config.InputError, match=told):
        faulty.train(folder / "refused", override)


@pytest.mark.parametrize(
    "given",
    [
        (*NAN, "nonfinite=rollback", "spikes.action=tell"),
        pytest.param((BAD, "spikes.action=rollback"), marks=pytest.mark.faults),
    ],
    ids=["NaN", "spike"],
)
def test_two_processes_go_back_alike_and_end_in_the_bits_of_one(tmp_path, given):
    runs.write_config(tmp_path, faulty.CONFIG)
    given = [f"--config.{override}" for override in (*given, "mesh.fsdp=4", "replay.every=5")]
    for processes in (1, 2):
        for process in start(tmp_path, str(processes), *given, processes=processes):
            assert "goes back to step 4" in runs.finish(process)
    assert_ended_alike(tmp_path / "2", tmp_path / "1")
