"""The loop: it alone decides when to log, evaluate, save and stop."""

import collections
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from bigmodel import checkpoint, compat, config, scoring
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.evaluate import evaluate, make_eval_step
from bigmodel.report import curve
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled, meter, processes, start, watch, workdir, writers
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
    resumes = checkpoints.latest() is not None
    find = functools.partial(start.find, recipe, abstract, facts, show)
    source = None if resumes else processes.together(find)
    processes.one_first(lambda: recipes.prepare_data(recipe.loaded, recipes.preparing(show)))
    batches = recipes.train_batches(recipe)
    evaluations = recipes.evaluations(recipe)
    for evaluation in evaluations.values():
        scoring.check_rows(recipe, evaluation)
    facts["rows"] = batches.rows.fingerprint
    workdir.check_resume(before, facts, str(folder), unsaid)

    def make_state() -> states.TrainState:
        if resumes:
            stored = checkpoints.restore(states.whole(abstract), warn=show).tree
            params, frozen = states.parted(stored.params, abstract)
            return stored.replace(params=params, frozen=frozen)
        given = start.read(recipe, abstract, source) if source else None
        return states.create(recipe, abstract, given)

    step, state = compiled.compile_beside(recipe, abstract, batches.spec, make_state)
    checkpoint.warm(states.whole(abstract))  # on a thread, while the first steps run
    if jax.process_index() == 0:
        workdir.write(folder, recipe.loaded, workdir.provenance(recipe.mesh))
    at = f", from step {int(state.step):,}" if resumes else f", from {source}" if source else ""
    bubble = f", pipeline bubble {recipe.pipeline.bubble:.1%}" if recipe.pipeline else ""
    show(f"{folder}: {states.describe(state)}, step compiled in {step.seconds:.1f} s{at}{bubble}")
    return Job(recipe, folder, facts, batches, evaluations, checkpoints, step, progress), state


def run(
    job: Job, state: states.TrainState, write: writers.Writer, request: processes.StopRequest
) -> Metrics:
    """All steps that are left."""
    recipe = job.recipe
    start = int(jax.device_get(state.step))
    teller = Teller(job, write, first=start + 1)

    def make(at: int) -> dict[str, jax.Array]:
        return pipeline.place(job.batches, at, lambda *_: recipe.batch_sharding)

    profile = recipe.config.profile
    with (
        pipeline.ahead(make, start, recipe.steps) as batches,
        meter.Trace(job.folder / "profile", profile.start, profile.steps) as trace,
    ):
        for at, batch in batches:
            state, metrics = trace.step(at, job.step.run, state, batch)
            done = at + 1
            teller.ran(done, metrics)
            teller.look(state, batches.waited_seconds, behind=job.step.ahead)

            stop = request.agreed(done)
            save = job.checkpoints.due(done) or done == recipe.steps or stop
            due = [entry for entry in job.evaluations.values() if is_due(entry, done, recipe.steps)]
            if save or due:
                # What is no number must not be saved.
                teller.look(state, batches.waited_seconds, behind=0)
                with teller.speed.paused():
                    measured = teller.evaluate(done, state, due)
                    if save:
                        whole = states.whole(state)
                        job.checkpoints.save(done, whole, job.facts, metrics=measured, wait=stop)
            if stop and done < recipe.steps:
                raise Stopped(request.reason, done)
    job.checkpoints.wait()
    return teller.last


def is_due(entry: recipes.Evaluation, step: int, steps: int) -> bool:
    return step == steps or (entry.every > 0 and step % entry.every == 0)


class Teller:
    """Tells of steps and evaluations, and stops the run at what is no number.

    Attributes:
        last: the last figures of everything told.
        speed: of the steps.
        pending: steps that were started and not looked at, with their metrics.
    """

    def __init__(self, job: Job, write: writers.Writer, *, first: int):
        self.job, self.write = job, write
        self.first = first  # step of this process, whose time is that of other things too
        self.last: Metrics = {}
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
            if not watch.is_finite(found):
                self.not_finite(step, found, state)
            recipe = self.job.recipe
            if step % recipe.config.log.every == 0 or step in (self.first, recipe.steps):
                found |= self.speed.read(step, waited_seconds)
                self.tell(step, {f"train/{name}": value for name, value in found.items()})

    def not_finite(self, step: int, found: Metrics, state: states.TrainState) -> None:
        """Raises it, or says that the update was skipped."""
        job = self.job
        if job.recipe.config.nonfinite == "stop":
            raise watch.stop(
                job.folder / "debug" / f"step_{step}",
                step=step,
                metrics=found,
                batch=job.batches.host(step - 1),
                params=state.params,
                params_step=step + len(self.pending),
                resume=job.checkpoints.latest(),
            )
        job.progress.print(f"step {step:,}: loss {found['loss']}, its update was left out")

    def evaluate(
        self, step: int, state: states.TrainState, due: Sequence[recipes.Evaluation]
    ) -> Metrics:
        """The figures of evaluations, as "NAME/metric"."""
        if not due:
            return {}
        params = states.eval_params(states.eval_parts(state), state)
        recipe, found = self.job.recipe, Metrics()
        for entry in due:
            began = time.perf_counter()
            measured = evaluate(recipe, params, entry, self.eval_step)
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


def draw(recipe: recipes.Recipe, folder: epath.Path) -> None:
    """The loss curve of a run that has ended, as a picture in its workdir."""
    rows = writers.rows(folder)
    validation = next((f"{name}/loss" for name in recipe.config.evals), "")
    path = curve.draw(rows, folder / "curve.png", title=folder.name, validation=validation)
    print(f"loss curve: {path}")


def describe(measured: Mapping[str, float]) -> str:
    shown = ("loss", "bits_per_byte", "accuracy")
    parts = [
        f"{name} {value:.4f}" for name, value in measured.items() if name.split("/")[-1] in shown
    ]
    return "  ".join(parts)
