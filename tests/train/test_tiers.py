"""A killed job goes on from its hosts' own checkpoints, or, where one is gone, from the workdir."""

import shutil
import time

import pytest

from tests import runs
from tests.train import test_processes

STEPS = 30

pytestmark = pytest.mark.faults  # for their time


def start(folder):
    flags = {"steps": STEPS, "checkpoint.every": 10, "checkpoint.local": folder / "local"}
    flags |= {"checkpoint.local_every": 3, "mesh.fsdp": 4, "evals": "{}"}
    given = [f"--config.{flag}={value}" for flag, value in flags.items()]
    return test_processes.start(folder, "run", *given, processes=2)


def newest(folder, finished, by=1):
    """The last step of which so many processes have finished what they write."""
    found = [int(path.parts[-1 - by]) for path in folder.glob(f"{finished}/manifest.json")]
    return max((step for step in set(found) if found.count(step) == by), default=0)


def local(folder):
    return newest(folder, "local/*/*/*", by=2)


def persistent(folder):
    return newest(folder, "run/checkpoints/*")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a job of two processes, which have been killed."""
    folder = tmp_path_factory.mktemp("tiers")
    runs.write_config(folder)
    both = start(folder)
    until = time.monotonic() + 120
    while not 10 <= persistent(folder) < local(folder):
        assert time.monotonic() < until
        assert all(process.poll() is None for process in both)
        time.sleep(0.02)
    for process in both:
        process.kill()
        process.communicate()
    for name in ("run", "local"):
        shutil.copytree(folder / name, folder / "kept" / name)
    return folder


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
    before = killed / "kept"
    told, *as_local = resumed(killed)
    assert f"from step {local(before)}\n" in told
    assert "left aside" not in told
    replaced = [path.relative_to(before) for path in before.glob("local/*/*/1-of-2")]
    told, *as_persistent = resumed(killed, *(killed / path for path in replaced))
    assert f"from step {persistent(before)}\n" in told
    assert f"step {local(before)} is left aside: process 1 of 2 has no finished one" in told
    assert as_local == as_persistent
    for step, loss in runs.losses(before / "run").items():
        assert as_local[0][step] == loss
