"""Small runs for tests: a config on text of the repository, and the command as a process."""

import os
import pathlib
import subprocess
import sys
import time

from etils import epath

from bigmodel.checkpoint import manifest
from bigmodel.config import load_text
from bigmodel.train import writers
from tests import quick

ROOT = pathlib.Path(__file__).parents[1]
TEXT = ROOT / "tests" / "golden" / "text.jsonl"

CONFIG = """
import bigmodel


def get_config():
    config = bigmodel.default_config()
    config.steps = 30
    config.batch = 8
    config.model.update(
        vocab=264, width=32, layers=2, heads=4, kv_heads=2, length=64, hidden=64, norm="rms",
        position="rope", feedforward="swiglu", bias=False, dropout=0.1, dtype="float32",
    )
    config.data.update(source="jsonl:TEXT", split="all", length=32, packing="best_fit")
    config.schedule.update(peak=1e-2, warmup=5)
    config.checkpoint.update(every=10, keep=2)
    config.evals = dict(validation=dict(split="all", every=15, batches=2))
    config.log.update(every=1, tensorboard=False)
    return config
""".replace("TEXT", str(TEXT))


# A source that takes its time, and says when it has begun.
SLOW = (
    CONFIG.replace(
        "def get_config():",
        """import pathlib
import time


def slow():
    pathlib.Path("STARTED").touch()
    time.sleep(1000)
    yield "late"


EXTENSIONS = {"source": {"slow": slow}}


def get_config():""",
    )
    .replace("default_config()", "default_config(extensions=EXTENSIONS)")
    .replace(f"jsonl:{TEXT}", "slow")
)


def config(**overrides):
    """The config of CONFIG as a value; overrides such as model={"dropout": 0.0}, steps=3."""
    made = load_text(CONFIG).config.copy_and_resolve_references().unlock()
    for name, value in overrides.items():
        if isinstance(value, dict) and name != "evals":
            made[name].update(value)
        else:
            made[name] = value
    return made.lock()


def write_config(folder: pathlib.Path, text: str = CONFIG) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.py"
    path.write_text(text)
    return path


def start(*arguments: object, devices: int = 1, **variables: str) -> subprocess.Popen:
    """`python -m bigmodel ARGUMENTS` as a process of its own, on simulated CPU devices."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": quick.FLAGS
        + (f" --xla_force_host_platform_device_count={devices}" * (devices > 1)),
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "bigmodel", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for(path: pathlib.Path, *processes: subprocess.Popen) -> None:
    """Returns when a file is there, which one of the processes makes."""
    while not path.exists():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What a process printed, once it has ended as it should."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == status, f"{process.args!r}: {process.returncode}\n{out}\n{err}"
    return out + err


def losses(folder: pathlib.Path) -> dict[int, float]:
    """Step -> training loss, of all rows that count."""
    rows = writers.rows(folder)
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def checksums(folder: pathlib.Path, step: int) -> dict:
    """What a checkpoint's manifest says of each array: shape, dtype and a checksum of its bits."""
    return manifest.read(epath.Path(folder) / "checkpoints" / str(step))["leaves"]
