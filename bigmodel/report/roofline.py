"""The roofline of a step, as SVG (Williams et al. 2009, "Roofline", CACM 52:4)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigmodel.report import labels, plan_charts, units
from bigmodel.report.markup import Markup, element

WIDE, HIGH = plan_charts.WIDE, 400.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 12.0, 14.0, 48.0  # room around the plot for its labels
NAMED = 9  # dots with a name beside them; the others tell theirs when pointed at
SAME = 7.0  # pixels: dots nearer than this are drawn as one
RATE, SPEED = units.decimal("FLOP/s"), units.decimal("B/s")
Row = Mapping[str, Any]


class Axis:
    """A logarithmic axis from a bit below the least value to a bit above the largest."""

    def __init__(self, values: Sequence[float], pixels: tuple[float, float]):
        self.low, self.high = min(values) / 2, max(values) * 1.5
        self.pixels = pixels

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.pixels[0] + share * (self.pixels[1] - self.pixels[0])

    def ticks(self) -> list[float]:
        """The decades; where they are few, 3 of each as well."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1.0,) if self.high / self.low > 1e3 else (1.0, 3.0)
        found = (step * 10.0**power for power in powers for step in steps)
        return [tick for tick in found if self.low <= tick <= self.high]


class Roof:
    """The line that no operation can be above: memory's slope, then the level of arithmetic."""

    def __init__(self, peak: float, bandwidth: float, points: Sequence[tuple[float, float]]):
        self.peak, self.bandwidth, self.ridge = peak, bandwidth, peak / bandwidth
        across, up = [a for a, _ in points], [b for _, b in points]
        self.x = Axis([self.ridge / 6, self.ridge * 6, *across], (LEFT, WIDE - RIGHT))
        self.y = Axis(
            [peak / 20, peak * 2.5, *(rate / 2 for rate in up)], (HIGH - BOTTOM, TOP)
        )  # headroom, for labels
        self.start = max(self.x.low, self.y.low / bandwidth)

    def at(self, pixel: float) -> float:
        """Pixel x to pixel y of the line."""
        share = (pixel - LEFT) / (WIDE - RIGHT - LEFT)
        intensity = self.x.low * (self.x.high / self.x.low) ** share
        return self.y(min(self.peak, self.bandwidth * intensity))

    def allows(self, box: labels.Box) -> bool:
        """Whether a label in the box lies in the plot and off the line."""
        left, top, right, bottom = box
        if left < LEFT + 2 or right > WIDE - 4 or top < TOP or bottom > HIGH - BOTTOM - 2:
            return False
        return self.at(right) > bottom + 2 or self.at(left) < top - 1

    def line(self) -> Markup:
        first = (self.start, self.start * self.bandwidth)
        bends = [first, (self.ridge, self.peak), (self.x.high, self.peak)]
        path = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in bends)
        return element("polyline", points=path, class_="roof")

    def words(self, dots: Sequence[labels.Box]) -> tuple[list[Markup], list[labels.Box]]:
        """What the two parts of the line are, the level one's where it is clear of dots."""
        top = f"{units.write(self.peak, RATE)}, the chip's peak"
        width, level = labels.width_of(top), self.y(self.peak)
        right, ridge = WIDE - RIGHT - 4 - width, self.x(self.ridge)
        places = [
            labels.boxed(left, level + down, width)
            for left, down in ((right, -11), (right, 13), (ridge - width - 8, -11), (ridge, -33))
        ]
        clear = [box for box in places if not any(labels.touch(box, dot) for dot in dots)]
        box = (clear or places)[0]
        slope = f"{units.write(self.bandwidth, SPEED)} of HBM"
        x, y = (self.x(math.sqrt(self.start * self.ridge)), 0.0)
        y = self.at(x)
        rise, run = self.at(self.x(self.start)) - level, ridge - self.x(self.start)
        turn = math.atan2(rise, run)
        turned = f"translate({x:.1f} {y:.1f}) rotate({-math.degrees(turn):.1f})"
        drawn = [
            element("text", top, x=box[0], y=box[3] - 3, class_="axis"),
            element("text", slope, y=-7, transform=turned, class_="middle axis"),
        ]
        steps = [labels.width_of(slope) * i / 6 for i in range(-3, 4)]
        across, down = math.cos(turn), math.sin(turn)
        along = [(x + s * across - 12 * down, y - s * down - 12 * across) for s in steps]
        return drawn, [box, *(labels.around(a, b, 12) for a, b in along)]


