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
    compiled,
    heartbeat,
    meter,
    processes,
    replay,
    safety,
    start,
    teller,
    void,
    workdir,
    writers,
)
from bigmodel.train import progress as progresses
from bigmodel.train import state as states
from bigmodel.train.job import Job

Metrics = dict[str, float]


def train(loaded: config.Loaded | Any, folder: str | epath.Path) -> Metrics:
    """Trains what a config says in a workdir, or goes on with what the workdir holds.

    Args:
        loaded: from `bigmodel.load_config`, or a config.
        folder: the workdir, made if missing.

    Returns:
        The last metrics: of the training under "train/", of evaluations under their names.

    Raises:
        InputError: the config cannot be run, or not in this workdir.
        WentWrongError: a number went wrong and the config says to stop, or to go back no more.
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    processes.join(loaded)
    compat.use_compilation_cache()
    recipe = recipes.make(loaded)
    for name, entry in recipe.config.evals.items():
        scoring.check(recipe, name, entry)
    folder = workdir.place(folder)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progresses.Progress(recipe.steps))
        heart = stack.enter_context(safety.watched(recipe, folder, progress.print))
        stack.enter_context(meshes.use(recipe.mesh, recipe.rules))
        checkpoints = stack.enter_context(
            checkpoint.Tiers(
                folder / "checkpoints",
                **recipe.config.checkpoint.to_dict(),
                order=recipe.layer_order,
            )
        )
        job, state = prepare(recipe, folder, checkpoints, progress, heart)
        # Until here a signal ends the process at once: there is nothing to save.
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
        draw(recipe, folder)
    return last


def prepare(
    recipe: recipes.Recipe,
    folder: epath.Path,
    checkpoints: checkpoint.Tiers,
    progress: progresses.Progress,
    heart: heartbeat.Heartbeat,
) -> tuple[Job, states.TrainState]:
    """Data, the compiled step, and the state: restored if there is a checkpoint, else begun."""
    show = progress.print if jax.process_index() == 0 else lambda text: None
    recipes.check_vocabulary(recipe)
    before = checkpoints.metadata()
    facts = workdir.facts(recipe.loaded, recipes.tokenizer_fingerprint(recipe))
    if "imported" in before:  # there is no optimizer's state
        raise config.InputError(
            f"{folder}: holds weights that were imported, and no run to go on with. Begin one from "
            f"them in another --workdir, with --config.init_from={folder}."
        )
    unsaid = functools.partial(recipes.unsaid, recipe.loaded)
    workdir.check_resume(before, facts, str(folder), unsaid)  # what is cheap to tell, before data
    abstract = states.abstract(recipe)
    resumes = checkpoints.find(states.wanted(checkpoints, abstract), warn=show)
    find = functools.partial(start.find, recipe, abstract, facts, show)
    source = None if resumes else processes.together(find, "a look at init_from")
    heart.at("data")
    processes.one_first(
        lambda: recipes.prepare_data(recipe.loaded, recipes.preparing(show)), "the data's cache"
    )
    heart.at("compile")
    batches = recipes.train_batches(recipe)
    evaluations = recipes.evaluations(recipe)
    for evaluation in evaluations.values():
        scoring.check_rows(recipe, evaluation)
    facts["rows"] = batches.rows.fingerprint
    workdir.check_resume(before, facts, str(folder), unsaid)

    left_out = void.Void(folder, before.get("void", ()))
    if left_out.batches:
        facts["void"] = left_out.batches
        show(f"without the batches {left_out.batches}, which {left_out.path} says are void")

    def make_state() -> states.TrainState:
        if resumes or void.newest(checkpoints) is not None:
            return states.restore(checkpoints, abstract, show)
        given = start.read(recipe, abstract, source) if source else None
        return states.create(recipe, abstract, given)

    step, state = compiled.compile_beside(recipe, abstract, batches.spec, make_state)
    checkpoint.warm(states.whole(abstract))  # on a thread, while the first steps run
    if jax.process_index() == 0:
        workdir.write(folder, recipe.loaded, workdir.provenance(recipe.mesh))
    at = f", from step {int(state.step):,}" if resumes else f", from {source}" if source else ""
    bubble = f", pipeline bubble {recipe.pipeline.bubble:.1%}" if recipe.pipeline else ""
    show(f"{folder}: {states.describe(state)}, step compiled in {step.seconds:.1f} s{at}{bubble}")
    replayed = replay.make(recipe, abstract, batches.spec)
    made = (
        batches,
        evaluations,
        checkpoints,
        step,
        progress,
        left_out,
        make_state,
        replayed,
        heart,
    )
    return Job(recipe, folder, facts, *made), state


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
    ):
        for at, batch in batches:
            step = void.pass_over if batch is None else job.step.run
            if job.replay and batch:
                job.replay.check(at + 1, state, batch)
            state, metrics = trace.step(at, step, state, batch)
            done = at + 1
            job.heart.at("step", done)
            if metrics:
                told.ran(done, metrics)
            told.look(state, batches.waited_seconds, behind=job.step.ahead)

            stop = request.agreed(done)
            save = job.checkpoints.due(done, ends=stop or done == recipe.steps)
            due = [entry for entry in job.evaluations.values() if is_due(entry, done, recipe.steps)]
            if save or due:
                # What is no number must not be saved.
                told.look(state, batches.waited_seconds, behind=0)
                with told.speed.paused():
                    job.heart.at("evaluate" if due else "save", done)
                    measured = told.evaluate(done, state, due)
                    if save:
                        whole = states.whole(state)
                        job.checkpoints.save(done, whole, job.facts, metrics=measured, wait=stop)
                    job.heart.at("step", done)
            if stop and done < recipe.steps:
                raise safety.Stopped(request.reason, done)
    job.heart.at("save", recipe.steps)
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
