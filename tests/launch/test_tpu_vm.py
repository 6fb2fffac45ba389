"""Laws of TPU machines: what is asked for, in which order it is started, and how it ends.

The scripts are run here, with a command that stands in for gcloud.
"""

import subprocess
import sys
import time

import pytest

from bigmodel import config, launch
from bigmodel.launch import tpu_vm
from tests.launch import jobs, tools

DEADLINE_SECONDS = 20


@pytest.mark.parametrize(
    ("name", "slices", "wanted"),
    [
        ("v5e:4x4", 1, "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"),
        ("v6e:2x4", 1, "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e"),
        ("v5p:4x4x8", 1, "--accelerator-type=v5p-256 --runtime-version=v2-alpha-tpuv5 "),
        ("v5p:2x2x1", 1, "--accelerator-type=v5p-8 "),
        ("v5p:4x4x4", 2, "--accelerator-type=v5p-128 "),
        ("v4:2x2x2", 1, "--type=v4 --topology=2x2x2 --runtime-version=tpu-ubuntu2204-base"),
        ("v5e:4x4", 1, "--node-id=run"),
        ("v5e:4x4", 3, "--accelerator-type=v5litepod-16"),
        ("v5e:4x4", 3, "--node-count=3 --node-prefix=run"),
    ],
)
def test_the_machines_are_those_of_the_topology(name, slices, wanted):
    assert wanted in tpu_vm.created(jobs.make(name, slices)) + " "


def test_how_they_are_paid_for_and_whose_they_are_is_said():
    job = jobs.make("v5e:4x4", spot=True, project="mine", service_account="a@b", runtime="new")
    for word in ("--spot", "--project=mine", "--service-account=a@b", "--runtime-version=new"):
        assert f" {word}" in tpu_vm.created(job)
    assert "--reserved" in tpu_vm.created(jobs.make("v5e:4x4", reserved=True))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("tpu7x:2x2x2", {}, "has no tpu7x"),
        ("v5p:4x4x12", {}, "nearer to a cube"),
        ("gpu:h100:2x8", {}, "launch slurm and launch gke"),
        ("v5e:4x4", dict(zone=""), "--zone"),
        ("v5e:4x4", dict(workdir="/home/me/run"), "do not share"),
    ],
)
def test_what_cannot_run_is_refused(name, fields, said):
    with pytest.raises(config.InputError, match=said):
        tpu_vm.files(jobs.make(name, **fields), jobs.SNAPSHOT)


def test_machines_are_awaited_then_given_the_code_then_all_started(tmp_path, monkeypatch):
    stand_ins = tools.Tools(tmp_path, monkeypatch)
    stand_ins.put(
        "gcloud", "case $* in *describe*--format*) echo ACTIVE;; *describe*) exit 1;; esac"
    )
    job = jobs.make("v5e:4x4", 2, folder=str(tmp_path))
    (tmp_path / "start.sh").write_text(tpu_vm.script(job, jobs.SNAPSHOT))
    subprocess.run(tpu_vm.start(job), check=True, timeout=DEADLINE_SECONDS)
    verbs = [
        "queued-resources describe run",
        "queued-resources create run",
        "queued-resources describe run",
        "tpu-vm ssh run-0 --worker=all",
        f"tpu-vm scp {jobs.SNAPSHOT.name} worker.sh run-0:",
        "tpu-vm ssh run-1 --worker=all",
        f"tpu-vm scp {jobs.SNAPSHOT.name} worker.sh run-1:",
        "tpu-vm ssh run-0 --worker=all",
        "tpu-vm ssh run-1 --worker=all",
    ]
    assert len(stand_ins.calls) == len(verbs)
    for call, verb in zip(stand_ins.calls, verbs, strict=True):
        assert call.startswith(f"gcloud compute tpus {verb}")


def test_machines_that_will_not_come_are_told(tmp_path, monkeypatch):
    tools.Tools(tmp_path, monkeypatch).put("gcloud", "echo FAILED")
    job = jobs.make("v5e:4x4", folder=str(tmp_path))
    (tmp_path / "start.sh").write_text(tpu_vm.script(job, jobs.SNAPSHOT))
    done = subprocess.run(tpu_vm.start(job), capture_output=True, text=True)
    assert done.returncode == 1
    assert "run is FAILED" in done.stderr


# What a machine runs


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine's folder with the code and a python that does as it is told."""
    home = tmp_path / "home"
    monkeypatch.setattr(tpu_vm, "HOME", str(home))
    monkeypatch.setattr(tpu_vm, "WORK", tpu_vm.WORK.replace("sleep 10", "sleep 0.1"))
    (tmp_path / "bigmodel").mkdir()
    snapshot = launch.pack("configs/gpt.py", tmp_path)
    home.mkdir()
    (home / snapshot.name).write_bytes(snapshot.content)
    stand_ins = tools.Tools(tmp_path, monkeypatch)

    def start(answer, **fields):
        stand_ins.put("python3", answer)
        job = jobs.make("v5e:4x4", **{"restarts": 2, **fields})
        (home / "worker.sh").write_text(tpu_vm.worker(job, snapshot))
        return subprocess.Popen(["bash", home / "worker.sh"], stdout=subprocess.PIPE, text=True)

    return start, stand_ins, home


@pytest.mark.parametrize(("status", "starts"), [(0, 1), (2, 1), (130, 1), (1, 3)])
def test_a_machine_starts_again_what_failed_up_to_the_limit(machine, status, starts):
    start, stand_ins, _ = machine
    process = start(f"exit {status}")
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == status
    assert len(stand_ins.calls) == starts
    assert "/configs/llama.py:tiny" in stand_ins.calls[0]


def test_a_second_start_beside_one_that_runs_starts_nothing_and_stop_saves(machine):
    start, stand_ins, home = machine
    code = "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)"
    process = start(f"exec {sys.executable} -c '{code}'", grace_seconds=60)
    until = time.monotonic() + DEADLINE_SECONDS
    while not (home / "pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    second = subprocess.run(["bash", home / "worker.sh"], capture_output=True, text=True)
    assert "it runs already" in second.stdout
    time.sleep(0.5)  # for Python to set its handler
    subprocess.run(["bash", home / "worker.sh", "stop"], timeout=DEADLINE_SECONDS, check=True)
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 143
    assert len(stand_ins.calls) == 1


def test_code_that_is_not_what_its_name_says_does_not_run(machine):
    start, stand_ins, home = machine
    (path,) = home.glob("*.tar.gz")
    path.write_bytes(b"other")
    process = start("exit 0")
    process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert stand_ins.calls == []
