"""A job of several processes on this machine, started, watched and started again.

A stand-in for a pod: each process is a host with its own devices, and all meet over the loopback.
No jax here: what watches must not hang with what it watches.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

from bigmodel.launch import statuses

POLL_SECONDS = 0.05
HURT_SECONDS = 5.0  # after a host has failed the others have so long to say what they know
BACK_OFF_SECONDS = (1.0, 60.0)  # before the first start anew, and at most


class Ended(NamedTuple):
    """How one attempt ended.

    Attributes:
        status: of the job.
        cause: in words, with the host at fault; "" for a good end.
    """

    status: int
    cause: str


class Supervisor:
    """Starts the processes of a job, and starts them again when one has failed.

    Attributes:
        command: of every process: a list of words.
        hosts: how many processes.
        devices: simulated CPU devices of each.
        logs: a folder for host_N.log.
        restarts: starts anew without any progress between them, at most.
        grace: seconds that a process has to end after SIGTERM.
        progress: says how far the job is, for the count of restarts: any value that changes.
        show: is told what happens.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        hosts: int,
        devices: int,
        logs: pathlib.Path,
        restarts: int = 3,
        grace: float = 60.0,
        variables: Mapping[str, str] | None = None,
        progress: Callable[[], Any] = lambda: None,
        show: Callable[[str], None] = print,
    ):
        self.command, self.hosts, self.devices, self.logs = list(command), hosts, devices, logs
        self.restarts, self.grace, self.progress, self.show = restarts, grace, progress, show
        self.variables = dict(variables or {})
        self.processes: list[subprocess.Popen[bytes]] = []
        self.asked = 0  # signals that asked this supervisor to stop
        self.signal = 0

    def run(self) -> int:
        """The status of the job, once it has ended for good."""
        before = {number: signal.signal(number, self._stop) for number in STOPS}
        try:
            return self._run()
        finally:
            self._kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> int:
        attempt, since_progress, pause = 0, 0, BACK_OFF_SECONDS[0]
        seen = self.progress()
        while True:
            attempt += 1
            ended = self._attempt(attempt)
            if self.asked:
                self.show(f"launch: stopped; {ended.cause or 'the job had ended'}")
                return 0 if ended.status == 0 else 128 + self.signal
            if ended.status in (0, statuses.REFUSED):
                if ended.cause:
                    self.show(f"launch: {ended.cause}")
                return ended.status
            if (now := self.progress()) != seen:
                seen, since_progress, pause = now, 0, BACK_OFF_SECONDS[0]
            since_progress += 1
            self.show(f"launch: {ended.cause}")
            if since_progress > self.restarts:
                self.show(f"launch: {self.restarts} starts anew came no further: giving up")
                return statuses.FAILED
            self.show(f"launch: starting again in {pause:.0f} s (start {attempt + 1})")
            if self._pause(pause):
                return 128 + self.signal
            pause = min(2 * pause, BACK_OFF_SECONDS[1])

    def _attempt(self, attempt: int) -> Ended:
        """One start of all processes, until all have ended."""
        self.logs.mkdir(parents=True, exist_ok=True)
        paths = [self.logs / f"host_{number}.log" for number in range(self.hosts)]
        begun = [path.stat().st_size if path.exists() else 0 for path in paths]
        address = f"127.0.0.1:{free_port()}"
        self.processes = []
        relays = []
        for number, path in enumerate(paths):
            with path.open("ab") as log:
                log.write(f"--- start {attempt}, host {number} of {self.hosts}\n".encode())
                log.flush()
                process = self._start(number, address, log)
            self.processes.append(process)
            if number == 0:
                relays.append(relay(process, path))
        order = self._wait()
        for thread in relays:
            thread.join(5.0)
        return judge(order, [tail(path, at) for path, at in zip(paths, begun, strict=True)])

    def _start(self, number: int, address: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        count = f"--xla_force_host_platform_device_count={self.devices}"
        variables = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "BIGMODEL_MEET_SECONDS": "50",  # they start together
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {count}".strip(),
            **self.variables,
            "BIGMODEL_COORDINATOR": address,
            "BIGMODEL_PROCESSES": str(self.hosts),
            "BIGMODEL_PROCESS": str(number),
            "BIGMODEL_SUPERVISOR": str(os.getpid()),
        }
        return subprocess.Popen(
            self.command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if number == 0 else log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which passes it on
        )

    def _wait(self) -> list[tuple[int, int]]:
        """(host, status) in the order of their ends; ends all of them once one has failed."""
        order: list[tuple[int, int]] = []
        hurt, killed = 0.0, False
        asked_at, passed_on = 0.0, 0
        while len(order) < self.hosts:
            done = dict(order)
            for number, process in enumerate(self.processes):
                if number not in done and (status := process.poll()) is not None:
                    order.append((number, statuses.OF_OTHERS if killed else status))
                    if status not in (0, statuses.TERMINATED) and not hurt:
                        hurt = time.monotonic()
            now = time.monotonic()
            if self.asked > passed_on:
                passed_on, asked_at = self.asked, asked_at or now
                self._signal(signal.SIGTERM if passed_on == 1 else signal.SIGKILL)
            late = asked_at and now - asked_at > self.grace
            if not killed and (late or (hurt and now - hurt > HURT_SECONDS)):
                killed = True
                self._kill()
            time.sleep(POLL_SECONDS)
        return order

    def _stop(self, number: int, frame: Any) -> None:
        self.asked += 1
        self.signal = number

    def _pause(self, seconds: float) -> bool:
        """Waits; whether a signal came meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.asked:
            time.sleep(POLL_SECONDS)
        return bool(self.asked)

    def _signal(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)  # frozen ones end by it as well


STOPS = (signal.SIGTERM, signal.SIGINT)


def judge(order: Sequence[tuple[int, int]], tails: Sequence[str]) -> Ended:
    """What an attempt came to: the first cause, not what followed from it.

    A process that was killed says nothing; the others notice, and end with OF_OTHERS, or by
    SIGABRT, in jax, when process 0 has gone.

    Args:
        order: (host, status) as they ended; a negative status is a signal's.
        tails: what each host's log says of this attempt.
    """
    bad = [(host, status) for host, status in order if status]
    if not bad:
        return Ended(0, "")
    host, status = min(bad, key=lambda end: rank(end[1]))  # the earliest of the lowest rank
    others = [own_words(tails[other]) for other, end in bad if end == statuses.OF_OTHERS]
    # Its log may end in the middle of a word, on a full disk; the others were told.
    said = own_words(tails[host]) or next(filter(None, others), "") or last_words(tails[host])
    if status == statuses.REFUSED:
        return Ended(statuses.REFUSED, said or f"host {host} refused its input")
    if status in (statuses.TERMINATED, statuses.INTERRUPTED):
        return Ended(status, f"host {host} was asked to stop: {said}")
    if status == statuses.OF_OTHERS:
        return Ended(statuses.FAILED, said or f"host {host} lost the others")
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", as a host that runs out of memory does" if status == -signal.SIGKILL else ""
        return Ended(statuses.FAILED, f"host {host} was ended by {name}{hint}")
    return Ended(statuses.FAILED, f"host {host} failed: {said or f'status {status}'}")


def rank(status: int) -> int:
    """How likely a status is the first cause: lower is likelier."""
    if status == statuses.REFUSED:
        return 0
    if status < 0 and status != -signal.SIGABRT:
        return 1
    if status in (statuses.OF_OTHERS, -signal.SIGABRT):
        return 3
    return 4 if status in (statuses.TERMINATED, statuses.INTERRUPTED) else 2


def newest(saved: Any, local: str = "") -> int:
    """The newest step of the checkpoints in a folder, an epath, and in LOCAL/RUN/; -1: none."""
    paths = list(saved.iterdir()) if saved.exists() else []
    paths += pathlib.Path(local).expanduser().glob("*/*") if local else ()
    return max((int(path.name) for path in paths if path.name.isdigit()), default=-1)


WORDS = 600  # characters of a cause


def own_words(text: str) -> str:
    """What the process itself says of its end, or ""."""
    own = [line for line in text.splitlines() if line.startswith("bigmodel: ")]
    return own[-1].removeprefix("bigmodel: ").removeprefix("the job ends: ")[:WORDS] if own else ""


def last_words(text: str) -> str:
    """The last line of a log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:WORDS] if lines and not lines[-1].startswith("---") else ""


def tail(path: pathlib.Path, start: int) -> str:
    """What was written to a log since it had `start` bytes; the last of it, where it is much."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - 2**16))
        return file.read().decode(errors="replace")


def relay(process: subprocess.Popen[bytes], path: pathlib.Path) -> threading.Thread:
    """Shows what process 0 prints, and keeps it in its log."""

    def copy() -> None:
        with path.open("ab") as log, process.stdout as printed:  # type: ignore[union-attr]
            for line in printed:
                log.write(line)
                log.flush()
                with contextlib.suppress(BrokenPipeError):  # who reads it has left; the log stays
                    sys.stdout.write(line.decode(errors="replace"))
                    sys.stdout.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return thread


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
