"""Labels of a picture's dots, put where nothing is yet, each as near to its dot as can be.

Of some orders in which that can be done, the one with the shortest leaders counts.
"""

import math
from collections.abc import Callable, Iterator, Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels; y grows downward
Dot = tuple[float, float, float, str]  # x, y, radius, words
Leader = tuple[tuple[float, float], tuple[float, float]]  # from a dot to its label
Label = tuple[str, Box, Leader | None]

CHARACTER, LINE = 6.3, 14.0  # of a label of 12 px: mean width, height
MISSING = 1000.0  # a dot without its label is worse than any long leader


def place(
    named: Sequence[Dot],
    *,
    dots: Sequence[Box],
    words: Sequence[Box],
    allowed: Callable[[Box], bool],
) -> list[Label]:
    """Where labels go; one that finds no place is left out.

    Args:
        named: what gets a label, most important first.
        dots: boxes of all dots; no label touches one, and leaders go round them if they can.
        words: boxes of other texts, which no label and no leader touches.
        allowed: whether a label may stand in a box, as far as the rest of the picture goes.
    """
    turned = [[*named[i:], *named[:i]] for i in range(len(named))]
    tries = [
        placed(order, dots=dots, words=words, allowed=allowed)
        for order in (*turned, *(order[::-1] for order in turned))
    ]
    return min(tries, key=lambda result: result[0])[1] if tries else []


def placed(
    named: Sequence[Dot],
    *,
    dots: Sequence[Box],
    words: Sequence[Box],
    allowed: Callable[[Box], bool],
) -> tuple[float, list[Label]]:
    """(cost, labels), each at the cheapest place that is free of those before it."""
    cost, found = 0.0, []
    texts, leaders = list(words), list[Leader]()
    for dot in named:
        fit = [
            (price(leader, dot, dots), box, leader)
            for box, leader in candidates(dot)
            if allowed(box)
            and not any(touch(box, other) for other in (*dots, *texts))
            and not any(crosses(line, box) for line in leaders)
            and not (leader and any(crosses(leader, text) for text in texts))
        ]
        if not fit:
            cost += MISSING
            continue
        spent, box, leader = min(fit, key=lambda place: place[0])
        cost += spent
        texts.append(box)
        leaders += [leader] if leader else []
        found.append((dot[3], box, leader))
    return cost, found


def candidates(dot: Dot) -> Iterator[tuple[Box, Leader | None]]:
    """Boxes for a dot's label, nearest first: beside it, then above and below with a leader."""
    x, y, radius, words = dot
    near, width = radius + 5, width_of(words)
    yield boxed(x + near, y, width), None
    yield boxed(x - near - width, y, width), None
    for step in range(9):
        for down in (near + 6 + step * LINE, -near - 6 - step * LINE):
            for left in (-width / 2, 8.0, -8.0 - width, 60.0, -60.0 - width):
                box = boxed(x + left, y + down, width)
                edge = y + math.copysign(radius, down)
                foot = min(max(x, box[0]), box[2]), box[1] if down > 0 else box[3]
                yield box, (((x, edge), foot) if step else None)
                if not step:  # without a leader only the place in the middle tells whose it is
                    break


def price(leader: Leader | None, dot: Dot, dots: Sequence[Box]) -> float:
    """The length of a leader, and three lines more for each dot that it runs over."""
    if leader is None:
        return 0.0
    start = (*leader[0], *leader[0])
    over = [other for other in dots if not touch(other, start) and crosses(leader, other)]
    return math.dist(*leader) + 3 * LINE * len(over)


def width_of(words: str) -> float:
    return CHARACTER * len(words)


def boxed(left: float, middle: float, width: float) -> Box:
    """The box of a line of text around a height."""
    return left, middle - LINE / 2, left + width, middle + LINE / 2


def around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


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
