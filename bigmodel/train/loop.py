"""The loop: it alone decides when to log, evaluate, save and stop."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from bigmodel import checkpoint, compat, config, scoring
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.report import curve
from bigmodel.sharding import mesh as meshes
from bigmodel.train import (
    goodput,
    meter,
    preparing,
    processes,
    safety,
    teller,
    void,
    workdir,
    writers,
)
from bigmodel.train import progress as progresses
from bigmodel.train import state as states
from bigmodel.train.job import Job

Metrics = dict[str, float]


def train(
    loaded: config.Loaded | Any, folder: str | epath.Path, *, spent: float = 0.0, kept: str = ""
) -> Metrics:
    """Trains what a config says in a workdir, or goes on with what the workdir holds.

    Args:
        loaded: from `bigmodel.load_config`, or a config.
        folder: the workdir, made if missing.
        spent: seconds that went before the call and are a part of the attempt (goodput.py).
        kept: folder of compiled steps that are kept for the next start (saved.py); "": none are.
            The code that runs must be that on disk: nothing of it patched.

    Returns:
        The last metrics: of the training under "train/", of evaluations under their names.

    Raises:
        InputError: the config cannot be run, or not in this workdir.
        AbsentError: not all processes of the job have come.
        WentWrongError: a number went wrong and the config says to stop, or to go back no more.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    with goodput.Ledger(spent) as ledger:
        return _train(loaded, folder, ledger, kept)


def _train(
    loaded: config.Loaded | Any, folder: str | epath.Path, ledger: goodput.Ledger, kept: str
) -> Metrics:
    ledger.phase("start/join")
    processes.join(loaded)
    ledger.phase("start/recipe")
    compat.use_compilation_cache()
    with contextlib.ExitStack() as stack:
        values: Any = getattr(loaded, "config", loaded)
        heart = stack.enter_context(safety.watched(values.watch))
        recipe = recipes.make(loaded)
        for name, entry in recipe.config.evals.items():
            scoring.check(recipe, name, entry)
        folder = workdir.place(folder)
        progress = stack.enter_context(progresses.Progress(recipe.steps))
        if jax.process_index() == 0:
            heart.show = progress.print
        stack.enter_context(safety.held(recipe, folder, heart))
        stack.enter_context(meshes.use(recipe.mesh, recipe.rules))
        checkpoints = stack.enter_context(
            checkpoint.Tiers(
                folder / "checkpoints",
                **recipe.config.checkpoint.to_dict(),
                order=recipe.layer_order,
            )
        )
        around = (progress, heart, ledger)
        job, state = preparing.prepare(recipe, folder, checkpoints, *around, kept=kept)
        # Until here a signal ends the process at once, as there is nothing to save; among several
        # jax holds SIGTERM back, and it is answered after the first step.
        request = stack.enter_context(processes.StopRequest())
        opened = functools.partial(
            writers.open_writers,
            folder,
            process=jax.process_index(),
            tensorboard=recipe.config.log.tensorboard,
            wandb=recipe.config.log.wandb,
            config=config.flat(config.plain(recipe.config)),
            extra=[progress],
        )
        last = attempts(job, state, opened, request)
    if jax.process_index() == 0:
        with ledger.span("saving"):
            draw(recipe, folder)
    return last


def attempts(
    job: Job, state: states.TrainState, opened: Callable[..., Any], request: processes.StopRequest
) -> Metrics:
    """`run`, and again from the newest checkpoint as often as a step goes wrong (void.py)."""
    while True:
        with opened(step=int(state.step)) as write, jax.transfer_guard("disallow"):
            try:
                return run(job, state, write, request)
            except void.RollBack as error:
                bad = error.with_traceback(None)  # its frames hold a state: room for another
        state = void.roll_back(job, bad)


def run(
    job: Job, state: states.TrainState, write: writers.Writer, request: processes.StopRequest
) -> Metrics:
    """All steps that are left."""
    recipe = job.recipe
    start = int(jax.device_get(state.step))
    told = teller.Teller(job, write, first=start + 1)

    def make(at: int) -> dict[str, jax.Array] | None:
        if at in job.void:
            return None
        return pipeline.place(job.batches, at, lambda *_: recipe.batch_sharding)

    profile = recipe.config.profile
    with (
        pipeline.ahead(make, start, recipe.steps) as batches,
        meter.Trace(job.folder / "profile", profile.start, profile.steps) as trace,
        job.ledger.steps(start),
    ):
        job.heart.at("step", start)
        for at, batch in batches:
            step = void.pass_over if batch is None else job.step.run
            if job.replay and batch:
                job.replay.check(at + 1, state, batch)
            state, metrics = trace.step(at, step, state, batch)
            done = at + 1
            job.heart.at("step", done, batches.waited_seconds)
            if metrics:
                told.ran(done, metrics)
            told.look(state, batches.waited_seconds, behind=job.step.ahead)
            job.ledger.step(done, batches.waited_seconds)
            if done == 1:  # not before, when it would hold the start up; who resumes has all of it
                job.checkpoints.warm(states.whole(state))

            stop = request.agreed(done)
            save = job.checkpoints.due(done, ends=stop or done == recipe.steps)
            due = [entry for entry in job.evaluations.values() if is_due(entry, done, recipe.steps)]
            if save or due:
                # What is no number must not be saved.
                told.look(state, batches.waited_seconds, behind=0)
                with told.speed.paused():
                    job.heart.at("evaluate", done)
                    with job.ledger.span("evaluation"):
                        measured = told.evaluate(done, state, due)
                    if save:
                        job.heart.at("save", done)
                        with job.ledger.span("saving"):
                            whole, facts = states.whole(state), job.facts
                            job.checkpoints.save(done, whole, facts, metrics=measured, wait=stop)
                    job.heart.at("step", done)
            if stop and done < recipe.steps:
                raise safety.Stopped(request.reason, done)
    job.heart.at("save", recipe.steps)
    with job.ledger.span("saving"):
        job.checkpoints.finish()
    return told.last


def is_due(entry: recipes.Evaluation, step: int, steps: int) -> bool:
    return step == steps or (entry.every > 0 and step % entry.every == 0)


def draw(recipe: recipes.Recipe, folder: epath.Path) -> None:
    """The loss curve of a run that has ended, as a picture in its workdir."""
    rows = writers.rows(folder)
    validation = next((f"{name}/loss" for name in recipe.config.evals), "")
    path = curve.draw(rows, folder / "curve.png", title=folder.name, validation=validation)
    print(f"loss curve: {path}")
