"""The loop: it alone decides when to log, evaluate, save and stop."""

import collections
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

from bigmodel import checkpoint, compat, config
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.evaluate import evaluate, make_eval_step
from bigmodel.report import curve
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled, meter, processes, watch, workdir, writers
from bigmodel.train import progress as progresses
from bigmodel.train import state as states

Metrics = dict[str, float]


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved and the same command goes on.

    Attributes:
        status: what the process should end with.
    """

    def __init__(self, reason: str, step: int):
        super().__init__(f"stopped by {reason or 'another process'} at step {step:,}; it is saved")
        self.status = 130 if reason == "SIGINT" else 143


class Job(NamedTuple):
    """What the loop needs, made before its first step."""

    recipe: recipes.Recipe
    folder: epath.Path
    facts: dict[str, Any]  # what a checkpoint remembers of the run
    batches: pipeline.Batches
    evaluations: dict[str, recipes.Evaluation]
    checkpoints: checkpoint.Checkpoints
    step: compiled.Compiled
    progress: progresses.Progress


def train(loaded: config.Loaded | Any, folder: str | epath.Path) -> Metrics:
    """Trains what a config says in a workdir, or goes on with what the workdir holds.

    Args:
        loaded: from `bigmodel.load_config`, or a config.
        folder: the workdir, made if missing.

    Returns:
        The last metrics: of the training under "train/", of evaluations under their names.

    Raises:
        InputError: the config cannot be run, or not in this workdir.
        NonFiniteError: a loss or gradient was no number and `nonfinite` is "stop".
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    processes.join()
    compat.use_compilation_cache()
    recipe = recipes.make(loaded)
    folder = workdir.place(folder)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progresses.Progress(recipe.steps))
        stack.enter_context(meshes.use(recipe.mesh, recipe.rules))
        checkpoints = stack.enter_context(
            checkpoint.Checkpoints(folder / "checkpoints", **recipe.config.checkpoint.to_dict())
        )
        job, state = prepare(recipe, folder, checkpoints, progress)
        # Until here a signal ends the process at once: there is nothing to save.
        request = stack.enter_context(processes.StopRequest())
        write = stack.enter_context(
            writers.open_writers(
                folder,
                step=int(state.step),
                process=jax.process_index(),
                tensorboard=recipe.config.log.tensorboard,
                wandb=recipe.config.log.wandb,
                config=config.flat(config.plain(recipe.config)),
                extra=[progress],
            )
        )
        with jax.transfer_guard("disallow"):
            last = run(job, state, write, request)
    if jax.process_index() == 0:
        draw(recipe, folder)
    return last


def prepare(
    recipe: recipes.Recipe,
    folder: epath.Path,
    checkpoints: checkpoint.Checkpoints,
    progress: progresses.Progress,
) -> tuple[Job, states.TrainState]:
    """Data, the compiled step, and the state: restored if there is a checkpoint, else new."""
    show = progress.print if jax.process_index() == 0 else lambda text: None
    processes.one_first(lambda: recipes.prepare_data(recipe.loaded, preparing(show)))
    batches = recipes.train_batches(recipe)
    evaluations = recipes.evaluations(recipe)
    facts = workdir.facts(recipe.loaded, recipe.tokenizer.fingerprint, batches.rows.fingerprint)
    workdir.check_resume(checkpoints.metadata(), facts, str(folder))

    abstract = states.abstract(recipe)
    resumes = checkpoints.latest() is not None

    def make_state() -> states.TrainState:
        if resumes:
            return checkpoints.restore(abstract, warn=show).tree
        return states.create(recipe, abstract)

    step, state = compiled.compile_beside(recipe, abstract, batches.spec, make_state)
    checkpoint.warm(abstract)  # on a thread, while the first steps run
    if jax.process_index() == 0:
        workdir.write(folder, recipe.loaded, workdir.provenance(recipe.mesh))
    at = f", from step {int(state.step):,}" if resumes else ""
    show(f"{folder}: {states.describe(state)}, step compiled in {step.seconds:.1f} s{at}")
    return Job(recipe, folder, facts, batches, evaluations, checkpoints, step, progress), state


