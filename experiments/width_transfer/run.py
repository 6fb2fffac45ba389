r"""Is the best learning rate the same at every width?

    python experiments/width_transfer/run.py            # trains what is missing, draws
    python experiments/width_transfer/run.py --report   # of the runs that are there

Decoders of bytes on the source text of Python's standard library, AdamW, 200 steps of 2,048 bytes,
at three widths and six rates: under the standard parametrisation, and under `mup`, whose base is
the narrowest (Yang et al. 2022, arXiv:2203.03466), where both are the same model.
"""

import argparse
import json
import pathlib

from ml_collections import ConfigDict

import bigmodel

HERE = pathlib.Path(__file__).parent
PLACE = "runs/width_transfer"
WIDTHS = (32, 64, 128)
RATES = tuple(2.0**-n for n in (9, 8, 7, 6, 5, 4))
FORMS = ("standard", "mup")


def get_config(run: str = "standard-32") -> ConfigDict:
    form, width = run.split("-")
    config = bigmodel.default_config("decoder", objective="next_token")
    config.steps, config.batch = 200, 16
    config.model.update(
        vocab=257,
        layers=2,
        norm="rms",
        position="rope",
        feedforward="gelu",
        bias=False,
        init_std=0.0,  # by fan-in: what mup starts from should neither vanish nor grow
        tied=False,
        dtype="float32",
        scan=False,
        **sizes(int(width)),
    )
    if form == "mup":
        config.mup.update(**sizes(WIDTHS[0]))
    config.data.update(source="python_stdlib", tokenizer="bytes", length=128)
    config.optimizer.update(name="adamw", weight_decay=0.0, clip=1.0)
    config.schedule.update(name="warmup_cosine", warmup=20, floor=0.0)
    config.checkpoint.keep = 1
    config.evals = dict(validation=dict(split="validation", every=0, batches=64))
    return config


def sizes(width: int) -> dict:
    return dict(width=width, heads=width // 16, hidden=4 * width)


def get_configs() -> dict:
    """The runs, as `bigmodel sweep` takes them."""
    return {
        f"{form}-{width}-{rate:.5f}": (
            f"experiments/width_transfer/run.py:{form}-{width}",
            {"schedule.peak": rate},
        )
        for width in WIDTHS
        for form in FORMS
        if (form, width) != ("mup", WIDTHS[0])  # the same model
        for rate in RATES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="trains nothing")
    table = bigmodel.sweep(__file__, PLACE, run=not parser.parse_args().report)
    done = [row for row in table if row["state"] == "finished"]
    results: dict = {form: {} for form in FORMS}
    for row in done:
        form, width, _ = row["run"].split("-")
        rates = results[form].setdefault(width, {})
        rates[f"{row['schedule.peak']:.5f}"] = row["validation/loss"]
    results["mup"] = {str(WIDTHS[0]): results["standard"][str(WIDTHS[0])], **results["mup"]}
    results["best"] = {
        form: {width: float(min(rates, key=rates.get)) for width, rates in results[form].items()}
        for form in FORMS
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results)
    print(json.dumps(results["best"], indent=1))


def draw(results: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axes, form in zip(both, FORMS, strict=True):
        for width, rates in results[form].items():
            x, y = [float(rate) for rate in rates], list(rates.values())
            (line,) = axes.plot(x, y, "o-", markersize=4, label=f"width {width}")
            best = results["best"][form][width]
            axes.plot([best], [rates[f"{best:.5f}"]], "*", markersize=14, color=line.get_color())
        axes.set(xscale="log", xlabel="largest rate", title=form)
        axes.set_xscale("log", base=2)
    both[0].set(ylabel="validation loss, nats a byte")
    both[0].legend()
    figure.tight_layout()
    figure.savefig(HERE / "picture.png", dpi=110)


if __name__ == "__main__":
    main()
