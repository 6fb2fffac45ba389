"""Laws of a batch script: what it asks for, and what it makes of the tasks' end.

The script is run here by bash with commands that stand in for srun and scontrol;
test_real_slurm.py runs it under Slurm itself.
"""

import shlex
import subprocess
import time

import pytest

from bigmodel import config, costs
from bigmodel.launch import slurm
from tests.launch import jobs, tools

DEADLINE_SECONDS = 20


def directives(text):
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]


def test_a_host_of_gpus_runs_a_task_a_gpu():
    given = dict(partition="big", account="us", time_limit="12:00:00", options=("--qos=high",))
    found = directives(slurm.script(jobs.make("gpu:h200:16x8", **given), jobs.SNAPSHOT))
    for wanted in (
        "--job-name=run",
        "--nodes=16",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--partition=big",
        "--account=us",
        "--time=12:00:00",
        "--signal=TERM@120",
        "--requeue",
        "--open-mode=append",
        "--output=/shared/launch/slurm-%j.log",
        "--qos=high",
    ):
        assert wanted in found


def test_gpus_of_a_kind_that_no_table_has_run_too():
    where = costs.Topology("4x2 GPUs", "gpu", "", (4, 2))
    found = directives(slurm.script(jobs.make("cpu:1", topology=where), jobs.SNAPSHOT))
    assert {"--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2"} <= set(found)


def test_simulated_devices_are_a_task_a_host():
    text = slurm.script(jobs.make("cpu:2", 3), jobs.SNAPSHOT)
    assert {"--nodes=3", "--ntasks-per-node=1"} <= set(directives(text))
    assert "gpus" not in "".join(directives(text))
    assert "export XLA_FLAGS=--xla_force_host_platform_device_count=2" in text
    assert "export JAX_PLATFORMS=cpu" in text


def test_the_command_runs_the_snapshot_and_no_work_tree():
    job = jobs.make("cpu:2", overrides=("data.source=text:/my data/*.txt", "steps=9"))
    text = slurm.script(job, jobs.SNAPSHOT)
    code = f"/shared/launch/code-{jobs.SNAPSHOT.hash[:12]}"
    line = next(line for line in text.splitlines() if line.startswith("srun"))
    words = shlex.split(line)
    assert words[words.index("-P") :] == [
        "-P",
        "-m",
        "bigmodel",
        "train",
        "--config",
        f"{code}/configs/llama.py:tiny",
        "--workdir",
        "gs://bucket/run",
        "--config.data.source=text:/my data/*.txt",
        "--config.steps=9",
        "&",
    ]
    assert f"export PYTHONPATH={code}" in text


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("v5e:4x4", {}, "launch gke and launch tpu-vm"),
        ("gpu:h100:2x8", dict(options=("qos=high",)), "no option such as"),
        ("gpu:h100:2x8", dict(options=("--qos=a\n#SBATCH --nodes=9\nrm",)), "no option"),
        ("gpu:h100:2x8", dict(time_limit="soon"), "no time of Slurm"),
        ("gpu:h100:2x8", dict(time_limit="3"), "twice that is the least"),
        ("gpu:h100:2x8", dict(grace_seconds=5), "60 seconds or more"),
        ("gpu:h100:2x8", dict(environment=("A B=1",)), "is not NAME=VALUE"),
        ("gpu:h100:2x8", dict(name="My Run"), "small letters"),
        ("gpu:h100:2x8", dict(spot=True, reserved=True), "one or the other"),
    ],
)
def test_what_cannot_run_is_refused(name, fields, said):
    with pytest.raises(config.InputError, match=said):
        slurm.script(jobs.make(name, **fields), jobs.SNAPSHOT)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 90.5), ("2:30:00", 150), ("1-12", 2160), ("1-12:30", 2190), ("", None)],
)
def test_a_time_limit_reads_as_sbatch_reads_it(text, minutes):
    assert slurm.limit_minutes(text) == minutes


# What becomes of the tasks' end


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Starts the script with an srun that runs what it is given; the process and the tools."""
    stand_ins = tools.Tools(tmp_path, monkeypatch)
    stand_ins.put("scontrol")
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def start(srun):
        stand_ins.put("srun", srun)
        job = jobs.make("cpu:2", folder=str(tmp_path), restarts=2)
        (tmp_path / "job").write_text(slurm.script(job, jobs.SNAPSHOT))
        return subprocess.Popen(["bash", tmp_path / "job"], stdout=subprocess.PIPE, text=True)

    return start, stand_ins


def ended(process):
    process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode


def requeues(stand_ins):
    return [call for call in stand_ins.calls if call == "scontrol requeue 7"]


@pytest.mark.parametrize(
    ("status", "again"), [(0, 0), (2, 0), (130, 0), (143, 1), (1, 1), (137, 1)]
)
def test_what_was_preempted_or_failed_is_requeued_and_what_is_done_or_refused_is_not(
    ran, status, again
):
    start, stand_ins = ran
    assert ended(start(f"exit {status}")) == status
    assert len(requeues(stand_ins)) == again


def test_failures_are_counted_and_preemptions_are_not(ran):
    start, stand_ins = ran
    for status in (1, 143, 1, 143, 143):
        assert ended(start(f"exit {status}")) == status
    assert len(requeues(stand_ins)) == 5
    ended(start("exit 1"))
    assert len(requeues(stand_ins)) == 5  # two restarts were allowed


def test_a_shell_that_is_told_to_end_waits_for_the_tasks_and_requeues_nothing(ran):
    start, stand_ins = ran
    process = start("trap '' TERM; sleep 1; exit 143")
    until = time.monotonic() + DEADLINE_SECONDS
    while not stand_ins.calls and time.monotonic() < until:
        time.sleep(0.02)
    for _ in range(3):
        process.terminate()
        time.sleep(0.05)
    assert ended(process) == 143
    assert requeues(stand_ins) == []
