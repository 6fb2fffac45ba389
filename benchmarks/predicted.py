r"""What `bigmodel plan` predicts of a step on the accelerator that is here, against what it takes.

    python benchmarks/predicted.py --out runs/predicted            # every setting below
    python benchmarks/predicted.py --setting 124m-b32-none --profile

Each setting is `bigmodel bench` in a process of its own. A line holds seconds of a step, and bytes:
what the allocator held at most, what the compiler says of the same program, what `bigmodel plan`
says without the GPU. --out keeps the compiled programs, so that a model of time can be tried on
them elsewhere; with --profile a second run is traced, and its kernels are added up by name.
"""

import argparse
import collections
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

from bigmodel import compat

DATA = {"data.source": "python_stdlib", "data.tokenizer": "bytes", "accumulate": 1, "evals": {}}
GPT = ("configs/gpt.py:124m", {"data.length": 1024})
PADDED = ("configs/gpt.py:124m", {"data.length": 1024, "model.vocab": 50_304})
LLAMA = ("configs/llama.py:1b", {"data.length": 2048})
SETTINGS = {
    f"{name}-b{batch}-{remat}": (config, {**fields, "batch": batch, "model.remat": remat})
    for name, (config, fields), batch, remat in (
        ("124m", GPT, 32, "none"),
        ("124m-padded", PADDED, 32, "none"),
        ("124m-padded", PADDED, 64, "none"),
        ("124m-padded", PADDED, 128, "full"),
        ("1b", LLAMA, 4, "none"),
        ("1b", LLAMA, 8, "dots"),
        ("1b", LLAMA, 16, "full"),
    )
}
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", action="append", choices=SETTINGS)
    parser.add_argument("--topology", default="gpu:h100:1x1")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/predicted"))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.child:
        compat.tune_process()
        print(json.dumps(measure(given.child, given.out, given.profile)))
        return
    failed = 0
    for name in given.setting or SETTINGS:
        command = [sys.executable, __file__, "--child", name, "--out", str(given.out)]
        done = subprocess.run(
            [*command, *(["--profile"] * given.profile)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(name, done.stderr[-1500:], flush=True)
            failed += 1
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        row |= planned(name, given.topology)
        failed += "plan_error" in row
        with open(given.out / "rows.jsonl", "a") as file:
            print(json.dumps(row | {"setting": name}), file=file)
        print(name, json.dumps(row), flush=True)
    sys.exit(failed)


def loaded(name: str):
    import bigmodel

    config, overrides = SETTINGS[name]
    return bigmodel.load_config(config, {**overrides, **DATA})


def planned(name: str, topology: str) -> dict:
    """What the plan says of a setting; run where no accelerator is in use by this process."""
    import bigmodel

    try:
        plan = bigmodel.plan(loaded(name), topology)
    except Exception as error:
        return {"plan_error": str(error)[-300:]}
    return {
        "plan_seconds": plan["step_seconds"],
        "plan_bytes": plan["hbm_bytes"],
        "time": plan["time"],
    }


def measure(name: str, out: pathlib.Path, profile: bool) -> dict:
    """Figures of a setting, here."""
    import jax

    from bigmodel.plan import here
    from bigmodel.train import bench

    def predict(recipe, compiled):
        with gzip.open(out / f"{name}.txt.gz", "wt") as file:
            file.write(compiled.as_text())
        return here.predict(recipe, compiled)

    found = bench.bench(loaded(name), steps=STEPS, predict=predict)
    stats = jax.devices()[0].memory_stats() or {}
    row = {
        "step_seconds": found["step_seconds"],
        "step_seconds_min": found["step_seconds_min"],
        "predicted_step_seconds": found["predicted_step_seconds"],
        "utilization": found["utilization"],
        "compiled_bytes": found["memory_bytes"],
        "held_bytes": stats.get("peak_bytes_in_use"),
        "compile_seconds": found["compile_seconds"],
        "device": found["device"],
        "jax": jax.__version__,
    }
    if profile:
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                bench.bench(loaded(name), steps=3, warmup=1)
            kernels = traced(pathlib.Path(folder))
        (out / f"{name}.kernels.json").write_text(json.dumps(kernels, indent=0))
    return row


def traced(folder: pathlib.Path) -> list:
    """[kernel, its HLO operation, calls, seconds] of a profile, the longest first."""
    import jax

    rows: dict = collections.defaultdict(lambda: [0, 0.0])
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            if "/device:GPU" not in plane.name:
                continue
            for line in plane.lines:
                for event in line.events:
                    stats = dict(event.stats)
                    row = rows[line.name, event.name, str(stats.get("hlo_op", ""))]
                    row[0] += 1
                    row[1] += event.duration_ns / 1e9
    return [[*key, *row] for key, row in sorted(rows.items(), key=lambda item: -item[1][1])]


if __name__ == "__main__":
    main()
