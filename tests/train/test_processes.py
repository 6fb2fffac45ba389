"""One job of several real processes: the numbers do not depend on how many there are."""

import shutil
import signal
import socket

import numpy as np
import pytest

from bigmodel import config
from bigmodel.train import processes as jobs
from bigmodel.train import writers
from tests import runs


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(folder, name, *flags, processes):
    """The processes of a run on four devices in all."""
    coordinator = f"localhost:{port()}"
    return [
        runs.start(
            *("train", "--config", folder / "config.py", "--workdir", folder / name, *flags),
            devices=4 // processes,
            BIGMODEL_COORDINATOR=coordinator,
            BIGMODEL_PROCESSES=str(processes),
            BIGMODEL_PROCESS=str(number),
        )
        for number in range(processes)
    ]


def train(folder, name, *, processes, steps, mesh, every=4):
    """A run by so many processes that saves every so many steps."""
    flags = (f"--config.steps={steps}", f"--config.checkpoint.every={every}", *mesh)
    for process in start(folder, name, *flags, processes=processes):
        runs.finish(process)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    runs.write_config(folder)
    # Saving at each step launches many small programs in a row, which must not block each other.
    train(folder, "one", processes=1, steps=8, mesh=FSDP, every=1)
    return folder


FSDP = ("--config.mesh.fsdp=4",)


@pytest.mark.families  # for its time; so does the soak in tests/faults, in jobs that are killed
def test_two_processes_give_the_bits_of_one(folder):
    clock = "--config.checkpoint.every_minutes=0.001"  # the processes agree on the time as well
    train(folder, "two", processes=2, steps=8, mesh=(*FSDP, clock), every=1)
    assert runs.losses(folder / "two") == runs.losses(folder / "one")
    assert runs.checksums(folder / "two", 8) == runs.checksums(folder / "one", 8)


@pytest.mark.families  # for its time
def test_a_run_of_two_processes_goes_on_in_one_on_another_mesh_with_the_same_samples(folder):
    train(folder, "moved", processes=2, steps=8, mesh=FSDP)
    shutil.rmtree(folder / "moved" / "checkpoints" / "8")  # as if it had been stopped at step 4
    train(
        folder,
        "moved",
        processes=1,
        steps=8,
        mesh=("--config.mesh.data=2", "--config.mesh.tensor=2"),
    )
    one, moved = runs.losses(folder / "one"), runs.losses(folder / "moved")
    assert sorted(moved) == sorted(one)
    assert [moved[step] for step in range(1, 5)] == [one[step] for step in range(1, 5)]
    np.testing.assert_allclose(list(moved.values()), list(one.values()), rtol=1e-5)


SCORED = f"""
import runpy


def get_config():
    config = runpy.run_path("{runs.ROOT}/configs/vit.py")["get_config"]("tiny")
    config.steps, config.batch, config.checkpoint.every = 1, 8, 1
    config.log.tensorboard = False
    entry = dict(split="validation", batches=2, scores=SCORES)
    config.evals = dict(validation=entry)
    return config
"""


@pytest.mark.families  # for its time
def test_two_processes_tell_the_scores_of_one(tmp_path):
    told, scores = [], ("f1_macro", "matthews")
    runs.write_config(tmp_path, SCORED.replace("SCORES", str(scores)))
    for processes in (1, 2):
        started = start(tmp_path, str(processes), "--config.mesh.data=4", processes=processes)
        for process in started:
            runs.finish(process)
        rows = writers.rows(tmp_path / str(processes))
        (row,) = [row for row in rows if "validation/scored" in row]
        told.append({key: row[f"validation/{key}"] for key in (*scores, "scored", "loss")})
    assert told[0]["scored"] == 16
    assert told[0] == pytest.approx(told[1], rel=1e-6)


def test_what_one_process_cannot_read_all_of_them_refuse(tmp_path):
    runs.write_config(tmp_path)
    missing = f"--config.data.source=jsonl:{tmp_path / 'missing.jsonl'}"
    started = start(tmp_path, "run", missing, *FSDP, processes=2)
    told = {runs.finish(process, 2).splitlines()[-1] for process in started}
    assert len(told) == 1
    assert "missing.jsonl" in told.pop()


def test_ctrl_c_ends_those_that_wait_for_the_data_as_well(tmp_path):
    started = tmp_path / "started"
    runs.write_config(tmp_path, runs.SLOW.replace("STARTED", str(started)))
    both = start(tmp_path, "run", *FSDP, processes=2)
    runs.wait_for(started, *both)
    for process in both:
        process.send_signal(signal.SIGINT)
    for process in both:
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode  # of the signal, or of jax that has lost the other one


def test_what_another_process_could_not_do_is_a_fault_of_this_one(monkeypatch):
    def absent():
        raise FileNotFoundError("base")

    def refused():
        raise config.InputError("no such text")

    said = []
    monkeypatch.setattr(jobs.agreement, "agreed", lambda fault, what: said.append(fault) or fault)
    monkeypatch.setattr(jobs.jax, "process_count", lambda: 2)
    assert jobs.together(lambda: 3, "three") == 3
    with pytest.raises(FileNotFoundError):
        jobs.together(absent, "none")
    with pytest.raises(jobs.agreement.AgreedError, match="no such text"):
        jobs.together(refused, "none")
    failed = "|process 0 failed with FileNotFoundError: base"
    assert said == ["", failed, "refused|no such text"]
    for told, error in (
        (failed, jobs.agreement.OthersError),
        (said[2], jobs.agreement.AgreedError),
    ):
        monkeypatch.setattr(jobs.agreement, "agreed", lambda *_, told=told: told)
        with pytest.raises(error, match=told.partition("|")[2]):
            jobs.together(lambda: 3, "three")
    with pytest.raises(FileNotFoundError):  # whatever the first one had
        jobs.together(absent, "none")
