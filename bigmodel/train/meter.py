"""How fast a run is, and a profiler's trace of a window of its steps."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from etils import epath

from bigmodel import costs
from bigmodel import recipe as recipes

S = TypeVar("S")


class Meter:
    """Tokens per second, utilisation and waiting since the last reading."""

    def __init__(self, recipe: recipes.Recipe):
        devices = recipe.mesh.devices
        self.unit, self.units = recipe.unit, recipe.units
        self.flops_per_token = flops_per_token(recipe)
        self.device = devices.flat[0].device_kind
        self.devices = int(devices.size)
        self.at: int | None = None
        self.since = time.perf_counter()
        self.waited = 0.0

    def read(self, at: int, waited_seconds: float) -> dict[str, float]:
        """Figures of the steps since the last call; the first call has none: it compiled."""
        now = time.perf_counter()
        steps, seconds = at - (at if self.at is None else self.at), now - self.since
        waited = waited_seconds - self.waited
        self.at, self.since, self.waited = at, now, waited_seconds
        if steps <= 0:
            return {}
        rate = steps * self.units / seconds
        found = {
            f"{self.unit}_per_second": rate,
            "step_seconds": seconds / steps,
            "data_wait_share": min(waited / seconds, 1.0),
        }
        if costs.chip(self.device):
            for convention, flops in self.flops_per_token.items():
                share = costs.mfu(rate * flops / self.devices, self.device)
                found["mfu" + costs.CONVENTIONS[convention]] = share
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Within it time does not count: evaluation and saving are no steps."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began


def flops_per_token(recipe: recipes.Recipe) -> dict[str, float]:
    """Model FLOPs of a trained token by convention; none for a model of the config's own."""
    if recipe.config.model.name != "decoder":
        return {}
    length = recipe.config.data.length
    count = functools.partial(costs.train_flops, recipe.fields, length=length)
    return {name: count(convention=name).total for name in costs.CONVENTIONS}


class Trace:
    """Records a window of steps with jax's profiler (for TensorBoard, xprof or Perfetto).

    To be entered around the run: what it has recorded is written however the run ends.
    """

    def __init__(self, folder: epath.Path, start: int, steps: int):
        self.folder, self.window, self.records = folder, range(start, start + steps), False
        self.last: Any = None  # metrics of the step recorded last

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(
        self, at: int, run: Callable[[S, Any], tuple[S, Any]], state: S, batch: Any
    ) -> tuple[S, Any]:
        """`run(state, batch)`; a run that goes on inside the window records what is left of it."""
        if at not in self.window:
            return run(state, batch)
        if not self.records:
            jax.profiler.start_trace(str(self.folder))
            self.records = True
        with jax.profiler.StepTraceAnnotation("train", step_num=at):
            state, self.last = run(state, batch)
        metrics = self.last
        if at == self.window[-1]:
            self.close()
        return state, metrics

    def close(self) -> None:
        """Ends the record, once the steps that are under way have ended."""
        if not self.records:
            return
        try:
            jax.block_until_ready(self.last)
        finally:
            jax.profiler.stop_trace()
            self.records, self.last = False, None
