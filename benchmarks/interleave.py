r"""Two commands in turn, A B A B ..., and the ratio of their figures pair by pair.

    python benchmarks/interleave.py --rounds 5 "COMMAND A" "COMMAND B"

Each command prints one line of JSON, last, with figures such as `tok_s`. On a shared machine the
figures drift together, so the median of the ratios says more than either figure.
"""

import argparse
import json
import shlex
import statistics
import subprocess

FIGURES = ("tok_s", "cpu_ms", "rss_mb", "to_first_step_s")


def run(command: str) -> dict[str, float]:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("commands", nargs=2, metavar="COMMAND")
    arguments = parser.parse_args()
    pairs = []
    for _ in range(arguments.rounds):
        pairs.append(tuple(run(command) for command in arguments.commands))
        print("  ".join(str({f: row.get(f) for f in FIGURES}) for row in pairs[-1]), flush=True)
    for figure in FIGURES:
        ratios = sorted(a[figure] / b[figure] for a, b in pairs if a.get(figure) and b.get(figure))
        if ratios:
            middle = statistics.median(ratios)
            spread = f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs)"
            print(f"{figure:<16} A / B  median {middle:.3f}  {spread}")


if __name__ == "__main__":
    main()
