"""Who is silent, stuck or has failed is named; who was frozen itself accuses nobody."""

import time

import jax
import pytest

from bigmodel.train import heartbeat


class Table:
    """jax's table of texts, in this process."""

    def __init__(self):
        self.texts = {}

    def key_value_set(self, key, text, allow_overwrite=False):
        self.texts[key] = text

    def key_value_delete(self, key):
        self.texts.pop(key, None)

    def key_value_dir_get(self, place):
        return [(key, text) for key, text in self.texts.items() if key.startswith(place)]


@pytest.fixture
def heart():
    made = heartbeat.Heartbeat(every=0.01, silent=0.2, stalled=0.0, end=lambda status: None)
    made.client = Table()
    made.at("step", 5)
    return made


def beat(heart, number, count, phase="step", step=5, waited=0.0):
    heart.client.texts[f"{heartbeat.BEATS}{number}"] = f"{count}|{phase}|{step}|{waited}"


def judged(heart, seconds, *beating):
    """The verdict after so long, in which these processes go on to beat."""
    end, count = time.monotonic() + seconds, 1
    while time.monotonic() < end:
        count += 1
        for number in beating:
            beat(heart, number, count)
        if found := heart._judge():
            return found
        heart.answered = time.monotonic()
        time.sleep(0.01)
    return ""


def test_a_silent_process_is_named_and_where_it_was(heart):
    beat(heart, 2, 1, "evaluate", 4)
    found = judged(heart, 1.0, 0, 1)
    assert "process 2 is silent" in found
    assert "after step 4 in 'evaluate'" in found
    assert heart.client.texts[f"{heartbeat.VERDICT}/why"] == found
    assert heart._told() == found  # what the others read


def test_those_that_beat_are_left_alone(heart):
    assert judged(heart, 0.5, 0, 1, 2) == ""


def test_a_judge_that_was_frozen_itself_accuses_nobody(heart):
    judged(heart, 0.05, 0, 1)
    time.sleep(0.5)
    heart.answered = time.monotonic()  # as the other thread says, which woke before
    assert heart._judge() == ""


def test_a_store_that_is_slow_hides_no_step_without_end(capfd):
    ended, told = [], []
    slow = lambda: time.sleep(0.15) or ""  # noqa: E731
    heart = heartbeat.Heartbeat(
        every=0.02, silent=0.2, stalled=0.5, show=told.append, beaten=slow, end=ended.append
    )
    for step in range(4):
        heart.at("step", step)
    with heart:
        time.sleep(1.5)
    assert "step 4 takes" in told[0]
    assert ended


def test_a_process_that_says_that_it_failed_ends_the_job(heart):
    heart.client.texts[f"{heartbeat.FAULTS}1"] = "OSError: no wheel"
    assert judged(heart, 0.2, 0, 1) == "process 1 failed: OSError: no wheel"


def test_a_step_without_end_ends_the_job_and_says_who_is_behind(heart):
    heart.stalled = 0.1
    beat(heart, 1, 1, "save", 4)
    heart.where = heart.where._replace(since=time.monotonic() - 1)
    found = judged(heart, 0.1, 0)
    assert "step 6 takes 1 s; process 1 is in 'save' after step 4" in found


@pytest.mark.parametrize(
    ("phase", "times"), [("step", 1), ("evaluate", 10), ("save", 10), ("compile", 10), ("data", 0)]
)
def test_what_all_wait_for_has_a_limit_but_large_data(heart, phase, times):
    heart.stalled = 100.0
    heart.at(phase, 3)
    began = heart.where.since
    assert not heart._stalls(began + 99 * times)
    assert heart._stalls(began + 101 * times) == (times > 0)
    assert not heart._stalls(began + 99)


def test_a_slow_step_is_told_of_once_with_the_usual_time(capfd):
    told = []
    heart = heartbeat.Heartbeat(every=0.02, silent=0.2, stalled=0.0, show=told.append)
    for step in range(8):
        heart.at("step", step)
        time.sleep(0.01)
    with heart:
        time.sleep(0.9)
    (line,) = told
    assert line.startswith("step 8 takes 0 s, a step usually 0.01 s")
    assert "test_a_slow_step" in capfd.readouterr().err  # where this process stands


def test_usual_steps_and_long_compilations_are_not_told_of():
    told = []
    heart = heartbeat.Heartbeat(every=0.02, silent=0.2, stalled=0.0, show=told.append)
    heart.at("compile")
    with heart:
        time.sleep(0.5)
    assert told == []


def test_what_ends_the_job_ends_this_process(heart, capfd):
    ended = []
    heart.end = ended.append
    heart.beaten = lambda: "another run has begun"
    with heart:
        time.sleep(0.3)
    assert ended[0] == 75
    assert "bigmodel: the job ends: another run has begun" in capfd.readouterr().err


def test_an_error_of_another_process_waits_for_the_verdict(heart):
    gone = jax.errors.JaxRuntimeError("UNKNOWN: [Gloo] Connection closed by peer")
    heart.verdict = "process 1 is silent"
    assert heart.blame(gone) == "process 1 is silent"
    assert heart.blame(ValueError("mine")) == "process 0 failed: ValueError: mine"
    assert heart.client.texts[f"{heartbeat.FAULTS}0"] == "ValueError: mine"


def test_a_host_that_waits_for_its_data_longer_than_the_others_is_told_of(heart):
    told = []
    heart.show = told.append
    for step in (5, 15):
        for number in range(3):
            beat(heart, number, step, step=step, waited=(0.9 if number == 2 else 0.01) * step)
        heart.compare_at = 0.0
        assert heart._judge() == ""
        heart.answered = time.monotonic()
    (line,) = told
    assert "process 2 900 ms" in line
    assert "median of 3 hosts 10 ms" in line
