"""The roofline of a step, as SVG (Williams et al. 2009, "Roofline", CACM 52:4).

Its labels are put where nothing is yet, each at the nearest free place; of the orders in which that
can be done the one with the shortest leaders counts.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bigmodel.report import plan_charts, units
from bigmodel.report.markup import Markup, element

Box = tuple[float, float, float, float]  # left, top, right, bottom; y grows downward
Dot = tuple[float, float, float, str]  # x, y, radius, words
Leader = tuple[tuple[float, float], tuple[float, float]]  # from a dot to its label

WIDE, HIGH = plan_charts.WIDE, 400.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 12.0, 14.0, 48.0  # room around the plot for its labels
CHARACTER, LINE = 6.3, 14.0  # of a label of 12 px: mean width, height
LABELS = 9  # dots with a name beside them; the others tell theirs when pointed at
SAME = 7.0  # pixels: dots nearer than this are drawn as one


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


def roofline(roof: Mapping[str, Any], step_seconds: float | None) -> tuple[Markup, list]:
    """FLOP/s over FLOP per byte of HBM, below what the chip can do.

    Args:
        roof: "roofline" of a plan, its peak and bandwidth known. FLOPs, bytes and seconds of an
            operation are of a device and a step, all its times together.
        step_seconds: of the plan, for the ring that stands for the whole step.

    Returns:
        The picture, and the operations that it cannot show, for want of FLOPs or of seconds.
    """
    peak, ridge = roof["peak_flops"], roof["peak_flops"] / roof["hbm_bandwidth"]
    shown = [r for r in roof["operations"] if r["flops"] and r["bytes"] and r["seconds"]]
    hidden = [r for r in roof["operations"] if not (r["flops"] and r["bytes"] and r["seconds"])]
    step = dict(name="the whole step", flops=roof["flops"], bytes=roof["hbm_bytes"])
    step |= dict(seconds=step_seconds, times=1)
    rings = [step] if step["flops"] and step["bytes"] and step_seconds else []
    across = [row["flops"] / row["bytes"] for row in shown + rings]
    up = [row["flops"] / row["seconds"] for row in shown + rings]
    x = Axis([ridge / 6, ridge * 6, *across], (LEFT, WIDE - RIGHT))
    y = Axis([peak / 20, peak * 2.5, *(rate / 2 for rate in up)], (HIGH - BOTTOM, TOP))
    dots = list(merged(shown, x, y))
    places = [(x(row["flops"] / row["bytes"]), y(row["flops"] / row["seconds"])) for row in rings]

    def roof_at(pixel: float) -> float:
        share = (pixel - LEFT) / (WIDE - RIGHT - LEFT)
        return y(min(peak, roof["hbm_bandwidth"] * x.low * (x.high / x.low) ** share))

    start = max(x.low, y.low / roof["hbm_bandwidth"])
    bends = [(start, start * roof["hbm_bandwidth"]), (ridge, peak), (x.high, peak)]
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in bends)
    drawn = [*grid(x, y), element("polyline", points=path, class_="roof")]
    top = f"{units.write(peak, units.decimal('FLOP/s'))}, the chip's peak"
    slope = f"{units.write(roof['hbm_bandwidth'], units.decimal('B/s'))} of HBM"
    turn = math.degrees(math.atan2(y(bends[0][1]) - y(peak), x(ridge) - x(start)))
    middle = x(math.sqrt(start * ridge)), y(math.sqrt(bends[0][1] * peak))
    turned = f"translate({middle[0]:.1f} {middle[1]:.1f}) rotate({-turn:.1f})"
    taken = list(along(middle, turn, CHARACTER * len(slope)))
    taken.append((x(ridge) - 6 - CHARACTER * len(top), y(peak) - 18, x(ridge) - 6, y(peak)))
    drawn += [
        element("text", top, x=x(ridge) - 6, y=y(peak) - 4, class_="end axis"),
        element("text", slope, y=-7, transform=turned, class_="middle axis"),
    ]
    drawn += dots_drawn(dots)
    drawn += [
        element("circle", element("title", told(step)), cx=px, cy=py, r=8, class_="ring")
        for px, py in places
    ]
    named = [(px, py, radius, name(rows)) for px, py, radius, rows in dots[:LABELS]]
    named[3:3] = [(px, py, 8.0, "the whole step") for px, py in places]
    taken += [around(px, py, radius) for px, py, radius, _ in dots]
    taken += [around(px, py, 8) for px, py in places]
    drawn += labels(named, taken, roof_at)
    return plan_charts.frame(drawn, "Roofline: FLOP/s over FLOP per byte of HBM", HIGH), hidden


def merged(rows: Sequence[Mapping[str, Any]], x: Axis, y: Axis) -> Iterator[tuple]:
    """(x, y, radius, operations) a dot, longest first; its area grows with the seconds."""
    groups: list[tuple[float, float, list]] = []
    for row in sorted(rows, key=lambda row: -row["seconds"]):
        px, py = x(row["flops"] / row["bytes"]), y(row["flops"] / row["seconds"])
        near = [g for g in groups if math.hypot(g[0] - px, g[1] - py) < SAME]
        if near:
            near[0][2].append(row)
        else:
            groups.append((px, py, [row]))
    spent = {id(group): sum(row["seconds"] for row in group[2]) for group in groups}
    for group in sorted(groups, key=lambda group: -spent[id(group)]):
        radius = 3 + 13 * math.sqrt(spent[id(group)] / max(spent.values()))
        yield group[0], group[1], radius, group[2]


def dots_drawn(dots: Sequence[tuple]) -> Iterator[Markup]:
    for px, py, radius, rows in dots:
        title = element("title", "\n".join(map(told, rows)))
        yield element("circle", title, cx=px, cy=py, r=radius, class_="dot")


def told(row: Mapping[str, Any]) -> str:
    rate = units.write(row["flops"] / row["seconds"], units.decimal("FLOP/s"))
    return (
        f"{row['name']}: {units.seconds(row['seconds'])} a step, {rate}, "
        f"{units.digits(row['flops'] / row['bytes'])} FLOP per byte"
    )


def name(rows: Sequence[Mapping[str, Any]]) -> str:
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
        unit, scale = units.step_of(tick, units.decimal("FLOP/s"))
        words = f"{tick / scale:g} {unit}"
        yield element("text", words, x=LEFT - 8, y=y(tick) + 4, class_="end axis")
    words = "FLOP per byte of HBM"
    yield element("text", words, x=(LEFT + WIDE - RIGHT) / 2, y=HIGH - 8, class_="middle axis")


def labels(
    named: Sequence[Dot], taken: Sequence[Box], roof_at: Callable[[float], float]
) -> Iterator[Markup]:
    """A name beside each dot; one that finds no place is left to its tooltip.

    Args:
        named: the dots, most important first.
        taken: boxes that no label may touch.
        roof_at: pixel x to pixel y of the roof, which no label may cross.
    """
    turned = [[*named[i:], *named[:i]] for i in range(len(named))]
    orders = [*turned, *(order[::-1] for order in turned)]
    tries = (placed(order, taken, roof_at) for order in orders)
    _, found = min(tries, key=lambda result: result[0], default=(0.0, []))
    for words, box, leader in found:
        if leader:
            (x1, y1), (x2, y2) = leader
            yield element("line", class_="leader", x1=x1, y1=y1, x2=x2, y2=y2)
        yield element("text", words, x=box[0], y=box[3] - 3, class_="label")


def placed(
    named: Sequence[Dot], taken: Sequence[Box], roof_at: Callable[[float], float]
) -> tuple[float, list[tuple[str, Box, Leader | None]]]:
    """(cost, labels): each at the cheapest place that is free of those before it."""
    cost, found, taken = 0.0, [], list(taken)
    dots, leaders = list(taken), []
    for px, py, radius, words in named:
        width, best = CHARACTER * len(words), None
        for aside, down in places(radius):
            left = px + aside - (0.0 if aside > 0 else width if aside < 0 else width / 2)
            box = (left, py + down - LINE / 2, left + width, py + down + LINE / 2)
            if not free(box, taken, roof_at) or any(crosses(line, box) for line in leaders):
                continue
            leader, price = None, 0.0
            if abs(down) > radius + LINE:
                edge = py + math.copysign(radius, down)
                foot = min(max(px, left), left + width), box[1] if down > 0 else box[3]
                leader = (px, edge), foot
                if any(crosses(leader, text) for _, text, _ in found):
                    continue
                others = [dot for dot in dots if not touch(dot, (px, edge, px, edge))]
                price = math.dist(*leader) + LINE * 3 * sum(crosses(leader, dot) for dot in others)
            if best is None or price < best[0]:
                best = price, (words, box, leader)
        cost += best[0] if best else WIDE  # a missing label is worse than any long leader
        if best:
            found.append(best[1])
            taken.append(best[1][1])
            leaders += [best[1][2]] if best[1][2] else []
    return cost, found


def places(radius: float) -> Iterator[tuple[float, float]]:
    """(aside, down) from a dot's middle, nearest first; 0 aside is above or below it."""
    near = radius + 5
    yield from ((near, 0.0), (-near, 0.0), (0.0, near + 6), (0.0, -near - 6))
    for step in range(1, 9):
        for down in (near + 6 + step * LINE, -near - 6 - step * LINE):
            yield from ((aside, down) for aside in (0.0, 8.0, -8.0, 60.0, -60.0))


def free(box: Box, taken: Sequence[Box], roof_at: Callable[[float], float]) -> bool:
    left, top, right, bottom = box
    if left < LEFT + 2 or right > WIDE - 4 or top < TOP or bottom > HIGH - BOTTOM - 2:
        return False
    if roof_at(right) <= bottom + 2 and roof_at(left) >= top - 1:
        return False
    return not any(touch(box, other) for other in taken)


def touch(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def crosses(line: Leader, box: Box) -> bool:
    """Whether a line runs through a box, looked at in steps of about 3 pixels."""
    (x1, y1), (x2, y2) = line
    if not touch((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), box):
        return False
    steps = 1 + int(math.dist(*line) / 3)
    points = ((x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps) for i in range(steps))
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points)


def along(middle: tuple[float, float], turn: float, length: float) -> Iterator[Box]:
    """Boxes of words that are set above a slope, `turn` degrees steep."""
    across, up = math.cos(math.radians(turn)), -math.sin(math.radians(turn))
    for i in range(-3, 4):
        at = length * i / 6
        px, py = middle[0] + at * across + 12 * up, middle[1] + at * up - 12 * across
        yield around(px, py, 12)


def around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius
