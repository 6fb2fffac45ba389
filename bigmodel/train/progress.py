"""What a person sees of a run: a line that lives on a terminal, plain lines in a pipe."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

import rich.console
import rich.progress
import rich.table

SHOWN = {  # metric -> (label, how it is written), in the order of importance
    "loss": ("loss", lambda x: f"{x:.4f}"),
    "tokens_per_second": ("tokens/s", lambda x: quantity(x)),
    "examples_per_second": ("examples/s", lambda x: quantity(x)),
    "mfu": ("MFU", lambda x: f"{100 * x:.1f}%"),
    "learning_rate": ("lr", lambda x: f"{x:.2e}"),
    "grad_norm": ("grad norm", lambda x: f"{x:.2f}"),
}
BAR = 16  # characters


class Progress:
    """Shows how far a run is. Call it with each step's metrics; `print` what should stay.

    On a terminal one line is drawn over itself, at most `per_second` times a second and never
    wider than the terminal: what does not fit is cut off on the right. In a pipe a plain line is
    written at each call, without any control character.

    Attributes:
        total: steps of the whole run.
        live: whether the stream is a terminal that can be drawn on.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: TextIO | None = None,
        per_second: float = 10.0,
        now: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty() and os.environ.get("TERM", "") != "dumb"
        self.pause = 1 / per_second
        self.now = now
        self.first: tuple[int, float] | None = None  # step and time of the first call
        self.drawn_at = float("-inf")
        bar = rich.table.Column(min_width=BAR)
        line = rich.table.Column(no_wrap=True, overflow="crop")
        self.drawn = rich.progress.Progress(
            rich.progress.BarColumn(BAR, table_column=bar),
            rich.progress.TextColumn("{task.description}", markup=False, table_column=line),
            console=rich.console.Console(file=self.stream, highlight=False),
            auto_refresh=False,
            disable=not self.live,
        )
        self.task = self.drawn.add_task("", total=total, visible=False)

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
        at, left = f"{step:,}/{self.total:,}", f"{duration(self.seconds_left(step))} left"
        if not self.live:
            self.stream.write("  ".join([f"step {at}", *parts, left]) + "\n")
            self.stream.flush()
            return
        due = step >= self.total or self.now() - self.drawn_at >= self.pause
        if due:
            self.drawn_at = self.now()
        line = "  ".join([at, left, *parts])
        self.drawn.update(self.task, completed=step, description=line, visible=True, refresh=due)

    def print(self, text: str) -> None:
        """Writes lines that stay, above the live one."""
        if self.live:
            self.drawn.console.print(text, markup=False, soft_wrap=True)
        else:
            self.stream.write(text + "\n")
            self.stream.flush()

    def __enter__(self) -> "Progress":
        self.drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the last line as it is and goes below it."""
        self.drawn.stop()

    def seconds_left(self, step: int) -> float:
        """By the speed since the first call: what came before it was compiling."""
        if self.first is None:
            self.first = step, self.now()
        first, begun = self.first
        if step <= first:
            return float("inf")
        return (self.now() - begun) / (step - first) * max(self.total - step, 0)


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
