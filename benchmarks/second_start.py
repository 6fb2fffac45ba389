r"""Time to the first step of a first start and of a second one, as lines of JSON and a table.

    python benchmarks/second_start.py --rounds 3
    python benchmarks/second_start.py --models deep --rounds 1 --hosts 2

Each start is the command `bigmodel train` in a process of its own, in a new workdir; the seconds
are those of its goodput record, from the start of the process to the end of its first step. Tokens
are prepared before. With --hosts it is a job of so many processes on this machine, by `bigmodel
launch local`, and the seconds are process 0's. Starts of a round:

    first      nothing is cached
    programs   jax's cache of compiled programs alone is there: it traces and lowers (not of a job
               of several processes, which has no such cache on a CPU)
    second     the whole step is there too, and what draws weights: what a second start finds
    restart    the same, in the workdir of `second`: it goes on from a checkpoint
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/quickstart.py"
SHORT = ("--config.steps=4", "--config.checkpoint.every=2", "--config.evals={}")
#           overrides of the quickstart, whose layers are unrolled
MODELS = {
    "quickstart": (),  # 4 layers
    "deep": ("--config.model.layers=12",),
    "deeper": ("--config.model.layers=24",),
}
# Without what keeps Python from keeping the bytecode of bigmodel, which a second start reads.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
STARTS = ("first", "programs", "second", "restart")


def command(hosts: int) -> list[str]:
    if hosts == 1:
        return ["train"]
    return ["launch", "local", f"--hosts={hosts}", "--devices_per_host=1", "--config.mesh.data=-1"]


def start(workdir: pathlib.Path, cache: pathlib.Path, *words: str) -> dict[str, float]:
    """Seconds to the first step by part, of one start."""
    before = set(workdir.glob("goodput/*.json"))
    subprocess.run(
        [sys.executable, "-m", "bigmodel", *words, CONFIG, f"--workdir={workdir}", *SHORT],
        cwd=ROOT,
        env={**ENVIRONMENT, "BIGMODEL_CACHE": str(cache)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (record,) = set(workdir.glob("goodput/*.json")) - before
    return json.loads(record.read_text())["to_first"]


def one_round(model: str, folder: pathlib.Path, hosts: int) -> dict[str, dict[str, float]]:
    """Each start of STARTS, in order."""
    cache, words = folder / "cache", [*command(hosts), *MODELS[model]]
    for name in ("compiled", "steps"):
        shutil.rmtree(cache / name, ignore_errors=True)
    for name in STARTS:
        shutil.rmtree(folder / name, ignore_errors=True)
    found = {"first": start(folder / "first", cache, *words)}
    if hosts == 1:
        (cache / "steps").rename(folder / "aside")
        found["programs"] = start(folder / "programs", cache, *words)
        shutil.rmtree(cache / "steps", ignore_errors=True)
        (folder / "aside").rename(cache / "steps")
    found["second"] = start(folder / "second", cache, *words)
    shutil.copytree(folder / "second", folder / "restart")
    shutil.rmtree(folder / "restart" / "checkpoints" / "4")  # as if it had been killed at step 3
    found["restart"] = start(folder / "restart", cache, *words)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["quickstart", "deep"], choices=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hosts", type=int, default=1)
    arguments = parser.parse_args()
    for model in arguments.models:
        rounds = collections.defaultdict(list)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            prepare = ["data", "prepare", CONFIG]
            subprocess.run(
                [sys.executable, "-m", "bigmodel", *prepare],
                cwd=ROOT,
                env={**os.environ, "BIGMODEL_CACHE": str(folder / "cache")},
                check=True,
                capture_output=True,
            )
            for _ in range(arguments.rounds):
                for start_name, parts in one_round(model, folder, arguments.hosts).items():
                    seconds = sum(parts.values())
                    rounds[start_name].append((seconds, parts))
                    told = {part: round(value, 2) for part, value in parts.items() if value > 0.01}
                    line = {
                        "model": model,
                        "hosts": arguments.hosts,
                        "start": start_name,
                        "seconds": round(seconds, 2),
                    }
                    print(
                        json.dumps(line | {"load": os.getloadavg()[0], "parts": told}), flush=True
                    )
        first = statistics.median(seconds for seconds, _ in rounds["first"])
        for start_name, found in rounds.items():
            median = statistics.median(seconds for seconds, _ in found)
            print(f"{model:11} {start_name:9} {median:7.2f} s  {median / first:.2f} of the first")


if __name__ == "__main__":
    main()
