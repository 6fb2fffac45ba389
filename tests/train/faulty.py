"""Runs whose numbers go wrong at a step: a line through points, some of them planted far away."""

import contextlib
from unittest import mock

import bigmodel
from bigmodel import config
from bigmodel.train import loop, processes
from tests import runs

BATCH = 8
CONFIG = '''
"""A line through points; those of the batches `bad` are `by` times as far away."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import bigmodel
from bigmodel.models.handle import Model


def make_line(*, width: int = 8) -> Model:
    def init(rng, batch):
        return {"kernel": nn.LogicallyPartitioned(jnp.zeros((width,)), ("embed",))}

    def apply(params, batch, rngs=None, cache=None):
        return {"y": batch["x"] @ params["kernel"]}

    return Model(init=init, apply=apply, example={"x": jnp.zeros((1, width))})


def squares(model):
    def objective(params, batch, rng):
        off = (model.apply(params, batch)["y"] - batch["y"]) ** 2
        return (off * batch["weights"]).sum(), {"weight": batch["weights"].sum()}

    return objective


@dataclasses.dataclass(frozen=True)
class Points:
    bad: tuple[int, ...]
    by: float
    weights = (1.0,)
    bytes_per_target = 0.0
    fingerprint = "0" * 64
    parts = property(lambda self: (self,))

    def __len__(self):
        return 1000

    def describe(self):
        return "points"

    def take(self, indices, epochs=None):
        x = np.stack([np.random.default_rng(int(i)).normal(size=8) for i in indices])
        y = x.sum(1) + 1
        planted = np.isin(np.asarray(indices) // BATCH, self.bad)
        y = np.where(planted, y * self.by, y)
        return {name: a.astype(np.float32) for name, a in dict(x=x, y=y, weights=1 + 0 * y).items()}


def open_points(source: str = "points", *, split: str = "train", bad: tuple = (), by: float = 1e3):
    return Points(tuple(bad), by)


EXTENSIONS = {
    "model": {"line": make_line}, "objective": {"squares": squares}, "data": {"points": open_points}
}


def get_config():
    config = bigmodel.default_config(
        "line", objective="squares", data="points", extensions=EXTENSIONS
    )
    config.steps, config.batch, config.data.shuffle = 12, BATCH, False
    config.schedule.update(peak=1e-1, warmup=2)
    config.log.update(every=5, tensorboard=False)
    config.checkpoint.update(every=4, keep=3)
    config.spikes.steps = 4
    return config
'''.replace("BATCH", str(BATCH))

INFINITE = "data.by=1e30"  # its square is no float32


def train(folder, *given: str, killed_at: int = 0) -> dict[str, float]:
    """A run of 12 steps in `folder`, which saves at 4 and 8.

    Args:
        folder: the workdir; the config is written beside it.
        *given: overrides.
        killed_at: after this step it ends as if it had been killed; 0: never.
    """
    loaded = config.load(str(runs.write_config(folder.parent, CONFIG)), list(given))
    asked = processes.StopRequest.agreed

    def agreed(self, at: int) -> bool:
        if at == killed_at:
            raise Killed
        return asked(self, at)

    killing = mock.patch.object(processes.StopRequest, "agreed", agreed)
    with contextlib.suppress(Killed), killing, mock.patch.object(loop, "draw"):
        return bigmodel.train(loaded, folder)
    return {}


class Killed(BaseException):
    """What ends a run as if it had been killed."""
