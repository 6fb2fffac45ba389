"""Where the wall time of a run goes: a ledger of this attempt, with a record in the workdir."""

import bisect
import collections
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from bigmodel import compat
from bigmodel.train import attempts

IMPORTED = time.time()
WRITE_SECONDS = 20.0  # between two writings of the record: what a kill may leave untold
TELL_SECONDS = 10.0  # between two rows of metrics that have these figures
SLOW, WINDOW, KNOWN = 4.0, 64, 8  # slow: over 4 times the median of 64 steps, once 8 are known
MARKS = 256


class Ledger:
    """Where the time of this attempt goes. Each moment counts once, for the innermost open span.

    An attempt is one process from its start to its end; among several processes process 0 keeps
    the record. Spans are of the thread that made the ledger: what other threads do beside it costs
    what that thread waits for. Kinds are those of `attempts.KINDS`; "start/data" is a part of one.

    Attributes:
        began: when the attempt began, in seconds of `time.time`.
        seconds: by kind, of all spans that have ended.
    """

    def __init__(self, spent: float = 0.0):
        """
        Args:
            spent: seconds that went before, such as imports: see `process_age`.
        """
        self.began = time.time() - spent
        self.seconds = collections.defaultdict[str, float](float, {"start/imports": spent})
        self.open = ["start"]
        self.clock = time.perf_counter()
        self.lock = threading.Lock()
        self.first = self.last = 0  # step that the attempt goes on from, and the last one done
        self.marks: list[tuple[int, float]] = []  # (step, seconds of steps until its end)
        self.stride = 1
        self.usual = Usual()
        self.counted = self.waited = 0.0  # of "steps", and of waiting, as of the last step
        self.to_first: dict[str, float] = {}
        self.ended = ""
        self.earlier: list[attempts.Record] = []
        self.told = float("-inf")
        self.writing: Writing | None = None

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """Within it time is of this kind, or of that of a span inside."""
        self._switch()
        self.open.append(kind)
        try:
            yield
        finally:
            self._switch()
            self.open.pop()

    def phase(self, kind: str) -> None:
        """From here on time outside of all spans is of this kind."""
        self._switch()
        self.open[0] = kind

    def keep(self, folder: epath.Path, process: int) -> None:
        """From here on process 0 writes the record into the workdir, on a thread."""
        if process == 0:
            self.earlier = attempts.read(folder)[0]
            name = f"{int(self.began * 1000):014d}-{os.getpid()}.json"
            self.writing = Writing(folder / attempts.FOLDER / name, self.record)

    @contextlib.contextmanager
    def steps(self, first: int) -> Iterator[None]:
        """Around the loop over steps, which goes on from step `first`."""
        self.phase("other")
        if not self.marks:  # a run that has gone back comes here again: those steps were lost
            self.first = self.last = first
            self.marks = [(first, 0.0)]
        with self.span("steps"):
            yield

    def step(self, done: int, waited_seconds: float) -> None:
        """A step has been run.

        Args:
            done: its number; one that was done before is done again: that time was lost.
            waited_seconds: for data, in all.
        """
        self._switch()
        waited, self.waited = waited_seconds - self.waited, waited_seconds
        own = self.seconds["steps"] - self.counted - waited
        with self.lock:
            # What the first step waits for is the pipeline's start.
            self._move(waited, "stalls/data" if self.to_first else "start/data")
            self._move(self.usual.excess(own), "stalls/slow")
            if done <= self.last:
                self._move(self._undone(done - 1), "lost")
            self.counted, self.last = self.seconds["steps"], done
            if done % self.stride == 0:
                self.marks.append((done, self.counted))
            if len(self.marks) > MARKS:
                self.marks, self.stride = self.marks[::2], 2 * self.stride
        if not self.to_first:
            self.to_first = dict(self.seconds)

    def figures(self, *, last: bool) -> dict[str, float]:
        """Names and values for the metrics, of all attempts; {}: they were told a moment ago.

        Args:
            last: whether nobody will ask again: they are told whatever was told before.
        """
        now = time.monotonic()
        if self.writing is None or (now - self.told < TELL_SECONDS and not last):
            return {}
        self.told = now
        return attempts.figures(attempts.account([*self.earlier, self.record()]))

    def record(self) -> attempts.Record:
        """All that is known now, as the workdir keeps it. Any thread may ask."""
        with self.lock:
            seconds = dict(self.seconds)
            kind = self.open[-1]
            seconds[kind] = seconds.get(kind, 0.0) + time.perf_counter() - self.clock
            marks = [*self.marks, (self.last, self.counted)] if self.marks else []
            if len(marks) > 1 and marks[-2][0] == self.last:
                del marks[-1]
            return attempts.Record(
                began=self.began,
                seen=time.time(),
                seconds={kind: round(value, 6) for kind, value in seconds.items()},
                first=self.first,
                last=self.last,
                marks=[(step, round(value, 6)) for step, value in marks],
                to_first=self.to_first,
                ended=self.ended,
                host=socket.gethostname(),
            )

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        self.ended = raised.__name__ if raised else "finished"
        if self.writing:
            self.writing.close()

    def _switch(self) -> None:
        with self.lock:
            now = time.perf_counter()
            self.seconds[self.open[-1]] += now - self.clock
            self.clock = now

    def _move(self, seconds: float, kind: str) -> None:
        """Time of steps that turned out to be of another kind."""
        if seconds > 0:
            self.seconds["steps"] -= seconds
            self.seconds[kind] += seconds

    def _undone(self, step: int) -> float:
        """Seconds of the steps after `step`, whose marks go."""
        lost = attempts.after(step, [*self.marks, (self.last, self.counted)])
        self.marks = [mark for mark in self.marks if mark[0] <= step]
        return lost


class Usual:
    """The median time of the last steps, and what a slow one is beyond it."""

    def __init__(self) -> None:
        self.recent: collections.deque[float] = collections.deque()
        self.ordered: list[float] = []

    def excess(self, seconds: float) -> float:
        """Seconds of a step beyond the usual, 0 unless it took several times as long."""
        usual = self.ordered[len(self.ordered) // 2] if len(self.ordered) >= KNOWN else seconds
        self.recent.append(seconds)
        bisect.insort(self.ordered, seconds)
        if len(self.recent) > WINDOW:
            del self.ordered[bisect.bisect_left(self.ordered, self.recent.popleft())]
        return seconds - usual if seconds > SLOW * usual else 0.0


class Writing:
    """A record on its way into a file, whole and anew each time, on a thread: nobody waits."""

    def __init__(self, path: epath.Path, record: Any):
        self.path, self.record = path, record
        self.closed, self.failed = threading.Event(), False
        self.thread = threading.Thread(target=self._work, daemon=True, name="goodput")
        self.thread.start()

    def _work(self) -> None:
        self._write()
        while not self.closed.wait(WRITE_SECONDS):
            self._write()

    def _write(self) -> None:
        try:
            attempts.write(self.path, self.record())
        except OSError as error:  # no reason to stop a run; told once
            if not self.failed:
                print(f"goodput: {self.path} could not be written: {error}", file=sys.stderr)
            self.failed = True

    def close(self) -> None:
        self.closed.set()
        self.thread.join()
        self._write()


def process_age() -> float:
    """Seconds since the kernel started this process; since this import where it does not say."""
    return time.time() - (compat.process_start() or IMPORTED)
