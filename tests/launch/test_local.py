"""The supervisor's verdicts: the first cause of an end, not what followed from it."""

import signal

import pytest

from bigmodel.launch import local, statuses

KILLED, ABORTED, SEGV = -signal.SIGKILL, -signal.SIGABRT, -signal.SIGSEGV
LOST, ASKED = statuses.OF_OTHERS, statuses.TERMINATED
SAID = "step 1\nbigmodel: the job ends: process 1 (b) is silent for 31 s\n  File x.py, line 3\n"


@pytest.mark.parametrize(
    ("order", "tails", "status", "words"),
    [
        ([(0, 0), (1, 0)], ["", ""], 0, ""),
        ([(0, ABORTED), (1, KILLED)], ["", ""], 1, "host 1 was ended by SIGKILL"),
        ([(1, ABORTED), (0, SEGV)], ["", ""], 1, "host 0 was ended by SIGSEGV"),
        (
            [(0, statuses.OF_OTHERS), (1, 1)],
            [SAID, "E: x\nbigmodel: broken"],
            1,
            "1 failed: broken",
        ),
        (
            [(0, statuses.OF_OTHERS), (1, statuses.OF_OTHERS)],
            [SAID, ""],
            1,
            "process 1 (b) is silent",
        ),
        ([(1, 1), (0, LOST)], [SAID, "E: no roo"], 1, "host 1 failed: process 1 (b) is silent"),
        ([(1, 2), (0, 2)], ["bigmodel: a is 3", "bigmodel: a is 3"], 2, "a is 3"),
        (
            [(1, 143), (0, 143)],
            ["", "bigmodel: stopped by SIGTERM"],
            143,
            "host 1 was asked to stop",
        ),
        ([(0, 143), (1, KILLED)], ["", ""], 1, "host 1 was ended by SIGKILL"),
        ([(0, 1)], ["Traceback\nValueError: x"], 1, "host 0 failed: ValueError: x"),
        ([(0, 1)], ["--- start 1, host 0 of 1"], 1, "host 0 failed: status 1"),
    ],
)
def test_the_first_cause_is_told(order, tails, status, words):
    found = local.judge(order, tails)
    assert found.status == status
    assert words in found.cause


def supervised(tmp_path, script, **options):
    told = []
    command = ["/bin/sh", "-c", script]
    supervisor = local.Supervisor(
        command, hosts=2, devices=1, logs=tmp_path / "logs", show=told.append, **options
    )
    return supervisor, told


def test_each_host_has_its_number_and_its_log(tmp_path, capfd):
    supervisor, told = supervised(tmp_path, "echo $BIGMODEL_PROCESS of $BIGMODEL_PROCESSES")
    assert supervisor.run() == 0
    assert told == []
    for host in (0, 1):
        assert f"{host} of 2" in (tmp_path / "logs" / f"host_{host}.log").read_text()
    assert capfd.readouterr().out == "0 of 2\n"


def test_a_job_is_given_up_after_its_restarts(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "BACK_OFF_SECONDS", (0.0, 0.0))
    supervisor, told = supervised(tmp_path, "echo bigmodel: no wheel >&2; exit 1", restarts=2)
    assert supervisor.run() == 1
    assert sum("no wheel" in line for line in told) == 3
    assert "giving up" in told[-1]


def test_progress_between_two_failures_starts_the_count_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "BACK_OFF_SECONDS", (0.0, 0.0))
    script = f"echo x >> {tmp_path}/seen; test $(wc -l < {tmp_path}/seen) -gt 9"
    lines = lambda: (tmp_path / "seen").read_text() if (tmp_path / "seen").exists() else ""  # noqa: E731
    supervisor, told = supervised(tmp_path, script, restarts=1, progress=lines)
    assert supervisor.run() == 0
    assert len(told) >= 4


def test_a_checkpoint_of_any_tier_is_progress(tmp_path):
    saved, own = tmp_path / "checkpoints", tmp_path / "own"
    assert local.newest(saved, str(own)) == -1
    for folder in (saved / "4", saved / "8.unfinished", own / "run" / "6"):
        folder.mkdir(parents=True)
    assert (local.newest(saved), local.newest(saved, str(own))) == (4, 6)


def test_a_refused_input_is_told_once_and_not_tried_again(tmp_path):
    supervisor, told = supervised(tmp_path, "echo bigmodel: steps is 0 >&2; exit 2")
    assert supervisor.run() == 2
    assert told == ["launch: steps is 0"]


def test_a_host_that_does_not_end_with_the_others_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "HURT_SECONDS", 0.2)
    script = 'test $BIGMODEL_PROCESS = 0 && exec sleep 100; echo "bigmodel: gone" >&2; exit 1'
    supervisor, told = supervised(tmp_path, script, restarts=0)
    assert supervisor.run() == 1
    assert told[0] == "launch: host 1 failed: gone"
