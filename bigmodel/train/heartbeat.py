"""Each process says where it is; who is silent or stuck is named, and the job ends with it.

A thread of each process writes a beat into the table of jax's coordination service. Process 0 reads
them all and judges; the others read its verdict. Between processes nothing is waited for, and the
steps know nothing of it but one assignment.
"""

import contextlib
import faulthandler
import math
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import jax

from bigmodel import compat, config
from bigmodel.checkpoint import agreement
from bigmodel.launch import statuses
from bigmodel.train import beats, stragglers
from bigmodel.train.beats import At, Beat

COMPARE_SECONDS = 60.0
BEATS, FAULTS, VERDICT = "bigmodel/beats/", "bigmodel/faults/", "bigmodel/verdict"
OF_OTHERS = (  # what an error says when another process has gone
    *("Gloo", "gloo", "coordination service", "CoordinationService", "Connection closed by peer"),
    *("Connection reset", "Socket closed", "heartbeat", "preempted", "NCCL", "DCN"),
)


class Heartbeat:
    """The beats of one process, while what is within `with` runs.

    Args:
        every: seconds between beats; 0: so many that several are lost before it counts.
        silent: seconds after which a process without a beat is taken for gone.
        factor: times the usual that a step must take, and `silent` seconds, to be told of.
        stalled: seconds after which a job whose step does not end is ended, and ten times as many
            for all else that its processes wait for; 0: never.
        show: is told of what is no reason to end.
        beaten: is called each second, on a thread; what it says, if anything, ends the job.
        end: ends this process with a status.
    """

    def __init__(
        self,
        *,
        every: float = 0.0,
        silent: float = 30.0,
        stalled: float = 600.0,
        factor: float = 10.0,
        show: Callable[[str], None] = print,
        beaten: Callable[[], str] = lambda: "",
        end: Callable[[int], None] | None = None,
    ):
        self.every = every or min(5.0, silent / 6)
        self.silent, self.stalled, self.factor = silent, stalled, factor
        self.show, self.beaten, self.end = show, beaten, end or end_now
        self.where = At("start", 0, time.monotonic())
        self.durations: deque[float] = deque(maxlen=64)
        self.beats: dict[int, Beat] = {}
        self.answered = time.monotonic()  # when the service last did
        self.told_of = "", 0  # the phase and step whose slowness was told
        self.waited = 0.0
        self.compared: dict[int, Beat] = {}  # when stragglers were last looked for
        self.compare_at = time.monotonic() + COMPARE_SECONDS
        self.troubled: type[Exception] | None = None
        self.verdict = ""
        self.stop = threading.Event()
        self.judged = time.monotonic()  # when this process last looked at the beats
        self.client = compat.coordination()
        self.process = compat.place()[0]
        self.threads = [threading.Thread(target=self._watch, name="watch", daemon=True)]
        if self.client is not None:
            self.threads.append(threading.Thread(target=self._beat, name="beat", daemon=True))

    def at(self, phase: str, step: int | None = None, waited: float | None = None) -> None:
        """Says where this process is, and how many seconds it has waited for data so far.

        A step that ends is one after another of "step".
        """
        now, before = time.monotonic(), self.where
        if step is not None and phase == before.phase == "step" and step > before.step:
            self.durations.append((now - before.since) / (step - before.step))
        self.where = At(phase, before.step if step is None else step, now)
        self.waited = self.waited if waited is None else waited

    def __enter__(self) -> "Heartbeat":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(1.0)  # one may hang in a call of the service
        if self.client is not None:  # who leaves is not silent
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.client.key_value_delete(f"{BEATS}{self.process}")

    def blame(self, error: BaseException) -> str:
        """What ends the job: this error, or that of another process whose end caused it.

        Waits, if the error says that another process has gone, until it is known which.
        """
        if isinstance(error, agreement.OthersError):
            return str(error)
        refused = isinstance(error, config.InputError)
        own = str(error) if refused else f"{type(error).__name__}: {error}"
        if not is_of_others(error):
            self._say(FAULTS + str(self.process), own.splitlines()[0][:1000])
            return own if refused else f"{agreement.named([self.process])} failed: {own}"
        end = time.monotonic() + self.silent + 3 * self.every
        while not self.verdict and time.monotonic() < end:
            time.sleep(0.1)
        return self.verdict or f"another process has gone: {own.splitlines()[0]}"

    def _say(self, key: str, text: str) -> None:
        if self.client is None:
            return
        try:
            self.client.key_value_set(key, text, allow_overwrite=True)
        except jax.errors.JaxRuntimeError:
            return  # the service is gone, and with it who would read this

    def _beat(self) -> None:
        """The thread that speaks with the service; it may hang there."""
        count, me = 0, self.process
        while not self.stop.wait(0.0 if count == 0 else self.every):
            count += 1
            try:
                self.client.key_value_set(
                    f"{BEATS}{me}", beats.text(count, self.where, self.waited), allow_overwrite=True
                )
                found = self._judge() if me == 0 else self._told()
            except Exception as error:  # of the service, or of who is told: the watch goes on
                self._trouble(error)
                continue
            self.answered = time.monotonic()
            if found and not self.stop.is_set():
                self.verdict = found
                self._end(found)

    def _told(self) -> str:
        """Process 0's verdict, or that it failed itself."""
        said = dict(self.client.key_value_dir_get(VERDICT)) or self._failed()
        return next(iter(said.values()), "")

    def _failed(self) -> dict[int, str]:
        """Processes that have said so, and why."""
        found = self.client.key_value_dir_get(FAULTS)
        faults = {int(key.removeprefix(FAULTS)): text for key, text in found}
        return {n: f"{agreement.named([n])} failed: {text}" for n, text in faults.items()}

    def _judge(self) -> str:
        """Who ended or is silent, if anyone; the others are told."""
        now, before = time.monotonic(), self.judged
        self.judged = now
        if now - before > self.silent / 2:  # this process itself was frozen, or the whole job
            self.beats.clear()
        listed = {
            int(key.removeprefix(BEATS)): text for key, text in self.client.key_value_dir_get(BEATS)
        }
        self.beats = {number: beat for number, beat in self.beats.items() if number in listed}
        for number, text in listed.items():
            if number not in self.beats or self.beats[number].text != text:
                self.beats[number] = Beat(text, now)
        silent = [n for n, beat in self.beats.items() if now - beat.changed > self.silent]
        if failed := self._failed():
            found = failed[min(failed)]
        elif silent:
            found = self._silence(silent, now)
        elif self._stalls(now):
            found = f"{self._slowness(now)}; nothing came of it"
        else:
            self._compare(now)
            return ""
        self._say(f"{VERDICT}/why", found)
        return found

    def _compare(self, now: float) -> None:
        """Tells, now and then, which hosts have waited for their data longer than most."""
        if now < self.compare_at:
            return
        self.compare_at, before = now + COMPARE_SECONDS, self.compared
        self.compared = dict(self.beats)
        seconds = [
            (beat.waited - before[number].waited) / (beat.step - before[number].step)
            if number in before and beat.step > before[number].step
            else math.nan
            for number, beat in sorted(self.beats.items())
        ]
        names = [agreement.named([number]) for number in sorted(self.beats)]
        if found := stragglers.stragglers(seconds, names):
            self.show(found)

    def _silence(self, silent: list[int], now: float) -> str:
        first = min(silent, key=lambda number: self.beats[number].changed)
        beat = self.beats[first]
        return (
            f"{agreement.named(silent)} is silent for {now - beat.changed:.0f} s, last heard of "
            f"after step {beat.step} in {beat.phase!r}: its host is gone or frozen"
        )

    def _watch(self) -> None:
        """The thread that looks at this process's clocks alone."""
        last = time.monotonic()
        while not self.stop.wait(min(1.0, self.every)):
            now = time.monotonic()
            if now - last > self.silent / 2:  # frozen, or a laptop that slept: nobody's fault
                self.answered = now
                self.where = self.where._replace(since=now)
            try:
                fault = self.beaten()
            except Exception as error:  # of a bucket that is away for a moment
                self._trouble(error)
                fault = ""
            if fault:
                self._say(FAULTS + str(self.process), fault)
                self._end(fault)
            last = time.monotonic()  # whatever a slow store has taken
            phase, step, since = self.where
            if (phase, step) != self.told_of and now - since > self.limit(phase):
                self.told_of = phase, step
                self.show(self._slowness(now))
                faulthandler.dump_traceback(file=sys.stderr)
            if self.client is None and self._stalls(now):
                self._end(f"{self._slowness(now)}; nothing came of it")
            if self.client is not None and now - self.answered > self.silent + 2 * self.every:
                self._end(
                    f"{agreement.named([0])} does not answer for {now - self.answered:.0f} s: its "
                    f"host is gone or frozen"
                )

    def _trouble(self, error: Exception) -> None:
        """Told once: it may pass."""
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        if type(error) is not self.troubled and not isinstance(error, jax.errors.JaxRuntimeError):
            self.troubled = type(error)
            print(f"the watch over this run: {text}", file=sys.stderr)

    def limit(self, phase: str) -> float:
        """Seconds after which a step or a save takes far too long; nobody knows of the rest."""
        if phase not in ("step", "save"):
            return math.inf
        usual = statistics.median(self.durations) if self.durations else self.silent
        return max(self.silent, self.factor * usual)

    def _stalls(self, now: float) -> bool:
        """Whether nothing will come of where this process is; large data may take days."""
        times = {"step": 1, "start": 0, "data": 0}.get(self.where.phase, 10)
        return 0 < times * self.stalled < now - self.where.since

    def _slowness(self, now: float) -> str:
        """What takes long here, and who has not come as far as this process."""
        phase, step, since = self.where
        what = f"step {step + 1:,}" if phase == "step" else f"the {phase} after step {step:,}"
        usual = (
            f", a step usually {statistics.median(self.durations):.2g} s" if self.durations else ""
        )
        behind = []
        for number, beat in sorted(self.beats.items()):
            if beat.step < step or beat.phase != phase:
                who = agreement.named([number])
                behind.append(f"{who} is in {beat.phase!r} after step {beat.step}")
        others = f"; {'; '.join(behind[:8])}" if behind else ""
        return f"{what} takes {now - since:.0f} s{usual}{others}"

    def _end(self, why: str) -> None:
        """The end of this process, whatever its main thread waits for."""
        with contextlib.suppress(Exception):  # the disk of the log may be full
            print(f"bigmodel: the job ends: {why}", file=sys.stderr)
            faulthandler.dump_traceback(file=sys.stderr)
        if self.process == 0:
            time.sleep(2 * self.every)  # the service ends with this process: the others read first
        self.end(statuses.OF_OTHERS)


def end_now(status: int) -> None:
    """Ends this process, whatever its threads wait for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def is_of_others(error: BaseException) -> bool:
    """Whether an error says that another process has gone, or has failed."""
    if isinstance(error, agreement.OthersError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and any(w in str(error) for w in OF_OTHERS)
