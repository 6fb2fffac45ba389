"""When to save and what to keep."""

import pytest

from bigmodel import checkpoint
from bigmodel.checkpoint import schedule


@pytest.mark.parametrize("step_seconds", [0.01, 1.0, 100.0])
def test_the_clock_is_met_to_within_its_patience_or_a_step(step_seconds):
    now, asked = [0.0], [0]

    def ask():
        asked[0] += 1
        return now[0]

    clock = schedule.Clock(10, now=ask)
    times = []
    for step in range(1, 400_000):
        now[0] += step_seconds
        if clock.due(step):
            times.append(now[0])
            clock.restart(step)
            if len(times) == 3:
                break
    for n, time in enumerate(times, 1):
        assert 600 * n <= time <= (600 + max(6, 2 * step_seconds)) * n
    assert asked[0] < 3 * 40


def test_a_burst_of_first_steps_does_not_put_the_clock_to_sleep():
    now = [0.0]
    clock = schedule.Clock(1, now=lambda: now[0])
    saved = []
    for step in range(1, 200):
        now[0] += 1e-6 if step < 20 else 1.0
        if clock.due(step):
            saved.append(now[0])
            clock.restart(step)
    assert min(saved) < 70


def test_steps_and_minutes_are_both_heeded(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path, every=10)
    assert [step for step in range(31) if checkpoints.due(step)] == [10, 20, 30]
    never = checkpoint.Checkpoints(tmp_path, every=0)
    assert not any(never.due(step) for step in range(100))


@pytest.mark.parametrize(
    ("newest", "best_is", "expected"), [(1, "lowest", {2, 9}), (2, "highest", {4, 7, 9})]
)
def test_kept_are_the_newest_and_the_best(newest, best_is, expected):
    scores = {2: 0.5, 4: 3.0, 7: 1.0, 9: float("nan"), 1: -9.0}
    assert schedule.kept([2, 4, 7, 9], scores, newest, best_is) == expected
