"""The live line on a terminal, the plain lines in a pipe."""

import io
import os
import re

import pytest

from bigmodel.train import progress


class Terminal(io.StringIO):
    """Knows what a person would see: what was erased is gone, colours are no characters."""

    encoding = "utf-8"

    def isatty(self):
        return True

    def seen(self):
        lines = [line.split("\r\x1b[2K")[-1] for line in self.getvalue().split("\n")]
        return [re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", line).strip("\r ") for line in lines]


@pytest.fixture(autouse=True)
def terminal_width(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")


VALUES = {
    "train/loss": 2.34567,
    "learning_rate": 3e-4,
    "grad_norm": 1.5,
    "tokens_per_second": 12345.0,
}


def test_a_pipe_gets_plain_lines():
    stream, now = io.StringIO(), [0.0]
    shown = progress.Progress(1000, stream=stream, now=lambda: now[0])
    shown(10, VALUES)
    now[0] = 2.0
    shown(20, VALUES | {"mfu": 0.456})
    shown.print("warning: x")
    assert stream.getvalue().splitlines() == [
        "step 10/1,000  loss 2.3457  tokens/s 12.3k  lr 3.00e-04  grad norm 1.50  ? left",
        "step 20/1,000  loss 2.3457  tokens/s 12.3k  MFU 45.6%  lr 3.00e-04  grad norm 1.50"
        "  3m 16s left",
        "warning: x",
    ]


def test_a_terminal_shows_one_line_and_warnings_above_it():
    stream, now = Terminal(), [0.0]
    with progress.Progress(100, stream=stream, now=lambda: now[0]) as shown:
        for step in range(1, 51):
            now[0] += 1.0
            shown(step, VALUES)
            if step == 20:
                shown.print("careful\nnow")
    seen = stream.seen()
    assert seen[:2] == ["careful", "now"]
    assert seen[2].startswith("━━━━━━━━╺━━━━━━━ 50/100  50s left  loss 2.3457")
    assert seen[3:] == [""]


@pytest.mark.parametrize("columns", [10, 40, 80, 200])
def test_the_line_never_wraps(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with progress.Progress(10**9, stream=stream) as shown:
        shown(10**8, VALUES)
    assert 0 < max(len(line) for line in stream.seen()) <= columns


def test_drawing_is_limited_in_rate_and_the_last_step_is_always_drawn():
    stream, now = Terminal(), [0.0]
    with progress.Progress(1000, stream=stream, now=lambda: now[0]) as shown:
        for step in range(1, 1001):
            now[0] += 0.001
            shown(step, VALUES)
    assert 10 <= stream.getvalue().count("\r") <= 14
    assert "1,000/1,000" in stream.seen()[-2]


def test_a_terminal_without_such_letters_gets_ascii():
    stream = Terminal()
    stream.encoding = "ascii"
    with progress.Progress(2, stream=stream) as shown:
        shown(1, VALUES)
        assert "1/2" in stream.seen()[-1]
    assert stream.getvalue().isascii()


def test_a_dumb_terminal_counts_as_a_pipe(monkeypatch):
    monkeypatch.setitem(os.environ, "TERM", "dumb")
    stream = Terminal()
    with progress.Progress(2, stream=stream) as shown:
        shown(1, VALUES)
    assert stream.getvalue().startswith("step 1/2")
    assert stream.getvalue().strip().isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (249, "4m 09s"), (3900, "1h 05m"), (183600, "2d 03h"), (1e300, "?")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (12345, "12.3k"), (999_900, "1M"), (4.56e9, "4.56G")],
)
def test_quantities(number, text):
    assert progress.quantity(number) == text