def roofline(roof: Row, step_seconds: float | None) -> tuple[Markup, list[Row]]:
    """FLOP/s over FLOP per byte of HBM, below what the chip can do.

    Args:
        roof: "roofline" of a plan, its peak and bandwidth known. FLOPs, bytes and seconds of an
            operation are of a device and a step, all its times together.
        step_seconds: of the plan, for the ring that stands for the whole step.

    Returns:
        The picture, and the operations that it cannot show, for want of FLOPs or of seconds.
    """
    step = dict(name="the whole step", flops=roof["flops"], bytes=roof["hbm_bytes"])
    rings = list(filter(drawable, [step | dict(seconds=step_seconds)]))
    shown = list(filter(drawable, roof["operations"]))
    hidden = [row for row in roof["operations"] if not drawable(row)]
    line = Roof(roof["peak_flops"], roof["hbm_bandwidth"], [*map(point, shown + rings)])
    dots = list(merged(shown, line))
    circles = [
        element("circle", title(rows), cx=x, cy=y, r=radius, class_="dot")
        for x, y, radius, rows in dots
    ]
    named = [(x, y, radius, name(rows)) for x, y, radius, rows in dots[:NAMED]]
    boxes = [labels.around(x, y, radius) for x, y, radius, _ in dots]
    for row in rings:
        x, y = line.x(point(row)[0]), line.y(point(row)[1])
        circles.append(element("circle", title([row]), cx=x, cy=y, r=8, class_="ring"))
        named.insert(3, (x, y, 8.0, row["name"]))
        boxes.append(labels.around(x, y, 8))
    words, taken = line.words(boxes)
    drawn = [*grid(line.x, line.y), line.line(), *words, *circles]
    for text, box, leader in labels.place(named, dots=boxes, words=taken, allowed=line.allows):
        if leader:
            (x1, y1), (x2, y2) = leader
            drawn.append(element("line", class_="leader", x1=x1, y1=y1, x2=x2, y2=y2))
        drawn.append(element("text", text, x=box[0], y=box[3] - 3, class_="label"))
    return plan_charts.frame(drawn, "Roofline: FLOP/s over FLOP per byte of HBM", HIGH), hidden


def drawable(row: Row) -> bool:
    return bool(row["flops"] and row["bytes"] and row["seconds"])


def point(row: Row) -> tuple[float, float]:
    return row["flops"] / row["bytes"], row["flops"] / row["seconds"]


def merged(rows: Sequence[Row], line: Roof) -> list[tuple[float, float, float, list[Row]]]:
    """(x, y, radius, operations) a dot, longest first; its area grows with the seconds."""
    groups: list[tuple[float, float, list[Row]]] = []
    for row in sorted(rows, key=lambda row: -row["seconds"]):
        x, y = line.x(point(row)[0]), line.y(point(row)[1])
        near = [group for group in groups if math.dist(group[:2], (x, y)) < SAME]
        if near:
            near[0][2].append(row)
        else:
            groups.append((x, y, [row]))
    spent = [sum(row["seconds"] for row in group) for *_, group in groups]
    sized = [
        (x, y, 3 + 13 * math.sqrt(seconds / max(spent)), group)
        for (x, y, group), seconds in zip(groups, spent, strict=True)
    ]
    return sorted(sized, key=lambda dot: -dot[2])


def title(rows: Sequence[Row]) -> Markup:
    """The tooltip of a dot: a line an operation."""
    return element(
        "title",
        "\n".join(
            f"{row['name']}: {units.seconds(row['seconds'])} a step, "
            f"{units.write(point(row)[1], RATE)}, {units.digits(point(row)[0])} FLOP per byte"
            for row in rows
        ),
    )


def name(rows: Sequence[Row]) -> str:
    """Of one operation the last two words of its path; of several the last of the others."""
    first, *others = [row["name"].split("/") for row in rows]
    words = ["/".join(first[-2:])[-32:], *(path[-1][-16:] for path in others[:2])]
    return ", ".join(words) + (f" + {len(others) - 2}" if len(others) > 2 else "")


def grid(x: Axis, y: Axis) -> Iterator[Markup]:
    for tick in x.ticks():
        yield element("line", class_="grid", x1=x(tick), x2=x(tick), y1=TOP, y2=HIGH - BOTTOM)
        place = {"x": x(tick), "y": HIGH - BOTTOM + 18, "class_": "middle axis"}
        yield element("text", f"{tick:,g}", **place)
    for tick in y.ticks():
        yield element("line", class_="grid", x1=LEFT, x2=WIDE - RIGHT, y1=y(tick), y2=y(tick))
        unit, scale = units.step_of(tick, RATE)
        yield element(
            "text", f"{tick / scale:g} {unit}", x=LEFT - 8, y=y(tick) + 4, class_="end axis"
        )
    words = "FLOP per byte of HBM"
    yield element("text", words, x=(LEFT + WIDE - RIGHT) / 2, y=HIGH - 8, class_="middle axis")
