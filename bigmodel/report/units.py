"""Numbers as a person reads them: three digits, a unit, and "unknown" where there is none."""

import math
from collections.abc import Callable

Ladder = tuple[tuple[str, float], ...]  # (unit, its size), smallest first

BYTES: Ladder = tuple(
    (unit, 1024.0**i) for i, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
)
SECONDS: Ladder = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))
PLAIN: Ladder = (("", 1.0), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12))
UNKNOWN = "unknown"


def decimal(unit: str) -> Ladder:
    """The steps of a thousand of a unit: `decimal("FLOP/s")` has TFLOP/s."""
    return tuple((prefix + unit, 1e3**i) for i, prefix in enumerate(("", "k", *"MGTPEZY")))


def write(value: float | None, ladder: Ladder) -> str:
    """A number in the unit that leaves it at least 1, or in the smallest: "56.8 GiB"."""
    if value is None:
        return UNKNOWN
    unit, scale = step_of(value, ladder) if value else unscaled(ladder)
    return f"{digits(value / scale)} {unit}".strip()


def alike(largest: float | None, ladder: Ladder) -> Callable[[float | None], str]:
    """A writer for a column: the unit and the decimals that fit its largest number."""
    unit, scale = step_of(largest, ladder) if largest else unscaled(ladder)
    places = 2 if (largest or 0.0) / scale < 100 else 1

    def writer(value: float | None) -> str:
        return UNKNOWN if value is None else f"{value / scale:,.{places}f} {unit}"

    return writer


def step_of(value: float, ladder: Ladder) -> tuple[str, float]:
    """The step whose number is at least 1 once it is rounded to three digits."""
    fit = [step for step in ladder if float(f"{abs(value) / step[1]:.3g}") >= 1]
    return fit[-1] if fit else ladder[0]


def unscaled(ladder: Ladder) -> tuple[str, float]:
    return next(step for step in ladder if step[1] == 1.0)


def digits(value: float) -> str:
    """Three of them, or all that stand before the point: 9.10, 40.6, 1,024."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    power = math.floor(math.log10(float(f"{abs(value):.3g}")))
    return f"{value:,.{max(0, 2 - power)}f}"


def size(value: float | None) -> str:
    return write(value, BYTES)


def seconds(value: float | None) -> str:
    return write(value, SECONDS)


def flops(value: float | None) -> str:
    return write(value, decimal("FLOP"))


def count(value: float | None) -> str:
    """A whole number, its thousands apart; three digits of a small one."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else digits(value)


def rounded(value: float | None) -> str:
    """A large number in words: "70.6 billion"."""
    return write(value, PLAIN)


def dollars(value: float | None) -> str:
    return UNKNOWN if value is None else f"${value:,.2f}" if value >= 1 else f"${digits(value)}"


def percent(part: float | None, of: float | None = 1.0) -> str:
    """A share, to a tenth of a per cent."""
    return UNKNOWN if part is None or not of else f"{100 * part / of:.1f} %"


def times(number: float, noun: str) -> str:
    """ "1 warning", "3 warnings"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
