r"""GPT-2 124M (T = 1024) and a Llama of 1B (T = 2048) on a GPU, over batch, remat and loop.

    python benchmarks/gpu.py                  # every setting below, best last
    python benchmarks/gpu.py --model 124m

Each setting is `bigmodel bench` in a process of its own: bfloat16, cuDNN attention, packed real
text. Utilization is of the chip's dense bfloat16 peak, attention counted causal. Not
measured yet on any GPU: docs/performance.md says so until it is.
"""

import argparse
import itertools
import json
import subprocess
import sys

COMMON = ["--config.data.source=python_stdlib", "--config.data.tokenizer=bytes"]
MODELS = {
    "124m": ("configs/gpt.py:124m", 1024, (16, 32, 64)),
    "1b": ("configs/llama.py:1b", 2048, (4, 8, 16)),
}
REMAT = ("none", "attention", "dots", "full")
SCAN = ("true", "false")


def measure(config: str, length: int, batch: int, remat: str, scan: str) -> dict | str:
    """The figures of one setting, or the last line of why there are none."""
    command = [
        *(sys.executable, "-m", "bigmodel", "bench", "--json", "--config", config, *COMMON),
        f"--config.data.length={length}",
        f"--config.batch={batch}",
        f"--config.model.remat={remat}",
        f"--config.model.scan={scan}",
        "--config.accumulate=1",
        "--config.evals={}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1][:120]
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, action="append")
    arguments = parser.parse_args()
    for name in arguments.model or MODELS:
        config, length, batches = MODELS[name]
        rows = []
        for batch, remat, scan in itertools.product(batches, REMAT, SCAN):
            found = measure(config, length, batch, remat, scan)
            setting = f"{name:<5} batch {batch:<3} remat {remat:<9} scan {scan:<5}"
            if isinstance(found, str):
                print(f"{setting}  {found}", flush=True)
                continue
            rows.append((found["utilization"] or 0.0, setting, found))
            print(
                f"{setting}  {found['utilization'] or 0:.1%}  "
                f"{found['tokens_per_second']:,.0f} tokens/s  "
                f"{found['memory_bytes'] / 2**30:.1f} GiB",
                flush=True,
            )
        if rows:
            print(f"best: {max(rows, key=lambda row: row[0])[1]}", flush=True)


if __name__ == "__main__":
    main()
