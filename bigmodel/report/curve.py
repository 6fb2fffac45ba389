"""The loss-curve picture of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

Row = Mapping[str, Any]
Point = tuple[int, float]

TRAIN, TRAIN_FAINT, VALIDATION, GREY = "#1f5fa8", "#b9cde6", "#c2410c", "#6b7280"
WINDOW = 60  # a smoothed point is the mean over 2/WINDOW of the curve


def draw(
    rows: Iterable[Row],
    path: epath.PathLike,
    *,
    title: str = "",
    train: str = "train/loss",
    validation: str = "validation/loss",
    baselines: Mapping[str, float] | None = None,
    scale: float = 1.0,
    unit: str = "nats per token",
) -> epath.Path:
    """Writes a PNG of the losses in `rows` (of metrics.jsonl) over steps; returns its path.

    Args:
        rows: dicts with "step" and some of the two losses; None and NaN leave a gap.
        baselines: name -> height of a horizontal line, such as {"bigram": 3.1}.
        scale: what the losses in `rows` are multiplied with; for bits per byte the tokens per
            byte over ln 2.
        unit: of the losses, once scaled, and of the baselines.
    """
    from matplotlib import figure
    from matplotlib.backends import backend_agg

    rows = list(rows)
    trained, validated = (points(rows, name, scale) for name in (train, validation))
    lines = dict(baselines or {})
    smooth = smoothed(trained)
    picture = figure.Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    canvas = backend_agg.FigureCanvasAgg(picture)
    axes = picture.subplots()

    axes.plot(*columns(trained), color=TRAIN_FAINT, linewidth=1)
    axes.plot(*columns(smooth), color=TRAIN, linewidth=1.8)
    axes.plot(*columns(validated), color=VALIDATION, linewidth=1.8, marker="o", markersize=3)
    for height in lines.values():
        axes.axhline(height, color=GREY, linewidth=1, linestyle=(0, (5, 4)))

    ends = [(f"train {smooth[-1][1]:.3f}", smooth[-1][1], TRAIN)] if smooth else []
    if validated:
        ends.append((f"validation {validated[-1][1]:.3f}", validated[-1][1], VALIDATION))
    ends += [(f"{name} {height:.3f}", height, GREY) for name, height in lines.items()]
    finish(axes, trained + validated, list(lines.values()))
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color="#111827")
    axes.set_ylabel(f"loss, {unit}", color=GREY)
    label_right(axes, ends)

    path = epath.Path(path)
    with path.open("wb") as file:
        canvas.print_png(file)
    return path


def points(rows: Sequence[Row], name: str, scale: float) -> list[Point]:
    """(step, value) where the row has a finite value of that name."""
    found = ((row["step"], row.get(name)) for row in rows)
    return [
        (at, scale * value) for at, value in found if value is not None and math.isfinite(value)
    ]


def smoothed(curve: Sequence[Point]) -> list[Point]:
    """Means over a window around each point; it shrinks toward the ends, so that none lags."""
    reach = len(curve) // WINDOW
    means = []
    for at, (step, _) in enumerate(curve):
        near = min(reach, at, len(curve) - 1 - at) if at < reach else reach
        part = [value for _, value in curve[at - near : at + near + 1]]
        means.append((step, math.fsum(part) / len(part)))
    return means


def columns(curve: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]


def finish(axes: Any, curves: Sequence[Point], heights: Sequence[float]) -> None:
    """Few lines, and a range in which the end of the curve can be read.

    The first steps of a run fall from far above: the top is the higher of the baselines and
    the loss after a twentieth of the run.
    """
    if curves:
        last = max(step for step, _ in curves)
        settled = [value for step, value in curves if step >= last / 20]
        bottom, top = min([*settled, *heights]), max([*settled, *heights])
        room = 0.06 * (top - bottom) or 0.5
        axes.set_ylim(bottom - room, top + room)
        axes.set_xlim(0, max(last, 1))
    axes.set_xlabel("step", color=GREY)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#d1d5db")


def label_right(axes: Any, ends: Sequence[tuple[str, float, str]]) -> None:
    """A name at the right end of each line, in its colour; close ones are moved apart."""
    bottom, top = axes.get_ylim()
    apart = 0.055 * (top - bottom)
    at = bottom - apart
    for text, height, colour in sorted(ends, key=lambda end: end[1]):
        at = max(height, at + apart)
        axes.annotate(
            text,
            (1, at),
            xytext=(6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            va="center",
            annotation_clip=False,
        )
