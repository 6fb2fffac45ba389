"""A killed job goes on from its hosts' own checkpoints, or, where one is gone, from the workdir."""

import shutil
import time

import pytest

from tests import runs
from tests.train import test_processes

STEPS = 30


def start(folder):
    flags = {"steps": STEPS, "checkpoint.every": 10, "checkpoint.local": folder / "local"}
    flags |= {"checkpoint.local_every": 3, "mesh.fsdp": 4, "evals": "{}"}
    given = [f"--config.{flag}={value}" for flag, value in flags.items()]
    return test_processes.start(folder, "run", *given, processes=2)


def whole(folder):
    """Steps whose local checkpoint both processes have finished."""
    found = [path.parent.parent.name for path in folder.glob("local/*/*/*/manifest.json")]
    return sorted(int(step) for step in set(found) if found.count(step) == 2)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a job of two processes, which have been killed, and its newest local step."""
    folder = tmp_path_factory.mktemp("tiers")
    runs.write_config(folder)
    both = start(folder)
    until = time.monotonic() + 120
    while max(whole(folder), default=0) < 12:
        assert time.monotonic() < until
        assert all(process.poll() is None for process in both)
        time.sleep(0.02)
    for process in both:
        process.kill()
        process.communicate()
    for name in ("run", "local"):
        shutil.copytree(folder / name, folder / "kept" / name)
    return folder, whole(folder)[-1]


def resumed(folder, *lost):
    """What a killed job tells of going on without some folders, its losses, its parameters."""
    for name in ("run", "local"):
        shutil.rmtree(folder / name)
        shutil.copytree(folder / "kept" / name, folder / name)
    for path in lost:
        shutil.rmtree(path)
    told = [runs.finish(process) for process in start(folder)]
    assert list((folder / "local").iterdir()) == []  # no longer of use
    return told[0], runs.losses(folder / "run"), runs.checksums(folder / "run", STEPS)


def test_a_killed_job_goes_on_from_its_newest_whole_checkpoint_bit_for_bit(killed):
    folder, newest = killed
    told = {}
    told["all"], *as_local = resumed(folder)
    assert f"from step {newest}\n" in told["all"]
    assert "left aside" not in told["all"]
    told["replaced"], *as_persistent = resumed(folder, *folder.glob("local/*/*/1-of-2"))
    assert f"from step {newest // 10 * 10}\n" in told["replaced"]
    assert f"step {newest} is left aside: process 1 of 2 has no finished one" in told["replaced"]
    assert as_local == as_persistent
    for step, loss in runs.losses(folder / "kept" / "run").items():
        assert as_local[0][step] == loss
