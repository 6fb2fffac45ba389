"""A process killed at any moment leaves checkpoints that can be trusted."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from bigmodel import checkpoint
from tests.checkpoint.save_until_killed import state

KILLS = 20
DEVICES = "--xla_force_host_platform_device_count=2"
SCRIPT = pathlib.Path(__file__).with_name("save_until_killed.py")
ROOT = pathlib.Path(__file__).parents[2]


def test_killed_while_saving_the_newest_is_complete(tmp_path):
    rng = random.Random(0)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))
    folder = tmp_path / "checkpoints"
    newest, unfinished = 0, 0
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": DEVICES},
    ) as process:
        starts, lines = process.stdin, process.stdout
        assert starts is not None
        assert lines is not None
        for _ in range(KILLS):
            starts.write("start\n")
            starts.flush()
            child = int(lines.readline())
            begun = [int(lines.readline()) for _ in range(2)]
            time.sleep(rng.uniform(0, 0.2))
            os.kill(child, signal.SIGKILL)
            while lines.readline() != "dead\n":
                pass
            restored = checkpoint.Checkpoints(folder).restore(abstract, warn=print)
            assert newest + 1 == begun[0] <= restored.step
            assert restored.metadata == {"step": restored.step}
            jax.tree.map(np.testing.assert_array_equal, restored.tree, state(restored.step))
            newest = checkpoint.Checkpoints(folder).latest() or 0
            unfinished += any("tmp" in path.name for path in folder.rglob("*"))
        starts.close()
    assert unfinished >= 3, "too few kills fell into a save to prove anything"
