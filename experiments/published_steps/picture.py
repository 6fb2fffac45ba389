"""The picture: predicted over measured, row by row, with the bar's band."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt

COLOURS = {
    "v4": "#6c757d",
    "v5e": "#2a9d8f",
    "v5p": "#3a6ea5",
    "v6e": "#e08e2b",
    "tpu7x": "#b5446e",
}
USES = ("judge", "check", "calibrate")
TITLES = {"judge": "to judge by", "check": "further checks", "calibrate": "calibrated on"}


def draw(found: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Left every row's step on both axes, right its error; hollow where the plan warns."""
    ordered = [one for use in USES for one in found if one["use"] == use]
    if not ordered:
        return
    height = max(4.0, 0.27 * len(ordered) + 1.6)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12.5, height), width_ratios=(1, 1.15), layout="constrained"
    )
    steps(left, ordered)
    errors(right, ordered)
    figure.suptitle("Training steps: predicted on a laptop, measured on the pod", fontsize=13)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def steps(axes: Any, ordered: Sequence[Mapping[str, Any]]) -> None:
    values = [one["measured_seconds"] for one in ordered]
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.fill_between(
        [low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color="#eceff1"
    )
    axes.plot([low, high], [low, high], color="#90a4ae", linewidth=1)
    present = {one["generation"] for one in ordered}
    for generation, colour in COLOURS.items():
        if generation in present:
            axes.plot([], [], marker="o", linestyle="", color=colour, label=generation)
    for one in ordered:
        colour = COLOURS[one["generation"]]
        axes.plot(
            *(one["measured_seconds"], one["predicted_seconds"]),
            **dict(marker="o", linestyle="", markersize=7, color=colour),
            markerfacecolor="white" if one["flags"] else colour,
        )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set(xlabel="measured, seconds a step", ylabel="predicted, seconds a step")
    axes.legend(frameon=False, title="band: 10 %")
    tidy(axes)


def errors(axes: Any, ordered: Sequence[Mapping[str, Any]]) -> None:
    axes.axvspan(-10, 10, color="#eceff1")
    axes.axvline(0, color="#90a4ae", linewidth=1)
    widest = max(22.0, 1.25 * max(abs(100 * one["error"]) for one in ordered))
    at, places, names = 0.0, [], []
    for use in USES:
        part = [one for one in ordered if one["use"] == use]
        if part:
            axes.text(-widest, at - 0.15, TITLES[use], fontsize=9, weight="bold", va="center")
            at += 1
        for one in part:
            error, colour = 100 * one["error"], COLOURS[one["generation"]]
            axes.barh(
                *(at, error),
                **dict(height=0.62, color="white" if one["flags"] else colour, edgecolor=colour),
            )
            side = "left" if error >= 0 else "right"
            gap = 0.6 if error >= 0 else -0.6
            axes.text(error + gap, at, f"{error:+.1f}", fontsize=8, va="center", ha=side)
            places.append(at)
            names.append(one["id"])
            at += 1
    axes.set_yticks(places, names, fontsize=8)
    axes.set(ylim=(at - 0.3, -0.8), xlim=(-widest, widest))
    axes.set(
        xlabel="error, %  (hollow: the plan warns of memory's edge, host offload or a short step)"
    )
    tidy(axes)


def tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x", color="#f1f3f4", zorder=0)
    axes.set_axisbelow(True)
