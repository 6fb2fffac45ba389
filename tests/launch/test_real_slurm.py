"""What `bigmodel launch slurm` submits, under Slurm itself: preempted, killed, and ended whole.

`make test-slurm` runs it: two nodes of this machine, two simulated devices each.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.launch import slurm_cluster
from tests.launch.slurm_cluster import facts, wait

pytestmark = pytest.mark.slurm

STEPS, EVERY = 400, 20
LAUNCH = (
    "--config=configs/llama.py:tiny --topology=cpu:2 --slices=2 --restarts=2 --grace=60 "
    f"--config.steps={STEPS} --config.checkpoint.every={EVERY} --config.mesh.data=-1 "
    "--config.log.every=10"
).split()
SECONDS = 600


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")):
        yield


def bigmodel(*words):
    command = [sys.executable, "-m", "bigmodel", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


def launched(workdir):
    done = bigmodel("launch", "slurm", f"--workdir={workdir}", *LAUNCH)
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "launch/launch.json").read_text())["id"]


def log(workdir, job):
    path = workdir / f"launch/slurm-{job}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def rows(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def reached(workdir, step):
    return lambda: any(row["step"] >= step for row in rows(workdir))


def ended(workdir, job, state):
    said = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"}
    wait(lambda: facts(job).get("JobState") in said, SECONDS, f"job {job}")
    assert facts(job)["JobState"] == state, log(workdir, job)
    return facts(job)


def restarted(job, times):
    return lambda: facts(job).get("Restarts") == str(times) and facts(job)["JobState"] == "RUNNING"


def task(workdir, rank):
    """The process id of a task of a job."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = str(workdir).encode() in words and b"srun" not in words[0]
        if ours and f"SLURM_PROCID={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no task {rank} of {workdir}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    job = launched(workdir)
    assert ended(workdir, job, "COMPLETED")["Restarts"] == "0"
    text = log(workdir, job)
    assert "the tasks ended with status 0 (start 1, failures 0 of 2 allowed)" in text
    return rows(workdir)


def last(found):
    return {name: value for row in found if row["step"] == STEPS for name, value in row.items()}


def test_a_run_that_is_requeued_and_killed_ends_as_the_undisturbed_one(undisturbed, tmp_path):
    job = launched(tmp_path)
    wait(reached(tmp_path, 50), SECONDS, "step 50")
    # An administrator, or a job that goes before: tasks and shell are told, and Slurm requeues.
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait(restarted(job, 1), SECONDS, "the first restart")
    assert "ended with status 143 (start 1, failures 0 of 2 allowed)" in log(tmp_path, job)
    stopped = max(row["step"] for row in rows(tmp_path))

    wait(reached(tmp_path, stopped + 50), SECONDS, "50 steps more")
    os.kill(task(tmp_path, 1), signal.SIGKILL)  # Slurm alone would not start it again
    wait(restarted(job, 2), SECONDS, "the second restart")
    assert "failures 1 of 2 allowed" in log(tmp_path, job)

    assert ended(tmp_path, job, "COMPLETED")["Restarts"] == "2"
    steps = [row["step"] for row in rows(tmp_path) if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert last(rows(tmp_path))["train/loss"] == last(undisturbed)["train/loss"]


def test_the_time_limit_is_told_to_the_tasks_and_the_run_goes_on_in_a_new_start(tmp_path):
    done = bigmodel("launch", "slurm", f"--workdir={tmp_path}", *LAUNCH, "--time=2",
                    "--config.steps=1000000")  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = json.loads((tmp_path / "launch/launch.json").read_text())["id"]
    wait(lambda: facts(job).get("Restarts") == "1", SECONDS, "the restart")
    assert "requeued; the run goes on from its last checkpoint" in log(tmp_path, job)
    assert "SIGTERM" in log(tmp_path, job)
    wait(lambda: facts(job)["JobState"] == "RUNNING", SECONDS, "the second start")

    assert bigmodel("launch", "status", f"--workdir={tmp_path}").stdout.count("RUNNING") == 1
    # Stopped by hand it stays so, whatever it is that the tasks end with.
    wait(lambda: "from step" in log(tmp_path, job), SECONDS, "the resumed run")
    assert bigmodel("launch", "stop", f"--workdir={tmp_path}").returncode == 0
    saved = "status 143 (start 2, failures 0 of 2 allowed)"
    wait(lambda: saved in log(tmp_path, job), SECONDS, "the last save")
    assert log(tmp_path, job).count("requeued;") == 1
    assert ended(tmp_path, job, "CANCELLED")["Restarts"] == "1"


def test_a_refused_config_ends_the_job_at_once(tmp_path):
    done = bigmodel("launch", "slurm", f"--workdir={tmp_path}", *LAUNCH, "--config.batch=3")
    assert done.returncode == 0, done.stderr
    job = json.loads((tmp_path / "launch/launch.json").read_text())["id"]
    found = ended(tmp_path, job, "FAILED")
    assert (found["Restarts"], found["ExitCode"]) == ("0", "2:0")
