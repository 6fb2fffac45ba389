"""Saves as fast as it can until it is killed. Run as: save_until_killed.py FOLDER

Each line on stdin starts a saver anew: a fork of this process, as importing takes seconds.
"""

import os
import sys

import jax
import numpy as np
import orbax.checkpoint

from bigmodel import checkpoint


def state(step):
    matrix = np.full((8, 64), step, np.float32) + np.arange(64, dtype=np.float32)
    return {"params": {"kernel": matrix}, "opt_state": {"kernel": matrix**2}, "step": matrix + 1}


def tell(word):
    """A line as a whole: one that is printed may be killed before its end."""
    os.write(1, f"{word}\n".encode())


def save_for_ever(folder):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    checkpoints = checkpoint.Checkpoints(folder, keep=2)
    step = checkpoints.latest() or 0
    while True:
        step += 1
        checkpoints.save(step, jax.device_put(state(step), sharding), {"step": step})
        tell(step)


if __name__ == "__main__":
    assert orbax.checkpoint
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            save_for_ever(sys.argv[1])
        tell(child)
        os.waitpid(child, 0)
        tell("dead")
