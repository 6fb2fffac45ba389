"""Lines over steps, as SVG: what a page shows of a run's metrics."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bigmodel.report.markup import Markup, element

Point = tuple[int, float]
LEFT, RIGHT, TOP, BOTTOM = 62.0, 10.0, 8.0, 26.0  # room around the plot for its labels
MOST = 700  # points of a line: a page shows no more
DOTS = 60  # a line of at most so many has a dot at each


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        words: what it shows.
        key: its class is "line-KEY".
        points: (step, finite value), by step.
    """

    words: str
    key: str
    points: Sequence[Point]


class Scale:
    """Values to pixels, linear or logarithmic."""

    def __init__(
        self, low: float, high: float, pixels: tuple[float, float], *, logarithmic: bool = False
    ):
        self.logarithmic = logarithmic
        self.low, self.high, self.pixels = low, high, pixels

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low / 10))
        share = (value - low) / (high - low)
        return self.pixels[0] + share * (self.pixels[1] - self.pixels[0])

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within: 1, 2 or 5 of a power of ten apart; decades, or their parts."""
        if self.logarithmic and self.high / self.low >= 20:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            if len(powers) < 3:
                found = [
                    f * 10.0**p for p in range(powers[0] - 1, powers[-1] + 1) for f in (1, 2, 5)
                ]
                return [value for value in found if self.low <= value <= self.high]
            apart = math.ceil(len(powers) / most)
            return [10.0**power for power in powers[::apart]]
        width = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(width))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * width)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [step * i for i in range(first, last + 1)]


def chart(
    lines: Sequence[Line],
    *,
    words: str,
    size: tuple[float, float],
    write: Callable[[float], str],
    logarithmic: bool = False,
    settled: bool = False,
) -> Markup | None:
    """The lines in one picture, those at the end of the list on top; None: there is no point.

    Args:
        lines: what is drawn.
        words: what the picture shows, for those who do not see it.
        size: width and height, in the picture's own units.
        write: how a value is written.
        logarithmic: the scale of values, where all of them are positive.
        settled: the range is that of the values after a twentieth of the steps: a loss falls from
            far above, and its end is what is to be read.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return None
    last = max(step for step, _ in points)
    ranged = [value for step, value in points if not settled or step >= last / 20]
    logarithmic = logarithmic and min(ranged) > 0
    across = Scale(0, max(last, 1), (LEFT, size[0] - RIGHT))
    up = Scale(*around(ranged, logarithmic), (size[1] - BOTTOM, TOP), logarithmic=logarithmic)
    drawn: list[Markup] = []
    for tick in up.ticks():
        y = up(tick)
        drawn.append(element("line", class_="grid", x1=LEFT, x2=size[0] - RIGHT, y1=y, y2=y))
        drawn.append(element("text", write(tick), x=LEFT - 8, y=y + 4, class_="end axis"))
    for tick in across.ticks():
        place = {"x": across(tick), "y": size[1] - 8, "class_": "middle axis"}
        drawn.append(element("text", f"{tick:,.0f}", **place))
    # An inner picture of the plot's size: what goes beyond it is cut off there.
    wide, high = size[0] - LEFT - RIGHT + 6, size[1] - TOP - BOTTOM + 6
    left, top = LEFT - 3, TOP - 3
    inside = [curve(line, across, up, write) for line in lines if line.points]
    box = f"{left:.0f} {top:.0f} {wide:.0f} {high:.0f}"
    drawn.append(element("svg", inside, x=left, y=top, width=wide, height=high, viewBox=box))
    whole = f"0 0 {size[0]:.0f} {size[1]:.0f}"
    return element("svg", drawn, viewBox=whole, class_="lines", role="img", aria_label=words)


def curve(line: Line, across: Scale, up: Scale, write: Callable[[float], str]) -> list[Markup]:
    shown = thinned(line.points)
    path = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in shown)
    drawn = [element("polyline", points=path, class_=f"line line-{line.key}")]
    for step, value in shown if len(shown) <= DOTS else ():
        title = element("title", f"{line.words}, step {step:,}: {write(value)}")
        place = {"cx": across(step), "cy": up(value), "class_": f"point line-{line.key}"}
        drawn.append(element("circle", title, r=2.5, **place))
    return drawn


def around(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """A range with some room around values."""
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.2, high * 1.2
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """Few points with the same picture: of each stretch the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    found: list[Point] = []
    stretches = most // 2
    for i in range(stretches):
        part = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        low, high = (choose(part, key=lambda point: point[1]) for choose in (min, max))
        found += sorted({low, high})
    return found


def means(points: Sequence[Point], most: int = 1500) -> list[Point]:
    """Few points of the same course: the mean of each stretch, at its middle."""
    if len(points) <= most:
        return list(points)
    found = []
    for i in range(most):
        part = points[i * len(points) // most : (i + 1) * len(points) // most]
        found.append((part[len(part) // 2][0], math.fsum(v for _, v in part) / len(part)))
    return found
