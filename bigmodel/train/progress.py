"""What a person sees of a run: a line that lives on a terminal, plain lines in a pipe."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

SHOWN = {  # metric -> (label, how it is written), in the order of importance
    "loss": ("loss", lambda x: f"{x:.4f}"),
    "tokens_per_second": ("tokens/s", lambda x: quantity(x)),
    "mfu": ("MFU", lambda x: f"{100 * x:.1f}%"),
    "learning_rate": ("lr", lambda x: f"{x:.2e}"),
    "grad_norm": ("grad norm", lambda x: f"{x:.2f}"),
}
BAR = 16  # characters


class Progress:
    """Shows how far a run is. Call it with each step's metrics; `print` what should stay.

    On a terminal one line is drawn over itself, at most `per_second` times a second and never
    wider than the terminal: what does not fit is left out from the right. In a pipe a plain
    line is written at each call, without any control character.

    Attributes:
        total: steps of the whole run.
        live: whether to draw; by default where the stream is a terminal.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: TextIO | None = None,
        live: bool | None = None,
        per_second: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self.stream = stream or sys.stdout
        self.live = is_terminal(self.stream) if live is None else live
        self.pause = 1 / per_second
        self.now = now
        self.marks = "━─" if can_write("━─", self.stream) else "#-"
        self.first: tuple[int, float] | None = None  # step and time of the first call
        self.drawn_at = float("-inf")
        self.line = ""
        self.width = 0  # of what stands on the terminal now

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """A writer (see writers.py) of the names in SHOWN; others are passed over."""
        values = {name.removeprefix("train/"): value for name, value in values.items()}
        parts = [
            f"{label} {write(values[name])}"
            for name, (label, write) in SHOWN.items()
            if values.get(name) is not None
        ]
        if not parts:  # an evaluation's figures, which are printed
            return
        left = f"{duration(self.seconds_left(step))} left"
        if not self.live:
            self.stream.write("  ".join([f"step {step:,}/{self.total:,}", *parts, left]) + "\n")
            self.stream.flush()
            return
        parts.insert(1, left)
        self.line = fit([f"{self.bar(step)} {step:,}/{self.total:,}", *parts])
        if step >= self.total or self.now() - self.drawn_at >= self.pause:
            self.draw()

    def print(self, text: str) -> None:
        """Writes lines that stay, above the live one."""
        if self.live and self.line:
            first, *others = text.split("\n")
            text = "\n".join(["\r" + first.ljust(self.width), *others])
            self.width = 0
        self.stream.write(text + "\n")
        if self.live and self.line:
            self.draw()
        self.stream.flush()

    def close(self) -> None:
        """Leaves the last line as it is and goes below it."""
        if self.live and self.line:
            self.draw()
            self.stream.write("\n")
            self.stream.flush()
            self.line, self.width = "", 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def draw(self) -> None:
        # One write of the whole line, padded over the old one: nothing is blank in between.
        self.stream.write("\r" + self.line.ljust(self.width))
        self.stream.flush()
        self.width = len(self.line)
        self.drawn_at = self.now()

    def seconds_left(self, step: int) -> float:
        """By the speed since the first call: what came before it was compiling."""
        if self.first is None:
            self.first = step, self.now()
        first, begun = self.first
        if step <= first:
            return float("inf")
        return (self.now() - begun) / (step - first) * max(self.total - step, 0)

    def bar(self, step: int) -> str:
        full = BAR * min(step, self.total) // max(self.total, 1)
        return self.marks[0] * full + self.marks[1] * (BAR - full)


def fit(parts: list[str]) -> str:
    """As many of the parts as the terminal has room for; its last column stays free."""
    room = shutil.get_terminal_size().columns - 1
    while len(parts) > 1 and len("  ".join(parts)) > room:
        parts = parts[:-1]
    return "  ".join(parts)[:room]


def duration(seconds: float) -> str:
    """2d 03h, 1h 05m, 4m 09s, 7s; nothing longer is known than a thousand days."""
    if not seconds < 86400 * 1000:
        return "?"
    for unit, length, next_unit, next_length in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if seconds >= length:
            rest = int(seconds % length // next_length)
            return f"{int(seconds // length)}{unit} {rest:02d}{next_unit}"
    return f"{int(seconds)}s"


def quantity(number: float) -> str:
    """950, 12.3k, 4.56M: three digits or so."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:  # 999,900 is 1M, not 1e+03k
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def can_write(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
