"""What a run tells of its steps and evaluations, and where it stops at what is no number."""

import collections
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bigmodel import recipe as recipes
from bigmodel import scoring
from bigmodel.evaluate import evaluate, make_eval_step
from bigmodel.train import meter, void, watch, writers
from bigmodel.train import state as states
from bigmodel.train.job import Job

Metrics = dict[str, float]


class Teller:
    """Tells of steps and evaluations, and stops the run at what is no number.

    Attributes:
        last: the last figures of everything told.
        speed: of the steps.
        skipped: updates that were left out.
        pending: steps that were started and not looked at, with their metrics.
    """

    def __init__(self, job: Job, write: writers.Writer, *, first: int):
        self.job, self.write = job, write
        self.first = first  # step of this process, whose time is that of other things too
        self.last: Metrics = {}
        self.skipped = 0
        self.speed = meter.Meter(job.recipe)
        self.pending: collections.deque[tuple[int, Any]] = collections.deque()
        self.eval_step = make_eval_step(job.recipe)

    def ran(self, step: int, metrics: Any) -> None:
        """A step has been started."""
        self.pending.append((step, metrics))

    def look(self, state: states.TrainState, waited_seconds: float, *, behind: int) -> None:
        """Looks at the metrics of all steps but the last few, which may be under way."""
        while len(self.pending) > behind:
            step, metrics = self.pending.popleft()
            found = {name: float(value) for name, value in jax.device_get(metrics).items()}
            recipe = self.job.recipe
            if action := watch.action(found, recipe.config):
                self.went_wrong(step, found, state, action)
            every = recipe.config.log.every
            if action or step % every == 0 or step in (self.first, recipe.steps):
                found |= self.speed.read(step, waited_seconds)
                row = {f"train/{name}": value for name, value in found.items()}
                self.tell(step, row | self.job.ledger.figures(last=step == recipe.steps))

    def went_wrong(self, step: int, found: Metrics, state: states.TrainState, action: str) -> None:
        """Raises it, or says that the update was skipped, as the action says."""
        job = self.job
        seen: dict[str, Any] = dict(step=step, metrics=found, params=state.params)
        seen |= dict(params_step=step + len(self.pending))
        folder = job.folder / "debug" / f"step_{step}"
        if action == "stop":
            batch = job.batches.host(step - 1)
            raise watch.stop(folder, **seen, batch=batch, resume=void.newest(job.checkpoints))
        if action == "rollback":
            told = watch.write_down(folder, **seen, batch=job.batches.host(step - 1))
            raise void.RollBack(step, told)
        told = watch.describe(step, found)
        if action == "skip":
            self.skipped += 1
            told += f"; its update was left out, {self.skipped} since this start"
        job.progress.print(told)

    def evaluate(
        self, step: int, state: states.TrainState, due: Sequence[recipes.Evaluation]
    ) -> Metrics:
        """The figures of evaluations, as "NAME/metric"."""
        if not due:
            return {}
        params = states.eval_params(states.eval_parts(state), state)
        recipe, found = self.job.recipe, Metrics()

        def eval_step(*given: Any) -> dict[str, jax.Array]:
            self.job.heart.at("evaluate", step)  # long ones are no stall
            return self.eval_step(*given)

        for entry in due:
            began = time.perf_counter()
            measured = evaluate(recipe, params, entry, eval_step)
            self.job.heart.at("evaluate", step)
            if entry.scores:
                measured |= scoring.score(recipe, recipe.tuning.merged(params), entry)
            measured["seconds"] = time.perf_counter() - began
            found |= {f"{entry.name}/{metric}": value for metric, value in measured.items()}
        self.tell(step, found)
        self.job.progress.print(f"step {step:,}: " + describe(found))
        return found

    def tell(self, step: int, found: Metrics) -> None:
        self.last.update(found)
        self.write(step, found)


def describe(measured: Mapping[str, float]) -> str:
    shown = ("loss", "bits_per_byte", "accuracy")
    parts = [
        f"{name} {value:.4f}" for name, value in measured.items() if name.split("/")[-1] in shown
    ]
    return "  ".join(parts)