def run(
    job: Job, state: states.TrainState, write: writers.Writer, request: processes.StopRequest
) -> Metrics:
    """All steps that are left."""
    recipe, values = job.recipe, job.recipe.config
    start = int(jax.device_get(state.step))
    eval_step = make_eval_step(recipe)
    speed = meter.Meter(recipe)
    last: Metrics = {}
    pending: collections.deque[tuple[int, Any]] = collections.deque()

    def make(at: int) -> dict[str, jax.Array]:
        return pipeline.place(job.batches, at, lambda *_: recipe.batch_sharding)

    def observe(at: int, metrics: Any) -> None:
        """Looks at a step's metrics; the next one may be running."""
        found = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not watch.is_finite(found):
            if values.nonfinite == "stop":
                raise watch.stop(
                    job.folder / "debug" / f"step_{at}",
                    step=at,
                    metrics=found,
                    batch=job.batches.host(at - 1),
                    params=state.params,
                    params_step=at + len(pending),
                    resume=job.checkpoints.latest(),
                )
            job.progress.print(f"step {at:,}: loss {found['loss']}, its update was left out")
        if at % values.log.every == 0 or at in (start + 1, recipe.steps):
            told = found | speed.read(at, batches.waited_seconds)
            last.update({f"train/{name}": value for name, value in told.items()})
            write(at, {f"train/{name}": value for name, value in told.items()})

    def evaluate_due(at: int) -> Metrics:
        """The evaluations that are due."""
        due = {
            name: entry
            for name, entry in job.evaluations.items()
            if at == recipe.steps or (entry.every and at % entry.every == 0)
        }
        found: Metrics = {}
        params = states.eval_params(states.eval_parts(state), state.params) if due else None
        for name, entry in due.items():
            measured = evaluate(recipe, params, entry, eval_step)
            found |= {f"{name}/{metric}": value for metric, value in measured.items()}
        if found:
            write(at, found)
            last.update(found)
            job.progress.print(f"step {at:,}: " + describe(found))
        return found

    window = values.profile.start, values.profile.steps
    with (
        pipeline.ahead(make, start, recipe.steps) as batches,
        meter.Trace(job.folder / "profile", *window) as trace,
    ):
        for at, batch in batches:
            state, metrics = trace.step(at, job.step.run, state, batch)
            done = at + 1
            pending.append((done, metrics))
            if len(pending) > job.step.ahead:
                observe(*pending.popleft())

            stop = request.agreed(done)
            save = job.checkpoints.due(done) or done == recipe.steps or stop
            evaluates = done == recipe.steps or any(
                entry.every and done % entry.every == 0 for entry in job.evaluations.values()
            )
            if save or evaluates:
                while pending:  # what is no number must not be saved
                    observe(*pending.popleft())
                with speed.paused():
                    measured = evaluate_due(done)
                    if save:
                        job.checkpoints.save(done, state, job.facts, metrics=measured, wait=stop)
            if stop and done < recipe.steps:
                raise Stopped(request.reason, done)
    job.checkpoints.wait()
    return last


def draw(recipe: recipes.Recipe, folder: epath.Path) -> None:
    """The loss curve of a run that has ended, as a picture in its workdir."""
    rows = writers.rows(folder)
    validation = next((f"{name}/loss" for name in recipe.config.evals), "")
    path = curve.draw(rows, folder / "curve.png", title=folder.name, validation=validation)
    print(f"loss curve: {path}")


def preparing(show: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Tells of the preparation of data, at most every few seconds."""
    told = [time.monotonic()]

    def report(what: str, done: int, total: int) -> None:
        if time.monotonic() - told[0] > 5:
            told[0] = time.monotonic()
            share = f"{done / total:.0%}" if total else f"{done / 2**20:,.0f} MiB"
            show(f"preparing {what}: {share}")

    return report


def describe(measured: Mapping[str, float]) -> str:
    shown = ("loss", "bits_per_byte", "accuracy")
    parts = [
        f"{name} {value:.4f}" for name, value in measured.items() if name.split("/")[-1] in shown
    ]
    return "  ".join(parts)
