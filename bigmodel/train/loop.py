"""The loop: it alone decides when to log, evaluate, save and stop."""

import contextlib
import functools
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
    goodput,
    meter,
    processes,
    saved,
    start,
    teller,
    workdir,
    writers,
)
from bigmodel.train import progress as progresses
from bigmodel.train import state as states
from bigmodel.train.job import Job

Metrics = dict[str, float]


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved and the same command goes on.

    Attributes:
        status: what the process should end with.
    """

    def __init__(self, reason: str, step: int):
        super().__init__(f"stopped by {reason or 'another process'} at step {step:,}; it is saved")
        self.status = 130 if reason == "SIGINT" else 143


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
        NonFiniteError: a loss or gradient was no number and `nonfinite` is "stop".
        Stopped: SIGTERM or Ctrl-C came; the state is saved.
    """
    with goodput.Ledger(spent) as ledger:
        return _train(loaded, folder, ledger, kept)


def _train(
    loaded: config.Loaded | Any, folder: str | epath.Path, ledger: goodput.Ledger, kept: str
) -> Metrics:
    ledger.phase("start/join")
    processes.join()
    ledger.phase("start/recipe")
    compat.use_compilation_cache()
    recipe = recipes.make(loaded)
    for name, entry in recipe.config.evals.items():
        scoring.check(recipe, name, entry)
    folder = workdir.place(folder)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(progresses.Progress(recipe.steps))
        stack.enter_context(meshes.use(recipe.mesh, recipe.rules))
        checkpoints = stack.enter_context(
            checkpoint.Checkpoints(
                folder / "checkpoints",
                **recipe.config.checkpoint.to_dict(),
                order=recipe.layer_order,
            )
        )
        job, state = prepare(recipe, folder, checkpoints, progress, ledger, kept)
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
        with ledger.span("saving"):
            draw(recipe, folder)
    return last


def prepare(
    recipe: recipes.Recipe,
    folder: epath.Path,
    checkpoints: checkpoint.Checkpoints,
    progress: progresses.Progress,
    ledger: goodput.Ledger,
    kept: str,
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
    ledger.phase("start/shapes")
    abstract = states.abstract(recipe)
    resumes = checkpoints.latest() is not None
    find = functools.partial(start.find, recipe, abstract, facts, show)
    source = None if resumes else processes.together(find)
    ledger.phase("start/data")
    processes.one_first(lambda: recipes.prepare_data(recipe.loaded, recipes.preparing(show)))
    batches = recipes.train_batches(recipe)
    evaluations = recipes.evaluations(recipe)
    for evaluation in evaluations.values():
        scoring.check_rows(recipe, evaluation)
    facts["rows"] = batches.rows.fingerprint
    workdir.check_resume(before, facts, str(folder), unsaid)

    ledger.keep(folder, jax.process_index())  # nothing is refused any more

    def make_state() -> states.TrainState:
        if resumes:
            stored = checkpoints.restore(states.whole(abstract), warn=show).tree
            params, frozen = states.parted(stored.params, abstract)
            return stored.replace(params=params, frozen=frozen)
        given = start.read(recipe, abstract, source) if source else None
        return states.create(recipe, abstract, given)

    making = "restore" if resumes else "start/state"
    place = saved.place(kept, recipe, abstract, batches.spec, facts)
    step, state = compiled.compile_beside(
        recipe, abstract, batches.spec, make_state, ledger=ledger, making=making, kept=place
    )
    ledger.phase("start/writers")
    checkpoint.warm(states.whole(abstract))  # on a thread, while the first steps run
    if jax.process_index() == 0:
        workdir.write(folder, recipe.loaded, workdir.provenance(recipe.mesh))
    at = f", from step {int(state.step):,}" if resumes else f", from {source}" if source else ""
    bubble = f", pipeline bubble {recipe.pipeline.bubble:.1%}" if recipe.pipeline else ""
    show(f"{folder}: {states.describe(state)}, step compiled in {step.seconds:.1f} s{at}{bubble}")
    made = recipe, folder, facts, batches, evaluations, checkpoints, step, progress, ledger
    return Job(*made), state


def run(
    job: Job, state: states.TrainState, write: writers.Writer, request: processes.StopRequest
) -> Metrics:
    """All steps that are left."""
    recipe = job.recipe
    start = int(jax.device_get(state.step))
    told = teller.Teller(job, write, first=start + 1)

    def make(at: int) -> dict[str, jax.Array]:
        return pipeline.place(job.batches, at, lambda *_: recipe.batch_sharding)

    profile = recipe.config.profile
    with (
        pipeline.ahead(make, start, recipe.steps) as batches,
        meter.Trace(job.folder / "profile", profile.start, profile.steps) as trace,
        job.ledger.steps(start),
    ):
        for at, batch in batches:
            state, metrics = trace.step(at, job.step.run, state, batch)
            done = at + 1
            told.ran(done, metrics)
            told.look(state, batches.waited_seconds, behind=job.step.ahead)
            job.ledger.step(done, batches.waited_seconds)

            stop = request.agreed(done)
            save = job.checkpoints.due(done) or done == recipe.steps or stop
            due = [entry for entry in job.evaluations.values() if is_due(entry, done, recipe.steps)]
            if save or due:
                # What is no number must not be saved.
                told.look(state, batches.waited_seconds, behind=0)
                with told.speed.paused():
                    with job.ledger.span("evaluation"):
                        measured = told.evaluate(done, state, due)
                    if save:
                        with job.ledger.span("saving"):
                            whole = states.whole(state)
                            job.checkpoints.save(
                                done, whole, job.facts, metrics=measured, wait=stop
                            )
            if stop and done < recipe.steps:
                raise Stopped(request.reason, done)
    with job.ledger.span("saving"):
        job.checkpoints.wait()
    return told.last


def is_due(entry: recipes.Evaluation, step: int, steps: int) -> bool:
    return step == steps or (entry.every > 0 and step % entry.every == 0)


def draw(recipe: recipes.Recipe, folder: epath.Path) -> None:
    """The loss curve of a run that has ended, as a picture in its workdir."""
    rows = writers.rows(folder)
    validation = next((f"{name}/loss" for name in recipe.config.evals), "")
    path = curve.draw(rows, folder / "curve.png", title=folder.name, validation=validation)
    print(f"loss curve: {path}")
