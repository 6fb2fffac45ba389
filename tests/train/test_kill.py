"""Runs that are asked to stop: SIGTERM and Ctrl-C change nothing (SIGKILL: tests/faults)."""

import signal
import time

import pytest

from tests import runs

STEPS = 60
ARGUMENTS = (f"--config.steps={STEPS}", "--config.checkpoint.every=5")


def arguments(folder, name):
    return ("train", "--config", folder / "config.py", "--workdir", folder / name, *ARGUMENTS)


def wait_for_step(process, run, step):
    """Until a run has written the metrics of a step, or has ended."""
    until = time.monotonic() + 120
    while process.poll() is None and max(runs.losses(run), default=0) < step:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    runs.write_config(folder)
    printed = runs.finish(runs.start(*arguments(folder, "run")))
    assert "\x1b" not in printed  # plain lines in a pipe
    assert "\r" not in printed
    return folder


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.families)],
)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(undisturbed, number, status):
    run = undisturbed / number.name
    process = runs.start(*arguments(undisturbed, number.name))
    wait_for_step(process, run, 7)
    process.send_signal(number)
    told = runs.finish(process, status)
    assert "stopped by" in told
    assert "Traceback" not in told
    assert len(list((run / "checkpoints").iterdir())) >= 1
    runs.finish(runs.start(*arguments(undisturbed, number.name)))
    assert runs.losses(run) == runs.losses(undisturbed / "run")


@pytest.mark.parametrize(
    ("number", "devices", "status"),
    [(signal.SIGINT, 1, 130), (signal.SIGTERM, 2, -signal.SIGTERM)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_while_data_is_prepared_ends_the_run_at_once(tmp_path, number, devices, status):
    started = tmp_path / "started"
    runs.write_config(tmp_path, runs.SLOW.replace("STARTED", str(started)))
    process = runs.start(*arguments(tmp_path, "run"), devices=devices)
    runs.wait_for(started, process)
    process.send_signal(number)
    assert "Traceback" not in runs.finish(process, status)
