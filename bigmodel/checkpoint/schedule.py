"""When to save, and which checkpoints to keep."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from bigmodel.checkpoint import agreement

SIGNS = {"lowest": -1, "highest": 1}


class Clock:
    """Says every so many minutes that it is time, at the same step on every process.

    Process 0's clock decides. It is asked at steps that all processes know, because each answer
    says how many steps to run before the next question: half of those that should be left (and
    no more than were run so far, as first steps are no measure of speed). So an hour of a
    thousand steps costs some twenty small broadcasts, and is met to within `patience` seconds.
    """

    def __init__(
        self,
        minutes: float,
        now: Callable[[], float] = time.monotonic,
        patience: float = 5.0,
    ):
        self.seconds = 60 * minutes
        self.now = now
        self.patience = patience
        self.started = now()
        self.first = -1  # the step at which it was started; not yet known
        self.ask_at = 0

    def due(self, step: int) -> bool:
        if not self.seconds:
            return False
        if self.first < 0:
            self.first, self.ask_at = step, step + 1
        if step < self.ask_at:
            return False
        wait = agreement.from_process_0(self.steps_to_wait(step), "the time to save")
        self.ask_at = step + wait
        return wait == 0

    def restart(self, step: int) -> None:
        """A checkpoint was taken at this step, for whatever reason."""
        self.started, self.first, self.ask_at = self.now(), step, step + 1

    def steps_to_wait(self, step: int) -> int:
        """0: now; n: ask again in n steps."""
        passed = self.now() - self.started
        left = self.seconds - passed
        if left <= 0:
            return 0
        steps = step - self.first
        wait = max(left / 2, min(left, self.patience)) * steps / max(passed, 1e-9)
        return max(1, min(int(wait), steps))


def kept(steps: Sequence[int], scores: Mapping[int, float], newest: int, best_is: str) -> set[int]:
    """The newest few steps and the one whose score is best (the later one of equals)."""
    keep = set(sorted(steps)[-newest:])
    scored = [step for step in steps if step in scores and not math.isnan(scores[step])]
    if scored:
        keep.add(max(scored, key=lambda step: (SIGNS[best_is] * scores[step], step)))
    return keep
