"""`python -m bigmodel`, with a fault in one process of the job, as $FAULT says (JSON).

{"what": a name below, "process": which one, "step": after which step, "mark": a file: the fault
comes once, when it is not there yet}.
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import time
import types
import zlib

import jax

from bigmodel import __main__, compat, config
from bigmodel.checkpoint import store
from bigmodel.data import pipeline, tokenizers
from bigmodel.train import heartbeat, preflight, workdir

FAULT: dict = json.loads(os.environ["FAULT"])
MARK = pathlib.Path(FAULT["mark"])


def once() -> bool:
    """Whether the fault is still to come; it has, from now on."""
    if MARK.exists():
        return False
    MARK.write_text(str(time.time()))
    return True


def unreadable():
    """The next row that is read is not there any more."""
    plain = pipeline.Batches.host

    def host(self, step, index=slice(None)):
        pipeline.Batches.host = plain
        raise OSError(5, "Input/output error", "tokens.npy")

    pipeline.Batches.host = host


def exhausted():
    """Memory, for this process alone."""
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
    bytearray(2**40)


def full():
    """No file of this process can grow, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))


def broken():
    raise RuntimeError("the wheel came off")


def no_tokenizer(name):
    raise config.InputError(f"data.tokenizer = {name!r}: no such file")


def no_place(folder):
    raise config.InputError(f"{folder}: no place on this host")


def slow_disk():
    """What is written takes its time from now on."""
    plain = store.begin

    def begin(folder, arrays):
        written = plain(folder, arrays)
        return lambda: (time.sleep(FAULT["seconds"]), written())

    store.begin = begin


AT_STEP = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "frozen": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "crashed": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "broken": broken,
    "exhausted": exhausted,
    "full": full,
    "unreadable": unreadable,
    "slow-disk": slow_disk,
    "slow": lambda: time.sleep(FAULT["seconds"]),
}


def at_step():
    """Lets the fault happen after a step."""
    plain = heartbeat.Heartbeat.at

    def at(self, phase, step=None, waited=None):
        plain(self, phase, step, waited)
        if phase == "step" and step == FAULT["step"] and once():
            AT_STEP[FAULT["what"]]()

    heartbeat.Heartbeat.at = at


class Clock:
    """`time`, an hour ahead."""

    monotonic, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)

    @staticmethod
    def time():
        return time.time() + 3600


def at_start():
    """Faults of a host before it trains."""
    match FAULT["what"]:
        case "late":
            time.sleep(1000)
        case "clock":
            preflight.time = Clock
        case "versions":
            workdir.versions = lambda: {"jax": "0.0.1"}
        case "overridden":
            sys.argv.append("--config.schedule.peak=0.5")
        case "unmounted":
            preflight.files.absent = lambda source: source.partition(":")[2]
        case "no-disk":
            shutil.disk_usage = lambda path: types.SimpleNamespace(total=2**40, free=2**10)  # type: ignore
        case "no-device":
            jax.config.update("jax_platforms", "absent")
        case "no-tokenizer":
            tokenizers.load = no_tokenizer
        case "unagreed":
            workdir.place = no_place
        case "no-memory":
            preflight.memory = lambda: 2.0**10
        case "elsewhere":
            place = next(n for n, word in enumerate(sys.argv) if word.startswith("--workdir="))
            sys.argv[place] += "-of-this-host"


def told_samples(log):
    """Each row of a batch that is read is told of, with a checksum of its tokens."""
    plain = pipeline.Batches.host

    def host(self, step, index=slice(None)):
        batch = plain(self, step, index)
        numbers = [int(row) for row in batch["rows"]]
        marks = [zlib.crc32(row.tobytes()) for row in batch["tokens"]]
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "rows": numbers, "marks": marks}) + "\n")
        return batch

    pipeline.Batches.host = host


if __name__ == "__main__":
    if "SAMPLES" in os.environ:
        told_samples(os.environ["SAMPLES"])
    os.environ["BIGMODEL_MEET_SECONDS"] = "12"
    if int(os.environ["BIGMODEL_PROCESS"]) == FAULT["process"]:
        if FAULT["what"] in AT_STEP:
            at_step()
        elif once():
            at_start()
    compat.tune_process()
    sys.exit(__main__.main())
