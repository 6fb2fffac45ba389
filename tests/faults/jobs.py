"""Jobs of processes that something happens to, under the supervisor."""

import json
import os
import pathlib
import sys
import time
from typing import NamedTuple

from bigmodel.launch import local
from tests import quick, runs


def environment():
    """Of a process that is no child of the supervisor."""
    return {**os.environ, "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}


CHILD = pathlib.Path(__file__).with_name("child.py")
STEPS = 24


class Outcome(NamedTuple):
    """What came of a job.

    Attributes:
        status: of the job.
        told: what the supervisor said, a line each.
        seconds: from the fault until the first line; None where no fault came.
    """

    status: int
    told: list[str]
    seconds: float | None


def run(
    folder, name, *flags, what="none", process=1, step=7, hosts=2, devices=4, restarts=2, **more
):
    """A job in FOLDER/NAME of the config in FOLDER, with a fault; `devices` of all its hosts."""
    mark = folder / f"{name}.mark"
    fault = {"what": what, "process": process, "step": step, "mark": str(mark), **more}
    told, times = [], []

    def show(text):
        told.append(text)
        times.append(time.time())

    status = supervisor(
        folder,
        name,
        *flags,
        fault=fault,
        hosts=hosts,
        devices=devices,
        restarts=restarts,
        show=show,
    ).run()
    came = mark.exists() and times
    return Outcome(status, told, times[0] - float(mark.read_text()) if came else None)


def assert_same(run, wanted):
    """Two jobs ended in the same bits: of their losses, and of all that they are."""
    assert runs.losses(run) == runs.losses(wanted)
    assert runs.checksums(run, STEPS) == runs.checksums(wanted, STEPS)


def supervisor(
    folder, name, *flags, fault, hosts=2, devices=4, restarts=2, show=print, variables=None
):
    command = [
        *(sys.executable, str(CHILD), "train", f"--config={folder / 'config.py'}"),
        *(f"--workdir={folder / name}", f"--config.steps={STEPS}", "--config.mesh.fsdp=4"),
        *("--config.checkpoint.every=5", "--config.watch.silent_seconds=6", *flags),
    ]
    saved = folder / name / "checkpoints"
    return local.Supervisor(
        command,
        hosts=hosts,
        devices=devices // hosts,
        logs=folder / name / "logs",
        restarts=restarts,
        grace=20.0,
        variables={
            "XLA_FLAGS": f"{quick.FLAGS} --xla_force_host_platform_device_count={devices // hosts}",
            "PYTHONPATH": str(runs.ROOT),
            "FAULT": json.dumps(fault),
            **(variables or {}),
        },
        progress=lambda: sorted(path.name for path in saved.glob("*")) if saved.exists() else [],
        show=show,
    )
