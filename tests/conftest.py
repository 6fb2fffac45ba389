"""Eight CPU devices in every test, so that each may build a mesh."""

import gc
import os
import pathlib
import signal

from tests import quick

DEVICES = "--xla_force_host_platform_device_count"

os.environ["JAX_PLATFORMS"] = "cpu"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # set before jax is imported, by whomever
    flags = f"{DEVICES}=8 {quick.FLAGS}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

# Traces are millions of small objects that live on: looking for cycles among them is a fifth of
# the time at Python's own thresholds.
gc.set_threshold(200_000, 50, 1000)

# What runs prepare and compile is kept between tests, and out of the user's own cache.
os.environ.setdefault("BIGMODEL_CACHE", os.path.abspath(".pytest_cache/bigmodel"))

# A shell that runs the tests in the background lets them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
    files = list(pathlib.Path(__file__).parent.parent.glob("bigmodel/**/*.py"))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    terminalreporter.write_line(f"bigmodel is {lines:,} lines in {len(files)} files")
