"""Compiles in child processes, up to the schedule, and keeps what came of it.

Nearly all of a compile for TPU or GPU is making code, after the scheduled program and its memory
are final. The compiler writes both before that; once they are there the child is killed.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bigmodel import config
from bigmodel.plan import requests
from bigmodel.plan.requests import Found, Request
from bigmodel.plan.topology import Topology

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_COMPILATION_CACHE_DIR": "",
}
# What the compiler writes of the one program that a child lets it dump.
SCHEDULED = ("*after_optimizations_after_buffer_assignment.txt", "*after_optimizations.txt")
ALLOCATIONS = "*buffer-assignment.txt"
ENTRY = re.compile(r"(?ms)^ENTRY .*^\}\s*\Z")  # the last computation of a program, to its end
LIVE = "*live-range.txt"
REPORT = "*memory-usage-report.txt"
INSTALL = {
    "tpu": (("libtpu",), "pip install 'bigmodel[plan]'"),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "pip install 'bigmodel[plan-gpu]'"),
}


class CompileError(Exception):
    """The compiler's own reason why there is no program."""


def check_installed(topology: Topology) -> None:
    """Refuses a platform whose compiler is not here, with the line that installs it."""
    modules, line = INSTALL.get(topology.platform, ((), ""))
    if modules and not any(map(importlib.util.find_spec, modules)):
        raise config.InputError(
            f"--topology={topology.name}: the compiler for it ({modules[0]}) is not installed. "
            f"Install it with: {line}"
        )


class Compiling:
    """A child process that compiles; `result` waits for it, `close` ends it."""

    def __init__(self, request: Request, timeout: float | None = None):
        check_installed(request.topology)
        self.request, self.began = request, time.monotonic()
        self.timeout = (3600.0 if request.full else 600.0) if timeout is None else timeout
        self.home = tempfile.TemporaryDirectory(prefix="bigmodel-plan-")
        self.folder = pathlib.Path(self.home.name)
        (self.folder / "request.json").write_text(request.text)
        simulated = request.topology.platform == "cpu"
        count = request.topology.devices if simulated else 1
        flags = f"--xla_force_host_platform_device_count={count}"
        path = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), *sys.path])
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bigmodel.plan.child", str(self.folder)],
                env={**os.environ, **ENVIRONMENT, "XLA_FLAGS": flags, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def close(self) -> None:
        """Kills the whole group: during a compile a process may not hear SIGTERM."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.home.cleanup()

    def ready(self) -> bool:
        """Whether there is an answer, or none will come."""
        early = not self.request.full and self.request.topology.platform != "cpu"
        return (
            self.process.poll() is not None
            or self.seconds > self.timeout
            or (early and self.scheduled())
        )

    def scheduled(self) -> bool:
        """Whether program and memory are written, and whole; the TPU's compiler writes it last."""
        if not self.read("meta") or not whole(self.text(REPORT), "Memory Space"):
            return False
        pattern = SCHEDULED[self.request.topology.platform == "gpu"]
        return bool(ENTRY.search(self.text(pattern)) and self.text(ALLOCATIONS))

    def result(self) -> Found:
        """What came of it.

        Raises:
            InputError: the config does not fit the devices.
            CompileError: the compiler's own reason.
        """
        while not self.ready():
            time.sleep(0.1)
        seconds, ended = self.seconds, self.process.poll()
        error, meta = self.read("error") or {}, self.read("meta")
        if error.get("kind") == "refused":
            raise config.InputError(error["text"])
        overfull = sentence(error["text"]) if error.get("kind") == "memory" else ""
        late = ended is None and (self.request.full or not self.scheduled())
        if meta is None or late or (error and not overfull) or (ended and not error):
            raise CompileError(self.reason(error, late))
        program = next(filter(None, map(self.text, ("program.txt", *SCHEDULED))), "")
        if not program:  # nothing to read a time from
            raise CompileError(overfull or "it wrote no program")
        return Found(
            program=program,
            allocations=self.text(ALLOCATIONS),
            live=self.text(LIVE),
            meta=meta,
            memory=self.read("memory"),
            overfull=overfull,
            refused=self.read("refused") or [],
            seconds=seconds,
        )

    def reason(self, error: dict[str, str], late: bool) -> str:
        if error:
            return sentence(error["text"])
        if late:
            return f"nothing came of it in {self.timeout:.0f} s"
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        status = self.process.poll()
        return f"the process that compiled ended with status {status}: {(lines or [''])[-1]}"

    def read(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def text(self, pattern: str) -> str:
        found = sorted(self.folder.glob(pattern))
        return found[0].read_text(errors="replace") if found else ""


def whole(text: str, mark: str) -> bool:
    return mark in text and text.endswith("\n")


def sentence(text: str) -> str:
    """The compiler's reason on one line, without where it can be looked up."""
    kept = re.split(r"See https?://|HLO module:|\n\s*at |\n==", text)[0]
    return " ".join(re.sub(r"^[A-Z_]+: (E\d+: )?", "", kept).split())[:1000]


def compile_all(
    wanted: Sequence[Request], *, workers: int = 0, cached: bool = True
) -> Iterator[tuple[int, Found | Exception]]:
    """(number, what came of it) as each is through; several at a time.

    Args:
        wanted: what to compile.
        workers: processes at a time; 0: as cores and memory allow.
        cached: whether to take and keep answers of the same request.
    """
    waiting = list(enumerate(wanted))
    running: dict[int, Compiling] = {}
    workers = workers or default_workers()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, request = waiting.pop(0)
                if cached and (kept := requests.load(request)) is not None:
                    yield number, kept
                    continue
                running[number] = Compiling(request)
            for number, one in list(running.items()):
                if not one.ready():
                    continue
                try:
                    answer: Found | Exception = one.result()
                    if cached and isinstance(answer, Found):
                        requests.save(one.request, answer)
                except (config.InputError, CompileError) as error:
                    answer = error
                running.pop(number).close()
                yield number, answer
            time.sleep(0.05)
    finally:
        for one in running.values():
            one.close()


def compile_one(request: Request, *, cached: bool = True) -> Found:
    """What the compiler makes of a request; see `Compiling.result` for what it raises."""
    for _, answer in compile_all([request], cached=cached):
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise CompileError("nothing was compiled")


MEMORY_OF_A_CHILD = 2 * 2**30  # bytes; the largest models seen took 1.5 GiB


def default_workers() -> int:
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), pages // MEMORY_OF_A_CHILD))
