"""Compiles for TPUs that are not here up to the schedule, in a child process, and no further.

The compiler writes the scheduled program and its memory figure before it makes code, which takes
most of its time: once they are there the child is killed (../shared/PLANNING.md, "Schedule only").
"""

import dataclasses
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
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TPU = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
PROGRAM = "*after_optimizations_after_buffer_assignment.txt"
MEMORY = "*memory-usage-report.txt"
NAME = "judged"  # of the function that is compiled: a child compiles others besides

needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """What the compiler made of a case.

    Attributes:
        text: the scheduled program.
        peak_bytes: on each device, arguments, outputs and temporaries; a whole compile's
            `peak_memory_in_bytes` was 1.8 % less (fsdp8, jax 0.10.2, libtpu 0.0.52).
        seconds: from the start of the process to the schedule.
    """

    text: str
    peak_bytes: int
    seconds: float


class Compiling:
    """A case that is being compiled; to be asked for its `result` once, or closed.

    `module` is run with the case as JSON and a folder, into which it lets the compiler dump a
    program that is called `NAME`.
    """

    def __init__(self, module: str, case: dict[str, Any], timeout: float = 300.0):
        self.case, self.timeout, self.began = case, timeout, time.monotonic()
        self.home = tempfile.TemporaryDirectory(prefix="schedule-")
        self.folder = pathlib.Path(self.home.name)
        with open(self.folder / "stderr", "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(case), str(self.folder)],
                env={**os.environ, **TPU, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
                stdout=errors,
                stderr=errors,
                cwd=ROOT,
                start_new_session=True,
            )

    def close(self) -> None:
        self.end()
        self.home.cleanup()

    def end(self) -> None:
        """Kills the whole group: during a compile a process may not hear SIGTERM."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def result(self) -> Scheduled:
        """The schedule, as soon as it is there.

        Raises:
            RuntimeError: the child ended, or its time did, before there was one.
        """
        while (found := self.written()) is None:
            ended = self.process.poll() is not None
            if (ended or self.seconds > self.timeout) and (found := self.written()) is None:
                self.end()
                why = "ended" if ended else f"had no schedule after {self.timeout:.0f} s"
                errors = (self.folder / "stderr").read_text(errors="replace")
                raise RuntimeError(f"{self.case}: the compiler {why}\n{errors[-3000:]}")
            time.sleep(0.2)
        seconds = self.seconds
        self.end()
        return Scheduled(*found, seconds)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def written(self) -> tuple[str, int] | None:
        """Program and memory figure, once both are whole."""
        programs = sorted(self.folder.glob(f"*{NAME}{PROGRAM}"))
        reports = sorted(self.folder.glob(f"*{NAME}{MEMORY}"))
        if not programs or not reports:
            return None
        total = re.search(r"Total bytes: (\d+)", reports[0].read_text())
        text = programs[0].read_text()
        return (text, int(total[1])) if total and text.rstrip().endswith("}") else None
