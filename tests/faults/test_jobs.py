"""What happens to a job from outside: signals, damaged files, another run in its workdir."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from etils import epath

from bigmodel.train import attempts, lock
from tests import runs
from tests.faults import jobs

pytestmark = pytest.mark.faults


def launched(folder, name, *flags):
    """`bigmodel launch local` as a process."""
    return runs.start(
        *("launch", "local", "--config", folder / "config.py", "--workdir", folder / name),
        *("--hosts=2", "--devices_per_host=2", f"--config.steps={jobs.STEPS}"),
        *("--config.mesh.fsdp=4", "--config.checkpoint.every=5", *flags),
    )


def wait_for_step(process, run, step):
    while process.poll() is None and max(runs.losses(run), default=0) < step:
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_job_that_is_asked_to_stop_saves_and_goes_on_where_it_was(folder, number, status):
    name = number.name
    process = launched(folder, name)
    wait_for_step(process, folder / name, 7)
    process.send_signal(number)
    at = int(re.findall(r"at step (\d+); it is saved", runs.finish(process, status))[-1])
    assert 7 <= at < jobs.STEPS
    assert at == max(int(path.name) for path in (folder / name / "checkpoints").iterdir())
    assert "step 24/24" in runs.finish(launched(folder, name))
    jobs.assert_same(folder / name, folder / "undisturbed")


def test_the_second_ctrl_c_ends_a_job_at_once(folder):
    process = launched(folder, "twice")
    wait_for_step(process, folder / "twice", 7)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    runs.finish(process, 130)
    assert time.monotonic() - began < 10


def test_the_processes_end_with_their_supervisor(folder):
    process = launched(folder, "orphans")
    wait_for_step(process, folder / "orphans", 3)
    process.kill()
    process.communicate()
    end = time.monotonic() + 20
    while alive(folder / "orphans"):
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(workdir):
    found = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True)
    lines = [line for line in found.stdout.splitlines() if str(workdir) in line]
    return [line for line in lines if not line.startswith("Z")]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(bytes(contents))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove], ids=["torn", "bit-flipped", "missing"])
def test_a_job_leaves_a_damaged_checkpoint_aside_and_goes_back_to_the_one_before(folder, damage):
    name = damage.__name__
    shutil.copytree(folder / "undisturbed", folder / name)
    files = [path for path in (folder / name / "checkpoints" / "24").rglob("*") if path.is_file()]
    damage(max(files, key=lambda path: path.stat().st_size))
    assert jobs.run(folder, name).status == 0
    log = (folder / name / "logs" / "host_0.log").read_text()
    assert "checkpoints/24 is unsound and left aside" in log
    jobs.assert_same(folder / name, folder / "undisturbed")


def traced(run):
    """Whether the newest attempt traced its step."""
    return "compile/trace" in attempts.read(epath.Path(run))[0][-1].seconds


@pytest.mark.families  # CI runs it with those
def test_a_second_job_traces_nothing_and_a_damaged_cache_costs_time_alone(folder, monkeypatch):
    cache = folder / "cache"
    monkeypatch.setenv("BIGMODEL_CACHE", str(cache))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(cache / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    found = {}
    for name, damaged in (
        ("filled", ()),
        ("again", ()),
        ("one-lost", ("steps/1/*.step",)),
        ("refilled", ("steps/*/*", "compiled/*-cache")),
    ):
        paths = [path for pattern in damaged for path in cache.glob(pattern)]
        for path in paths:
            flip(path)
        assert bool(paths) == bool(damaged)
        assert jobs.run(folder, name).status == 0
        jobs.assert_same(folder / name, folder / "undisturbed")
        found[name] = traced(folder / name)
    assert found == {"filled": True, "again": False, "one-lost": True, "refilled": True}


def test_the_workdir_of_another_run_is_refused(folder):
    shutil.copytree(folder / "undisturbed", folder / "other")
    found = jobs.run(folder, "other", "--config.seed=7")
    assert found.status == 2
    assert "seed = 7" in found.told[0]


def test_the_workdir_of_a_live_run_is_refused(folder):
    process = launched(folder, "live", "--config.steps=100000")
    wait_for_step(process, folder / "live", 1)
    held = (folder / "live" / lock.NAME).read_text()
    found = jobs.run(folder, "live")
    process.send_signal(signal.SIGTERM)
    runs.finish(process, 143)
    assert found.status == 2
    assert "a run is live in it" in found.told[0]
    assert found.told[0].split("process ")[1].split(" ")[0] in held


def test_a_port_in_use_is_named(folder):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        process = runs.start(
            *("train", "--config", folder / "config.py", "--workdir", folder / "port"),
            BIGMODEL_COORDINATOR=f"127.0.0.1:{other.getsockname()[1]}",
            BIGMODEL_PROCESSES="2",
            BIGMODEL_PROCESS="0",
        )
        assert "cannot be used: Address already in use" in runs.finish(process, 1)
    assert not (folder / "port").exists()


@pytest.mark.parametrize(("what", "told"), [("slow", "step 8"), ("slow-disk", "the save after")])
def test_what_is_slow_is_named_while_the_others_wait(folder, what, told):
    found = jobs.run(folder, what, "--config.watch.silent_seconds=3", what=what, seconds=12)
    assert found.status == 0
    assert found.told == []  # and nothing was started again
    log = (folder / what / "logs" / "host_0.log").read_text()
    assert re.search(rf"{told} .*takes .* a step usually", log)
    jobs.assert_same(folder / what, folder / "undisturbed")


def test_a_python_that_is_started_alone_says_so():
    """What a person sees who starts the command on one worker of a pod."""
    code = (
        "from bigmodel.train import processes, rollcall; rollcall.TELL_SECONDS = 1.0;"
        "processes.join()"
    )
    variables = {
        "TPU_WORKER_HOSTNAMES": "",
        "BIGMODEL_COORDINATOR": f"127.0.0.1:{free_port()}",
        "BIGMODEL_PROCESSES": "4",
        "BIGMODEL_MEET_SECONDS": "3",
        "BIGMODEL_PROCESS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env={**jobs.environment(), **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr.count("of 4 processes 3 did not come") == 2  # on the way, and in the end


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
