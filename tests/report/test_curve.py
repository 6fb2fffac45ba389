"""The loss-curve picture."""

import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bigmodel.report import curve

ROWS = [
    {"step": step, "train/loss": 2 + 3 * math.exp(-step / 20)}
    | ({"validation/loss": 2.1 + 3 * math.exp(-step / 20)} if step % 50 == 0 else {})
    for step in range(1, 301)
]


def has_colour(path, colour):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)[:, :900]  # without the labels
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(pixels - wanted).sum(-1) < 12).any())


def test_losses_and_baselines_are_in_the_picture(tmp_path):
    path = curve.draw(ROWS, tmp_path / "loss.png", title="run", baselines={"bigram": 2.5})
    assert has_colour(path, curve.TRAIN)
    assert has_colour(path, curve.VALIDATION)
    without = curve.draw(ROWS[:40], tmp_path / "train.png")
    assert not has_colour(without, curve.VALIDATION)


@pytest.mark.parametrize(
    "rows",
    [[], ROWS[:1], [{"step": 0, "train/loss": None}], [{"step": 3, "train/loss": math.nan}]],
    ids=["none", "one", "null", "nan"],
)
def test_little_or_nothing_can_be_drawn(tmp_path, rows):
    assert curve.draw(rows, tmp_path / "loss.png").exists()


def test_smoothing_keeps_a_straight_line_and_its_ends():
    line = [(step, 3.0 * step + 1) for step in range(500)]
    np.testing.assert_allclose(curve.smoothed(line)[:400], line[:400])
    assert len(curve.smoothed(line)) == len(line)


def test_losses_are_scaled_to_the_unit_asked_for():
    assert curve.points([{"step": 1, "x": 2.0}], "x", 0.5) == [(1, 1.0)]


def test_no_figure_stays_behind_in_pyplot(tmp_path):
    code = (
        "import sys; from bigmodel.report import curve;"
        "assert 'matplotlib' not in sys.modules;"
        f"curve.draw([], {str(tmp_path / 'x.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
