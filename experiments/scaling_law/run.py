r"""How does the loss fall with compute, and can small runs foretell a larger one?

    python experiments/scaling_law/run.py            # trains what is missing, fits, draws
    python experiments/scaling_law/run.py --report   # of the runs that are there

Decoders of bytes on the source text of Python's standard library, each on ten bytes for each
parameter of its layers, in one epoch; validation on the whole split. The law is
L(C) = E + A (C / C0)^-a with C0 the smallest run's compute (Kaplan et al. 2020, arXiv:2001.08361;
Hoffmann et al. 2022, arXiv:2203.15556), found without the largest size, which it then foretells.
"""

import argparse
import functools
import json
import pathlib

import numpy as np
import scipy.optimize
from ml_collections import ConfigDict

import bigmodel
from bigmodel import costs, recipe

HERE = pathlib.Path(__file__).parent
PLACE = "runs/scaling_law"
#        width, layers
SIZES = {"25k": (32, 2), "55k": (48, 2), "98k": (64, 2), "147k": (64, 3), "307k": (80, 4)}
SEEDS = {"307k": 1}  # of the others three
BATCH, LENGTH, TOKENS = 16, 128, 10
DRAWS = 1000


def get_config(size: str = "25k") -> ConfigDict:
    width, layers = SIZES[size]
    config = bigmodel.default_config("decoder", objective="next_token")
    config.batch = BATCH
    config.steps = TOKENS * parameters(size) // (BATCH * LENGTH)
    config.model.update(
        vocab=257,
        layers=layers,
        width=width,
        heads=width // 16,
        hidden=4 * width,
        norm="rms",
        qk_norm="rms",
        position="rope",
        feedforward="gelu",
        bias=False,
        tied=False,
        dtype="float32",
        scan=False,
    )
    config.data.update(source="python_stdlib", tokenizer="bytes", length=LENGTH)
    config.optimizer.update(name="muon", weight_decay=0.1, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=config.steps // 20, floor=0.0)
    config.checkpoint.keep = 1
    config.evals = dict(validation=dict(split="validation", every=0))
    return config


def get_configs() -> dict:
    """The runs, as `bigmodel sweep` takes them."""
    return {
        f"{size}-{seed}": (f"experiments/scaling_law/run.py:{size}", {"seed": seed})
        for size in SIZES
        for seed in range(SEEDS.get(size, 3))
    }


def parameters(size: str) -> int:
    """Of the layers' matrices."""
    width, layers = SIZES[size]
    return 12 * layers * width**2


@functools.cache
def flops(size: str) -> float:
    """Of a run: those of its matrix products and its causal attention, for each token."""
    fields = recipe.make(get_config(size)).fields
    return costs.train_flops(fields, length=LENGTH).total * TOKENS * parameters(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="trains nothing")
    table = bigmodel.sweep(__file__, PLACE, run=not parser.parse_args().report)
    losses = {size: of_size(table, size) for size in SIZES}
    losses = {size: found for size, found in losses.items() if found}
    results = {"flops": {size: flops(size) for size in losses}, "losses": losses, **law(losses)}
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results)
    told = {name: x for name, x in results.items() if name not in ("losses", "flops")}
    print(json.dumps(told, indent=1))


def of_size(table: list[dict], size: str) -> list[float]:
    rows = [row for row in table if row["run"].rpartition("-")[0] == size]
    return [row["validation/loss"] for row in rows if row["state"] == "finished"]


def law(losses: dict[str, list[float]]) -> dict:
    """The law of all sizes but the last, with intervals, and what it says of a run of the last.

    An interval is the middle 95 % of a parametric bootstrap: means of each size drawn with the
    deviation that seeds have (one for all sizes, of logarithms), and for the foretold run one
    seed's on top. It is of the seeds alone: that the law may have another form is not in it.
    """
    *known, largest = losses
    logs = {size: np.log(losses[size]) for size in known}
    spare = sum(len(found) - 1 for found in logs.values())
    seeds = (sum(((found - found.mean()) ** 2).sum() for found in logs.values()) / spare) ** 0.5
    means = {size: found.mean() for size, found in logs.items()}
    best, draws = fit(means), np.random.default_rng(0)
    of_mean = {size: seeds / len(found) ** 0.5 for size, found in logs.items()}
    fits = [
        fit({size: mean + of_mean[size] * draws.normal() for size, mean in means.items()})
        for _ in range(DRAWS)
    ]
    foretold = [loss(flops(largest), *one) * np.exp(seeds * draws.normal()) for one in fits]
    drawn = dict(zip(("floor", "scale", "exponent"), np.transpose(fits), strict=True))
    values = dict(zip(drawn, best, strict=True))
    values["foretold"], drawn["foretold"] = loss(flops(largest), *best), np.array(foretold)
    off = [np.log(loss(flops(size), *best)) - mean for size, mean in means.items()]
    return {
        name: {"value": value, "interval": np.quantile(drawn[name], [0.025, 0.975]).tolist()}
        for name, value in values.items()
    } | {
        "largest": largest,
        "found": float(np.mean(losses[largest])),
        "deviation_of_seeds": float(seeds),
        "residual_of_the_fit": float(np.sqrt(np.mean(np.square(off)))),
    }


def loss(compute, floor: float, scale: float, exponent: float):
    return floor + scale * (compute / flops("25k")) ** -exponent


def fit(logs: dict[str, float]) -> tuple[float, float, float]:
    """Floor, scale, exponent: least squares of the logarithms of losses."""
    compute = np.array([flops(size) for size in logs])
    found = np.array(list(logs.values()))

    def errors(x):
        return np.log(loss(compute, *np.exp(x))) - found

    low, high = np.exp(found.min()), np.exp(found.max())
    solved = scipy.optimize.least_squares(errors, np.log([low / 2, high - low / 2, 0.1]))
    if not solved.success:
        raise RuntimeError(f"no fit: {solved.message}")
    floor, scale, exponent = np.exp(solved.x)
    return float(floor), float(scale), float(exponent)


def draw(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.4))
    for size, losses in results["losses"].items():
        style = dict(color="C3", marker="s") if size == results["largest"] else dict(color="C0")
        x = [results["flops"][size]] * len(losses)
        axes.plot(x, losses, **{"marker": "o", "linestyle": "", "markersize": 4, **style})
        axes.annotate(size, (x[0], max(losses)), (0, 6), textcoords="offset points", ha="center")
    compute = np.geomspace(min(results["flops"].values()), max(results["flops"].values()), 100)
    best = [results[name]["value"] for name in ("floor", "scale", "exponent")]
    axes.plot(
        compute, loss(compute, *best), color="C0", linewidth=1, label="fit without the red run"
    )
    axes.set(xscale="log", xlabel="FLOPs of training", ylabel="validation loss, nats a byte")
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "picture.png", dpi=110)


if __name__ == "__main__":
    main()
