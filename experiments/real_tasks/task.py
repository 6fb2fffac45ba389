"""What a real task's script does: unpack the data, train, and write down what came of it.

A script is a config file too (`get_config(NAME)`), which reads what `prepare` left under `PLACE`.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
PLACE = pathlib.Path("runs/real_tasks")  # from where the command is given


@dataclasses.dataclass(frozen=True)
class Published:
    """A number that somebody told of this data.

    Attributes:
        value: in the unit of `Task.figure`.
        setting: what it was told of.
        source: who told it.
    """

    value: float
    setting: str
    source: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the table.

    Attributes:
        title: what is told of what, as "translation, German to English (Multi30k)".
        figure: name of the run's figure that is compared, as "test/bleu".
        unit: of it, as "BLEU"; "%" shows a share in per cent.
        archives: files of the data's folder that are read.
        prepare: (the folder that they are unpacked in, the folder to fill).
        published: numbers to compare with.
        setting: of our run, in a line, and what of it is not as published.
        runs: arguments of `get_config` whose figures are averaged; () for the task's own name.
    """

    title: str
    figure: str
    unit: str
    archives: tuple[str, ...]
    prepare: Callable[[pathlib.Path, pathlib.Path], None]
    published: tuple[Published, ...]
    setting: str
    runs: tuple[str, ...] = ()


def data(name: str) -> pathlib.Path:
    """Where a task's prepared data lie."""
    return PLACE / name / "data"


def main(script: str, tasks: dict[str, Task]) -> None:
    """The command of a script."""
    parser = argparse.ArgumentParser(
        description="Trains on real data and writes the score down.",
        epilog="tasks: " + "; ".join(f"{name}, {task.title}" for name, task in tasks.items()),
    )
    parser.add_argument("task", choices=tasks, metavar="TASK")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the archives")
    name, folder = (arguments := parser.parse_args()).task, arguments.data
    task = tasks[name]
    if missing := [one for one in task.archives if not (folder / one).exists()]:
        parser.error(f"{folder} has no {', '.join(missing)}.")
    prepare(task, folder, data(name))
    runs = {one: train(script, one, PLACE / name / one) for one in task.runs or (name,)}
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / f"{name}.json"
    written.write_text(json.dumps(row(script, name, task, runs), indent=1) + "\n")
    print(f"{task.figure} {mean(task.figure, runs):.4f}; written to {written}")


def prepare(task: Task, archives: pathlib.Path, into: pathlib.Path) -> None:
    """Fills a folder, which appears whole or not at all."""
    if into.exists():
        return
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into.parent) as made:
        unpacked, filled = pathlib.Path(made) / "unpacked", pathlib.Path(made) / "filled"
        filled.mkdir()
        for name in task.archives:
            if ".tar" in name:
                with tarfile.open(archives / name) as archive:
                    archive.extractall(unpacked, filter="data")
        if not unpacked.exists():
            unpacked = archives
        task.prepare(unpacked, filled)
        filled.rename(into)


def train(script: str, run: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains (or goes on), and gives what the run's folder says at its end."""
    begun, began = (workdir / "config.json").exists(), time.time()
    config = pathlib.Path(script).resolve().relative_to(ROOT)
    command = ["train", "--config", f"{config}:{run}", "--workdir", str(workdir)]
    subprocess.run([sys.executable, "-m", "bigmodel", *command], check=True)
    figures: dict[str, float] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        figures |= {name: x for name, x in found.items() if "/" in name}
    provenance = json.loads((workdir / "provenance.json").read_text())
    provenance["command"][0] = "bigmodel"  # and not where it lies on this machine
    return {
        # of a run that went on where it was, nobody knows how long it took in all
        "minutes": None if begun else round((time.time() - began) / 60, 2),
        "figures": {n: x for n, x in figures.items() if not n.startswith("train/")},
        "config": json.loads((workdir / "config.json").read_text()),
        "provenance": provenance,
    }


def mean(figure: str, runs: dict[str, dict[str, Any]]) -> float:
    return statistics.fmean(run["figures"][figure] for run in runs.values())


def row(script: str, name: str, task: Task, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is written down."""
    minutes = [run["minutes"] for run in runs.values()]
    return {
        "task": name,
        "title": task.title,
        "command": f"python experiments/real_tasks/{pathlib.Path(script).name} {name} --data DIR",
        "figure": task.figure,
        "unit": task.unit,
        "value": mean(task.figure, runs),
        "minutes": None if None in minutes else round(sum(minutes), 1),
        "setting": task.setting,
        "published": [dataclasses.asdict(one) for one in task.published],
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "runs": runs,
    }


def machine() -> str:
    """The processor, and how many cores of it this process may use."""
    named = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{len(os.sched_getaffinity(0))} cores of {named[1] if named else 'a processor'}"
