r"""Kills any host of a job at random moments, saves among them, again and again; nothing is lost.

    python -m tests.faults.soak --kills 200 --folder DIR

The run packs and mixes, on 1, 2 or 4 hosts by turns, on one mesh of four devices. At the end its
parameters, its losses and the samples of every step are those of a run that nothing happened to.
"""

import argparse
import json
import pathlib
import random
import sys
import threading
import time

from tests import runs
from tests.faults import jobs

EVERY = 4  # steps between checkpoints
BATCH = 8
CONFIG = runs.CONFIG.replace(
    f'source="jsonl:{runs.TEXT}", split="all", length=32, packing="best_fit"',
    f"""
        length=32, packing="best_fit", split="all",
        mixture=dict(
            one=dict(source="jsonl:{runs.TEXT}", weight=0.7),
            two=dict(source="text:{runs.ROOT}/docs/*.md", weight=0.3),
        ),""",
).replace('config.evals = dict(validation=dict(split="all", every=15, batches=2))', "")


def soak(folder, *, kills, steps, seed=0, show=print):
    """Raises AssertionError where anything is not as in the undisturbed run."""
    runs.write_config(folder, CONFIG)
    flags = (f"--config.steps={steps}", f"--config.checkpoint.every={EVERY}")
    assert attempt(folder, "undisturbed", flags, hosts=1) == 0
    moments = random.Random(seed)
    done = 0
    while done < kills and not finished(folder, steps):
        hosts = moments.choice((1, 2, 4))
        status = attempt(folder, "killed", flags, hosts=hosts, moments=moments)
        done += status != 0
        saved = newest(folder / "killed")
        show(f"kill {done}: {hosts} hosts, status {status}, newest checkpoint {saved}")
    assert done == kills, f"the run of {steps} steps ended after {done} kills: give it more steps"
    assert attempt(folder, "killed", flags, hosts=2) == 0
    compare(folder, steps)


def finished(folder, steps):
    return newest(folder / "killed") >= steps


def newest(run):
    found = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    return max(found, default=0)


def attempt(folder, name, flags, *, hosts, moments=None):
    """One start of a job on so many hosts; one of them is killed if there are `moments`."""
    log = folder / f"{name}.samples"
    fault = {"what": "none", "process": -1, "step": 0, "mark": str(folder / "mark")}
    told = []
    supervisor = jobs.supervisor(
        folder, name, *flags, fault=fault, hosts=hosts, restarts=0, show=told.append,
        variables={"SAMPLES": str(log)},
    )  # fmt: skip
    killer = threading.Thread(target=kill, args=(supervisor, folder / name, moments), daemon=True)
    if moments:
        killer.start()
    status = supervisor.run()
    if moments:
        killer.join()
    return status


def kill(supervisor, run, moments):
    """Kills one host, at any moment from its start until some steps after its checkpoint."""
    start, more = last_step(run), moments.randint(0, 3 * EVERY)
    at_once = moments.random() < 0.1
    time.sleep(moments.random() * (8 if at_once else 0.3))
    while not at_once and last_step(run) < start + more:
        if all(process.poll() is not None for process in supervisor.processes or [Ended]):
            return
        time.sleep(0.02)
    time.sleep(moments.random() * 0.3)
    moments.choice(supervisor.processes).kill()


class Ended:
    """A process, before there is any."""

    poll = staticmethod(lambda: None)


def last_step(run):
    return max(runs.losses(run), default=0) if run.exists() else 0


def compare(folder, steps):
    """The laws."""
    wanted, found = folder / "undisturbed", folder / "killed"
    assert runs.losses(found) == runs.losses(wanted)
    assert runs.checksums(found, steps) == runs.checksums(wanted, steps)
    wanted_rows, found_rows = (samples(folder / f"{run.name}.samples") for run in (wanted, found))
    assert {(step, row) for step, row in wanted_rows if step < steps} == {
        (step, row) for step in range(steps) for row in range(BATCH)
    }
    assert found_rows == wanted_rows  # each row of each step: no other, none missing


def samples(path):
    """(step, row) -> checksum of the row's tokens, which no start may contradict."""
    found = {}
    for line in path.read_text().splitlines():
        said = json.loads(line)
        for row, mark in zip(said["rows"], said["marks"], strict=True):
            assert found.setdefault((said["step"], row), mark) == mark, said
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    soak(options.folder, kills=options.kills, steps=12 * options.kills, seed=options.seed)
    sys.exit(print(f"{options.kills} kills: the bits of a run that nothing happened to"))
