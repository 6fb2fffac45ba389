r"""Which of three choices of architecture matters for a small decoder?

    python experiments/ablation/run.py            # trains what is missing, draws
    python experiments/ablation/run.py --report   # of the runs that are there

The decoder of configs/quickstart.py (bytes of Python's standard library, Muon) for 300 steps, and
the same with one choice turned back: learned positions, no norm of queries and keys, a plain
feed-forward layer of as many parameters. Three seeds each; a bar is two standard errors.
"""

import argparse
import json
import pathlib
import statistics

import bigmodel

HERE = pathlib.Path(__file__).parent
PLACE = "runs/ablation"
SEEDS = range(3)
CHOICES: dict[str, dict] = {
    "quickstart": {},
    "learned": {"model.position": "learned", "model.length": 128},
    "no-qk-norm": {"model.qk_norm": "none"},
    "gelu": {"model.feedforward": "gelu", "model.hidden": 384},  # 2 x 384 = 3 x 256
}
WORDS = {
    "quickstart": "as it is",
    "learned": "learned positions, not rope",
    "no-qk-norm": "no norm of queries and keys",
    "gelu": "gelu, not swiglu",
}


def get_configs() -> dict:
    """The runs, as `bigmodel sweep` takes them."""
    return {
        f"{name}-{seed}": ("configs/quickstart.py", {"seed": seed, "steps": 300, **changed})
        for name, changed in CHOICES.items()
        for seed in SEEDS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="trains nothing")
    table = bigmodel.sweep(__file__, PLACE, run=not parser.parse_args().report)
    results = {name: of_choice(table, name) for name in CHOICES}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results)
    for name, found in results.items():
        print(f"{WORDS[name]:30} {found['mean']:.4f} +- {2 * found['error']:.4f}")


def of_choice(table: list[dict], name: str) -> dict:
    """Losses of a choice by seed, their mean and its standard error."""
    rows = [row for row in table if row["run"].rpartition("-")[0] == name]
    losses = [row["validation/loss"] for row in rows if row["state"] == "finished"]
    error = statistics.stdev(losses) / len(losses) ** 0.5
    return {"losses": losses, "mean": statistics.fmean(losses), "error": error}


def draw(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 2.8))
    for place, found in enumerate(results.values()):
        axes.plot(found["losses"], [place] * len(found["losses"]), ".", color="C0", alpha=0.5)
        axes.errorbar(found["mean"], place, xerr=2 * found["error"], fmt="o", color="C0", capsize=4)
    axes.set(yticks=range(len(results)), yticklabels=[WORDS[name] for name in results])
    axes.set(xlabel="validation loss, nats a byte")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(HERE / "picture.png", dpi=110)


if __name__ == "__main__":
    main()
