"""One live run to a workdir: running.json says whose it is, and its count that it lives."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from bigmodel import config

NAME = "running.json"
BEAT_SECONDS = 10.0
WATCH_SECONDS = 25.0


class Lock:
    """The right to write into a workdir, of process 0 of a run.

    A run on this machine is alive if its process is. One on another shows it by counting: its
    file is watched for a while, so that no clock of another host is believed.

    A folder that was made for it is removed with it if nothing else came into it.
    """

    def __init__(self, folder: epath.Path):
        self.path = folder / NAME
        self.id = secrets.token_hex(8)
        self.count = 0
        self.written = 0.0
        self.made = False  # the folder

    def take(self, show: Callable[[str], None], seconds: float = WATCH_SECONDS) -> None:
        """Takes it.

        Args:
            show: is told that an earlier run's file is watched.
            seconds: to watch.

        Raises:
            InputError: a live run has it.
        """
        before = self.read()
        if before and is_alive(before, self.read, show, seconds):
            raise config.InputError(
                f"{self.path.parent}: a run is live in it, process {before['pid']} on "
                f"{before['host']}. Stop that one, or choose another --workdir."
            )
        self.made = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def beat(self) -> str:
        """Counts on, now and then; says who has taken the workdir meanwhile, or ""."""
        if not self.count or time.monotonic() - self.written < BEAT_SECONDS:
            return ""
        other = self.read()
        if other and other["id"] != self.id:
            where = f"process {other['pid']} on {other['host']}"
            return f"{self.path.parent}: another run has begun in it meanwhile, {where}"
        # A disk that is full or away for a moment is for the checkpoints to tell.
        with contextlib.suppress(Exception):
            self.write()
        return ""

    def release(self) -> None:
        """Gives it back, if it is still this run's."""
        if self.count and self.read().get("id") == self.id:
            self.path.unlink(missing_ok=True)
            self.count = 0
            if self.made and "://" not in str(self.path):
                with contextlib.suppress(OSError, ValueError):  # it holds something
                    self.path.parent.rmdir()

    def read(self) -> dict[str, Any]:
        try:
            return json.loads(self.path.read_text())
        except Exception:  # none, one that is being written, or a bucket that is away
            return {}

    def write(self) -> None:
        self.count += 1
        pid = os.getpid()
        about = {"id": self.id, "host": socket.gethostname(), "pid": pid, "began": began(pid)}
        about["machine"] = machine()
        self.path.write_text(json.dumps({**about, "count": self.count}) + "\n")
        self.written = time.monotonic()


def is_alive(
    before: dict[str, Any],
    read: Callable[[], dict[str, Any]],
    show: Callable[[str], None],
    seconds: float,
) -> bool:
    """Whether the run that wrote a file still runs."""
    if machine() and before["machine"] == machine():
        return began(before["pid"]) == before["began"] != ""
    show(f"a run on {before['host']} may be live in this workdir: watching it for {seconds:.0f} s")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 10))
        now = read()
        if not now:
            return False
        if (now["id"], now["count"]) != (before["id"], before["count"]):
            return True
    return False


def machine() -> str:
    """This start of this machine and its space of process numbers, or "" if that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def began(pid: int) -> str:
    """When a process of this host began, in clock ticks since the boot, or "" if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
