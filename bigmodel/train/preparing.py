"""What a run needs before its first step: data, the compiled step, and the state."""

import functools
from typing import Any

import jax
from etils import epath

from bigmodel import checkpoint, config, scoring
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.train import (
    compiled,
    goodput,
    heartbeat,
    preflight,
    processes,
    replay,
    saved,
    start,
    void,
    workdir,
)
from bigmodel.train import progress as progresses
from bigmodel.train import state as states
from bigmodel.train.job import Job


def prepare(
    recipe: recipes.Recipe,
    folder: epath.Path,
    checkpoints: checkpoint.Tiers,
    progress: progresses.Progress,
    heart: heartbeat.Heartbeat,
    ledger: goodput.Ledger,
    *,
    kept: str,
) -> tuple[Job, states.TrainState]:
    """Data, the compiled step, and the state: restored if there is a checkpoint, else begun."""
    show = progress.print if jax.process_index() == 0 else lambda text: None
    before = checkpoints.metadata()
    unsaid = functools.partial(recipes.unsaid, recipe.loaded)

    def known() -> dict[str, Any]:
        """What is cheap to tell of the run, and whether it can be, before its data."""
        recipes.check_vocabulary(recipe)
        if "imported" in before:  # there is no optimizer's state
            raise config.InputError(
                f"{folder}: holds weights that were imported, and no run to go on with. Begin one "
                f"from them in another --workdir, with --config.init_from={folder}."
            )
        facts = workdir.facts(recipe.loaded, recipes.tokenizer_fingerprint(recipe))
        workdir.check_resume(before, facts, str(folder), unsaid)
        return facts

    facts = processes.together(known, "a look at the tokenizer")
    ledger.phase("start/shapes")
    abstract = states.abstract(recipe)
    resumes = checkpoints.find(states.wanted(checkpoints, abstract), warn=show)
    check_room(recipe, folder, checkpoints, abstract)
    find = functools.partial(start.find, recipe, abstract, facts, show)
    source = None if resumes else processes.together(find, "a look at init_from")
    heart.at("data")
    ledger.phase("start/data")
    processes.one_first(
        lambda: recipes.prepare_data(recipe.loaded, recipes.preparing(show)), "the data's cache"
    )

    def open_rows() -> tuple[pipeline.Batches, dict[str, recipes.Evaluation]]:
        batches, evaluations = recipes.train_batches(recipe), recipes.evaluations(recipe)
        for evaluation in evaluations.values():
            scoring.check_rows(recipe, evaluation)
        facts["rows"] = batches.rows.fingerprint
        workdir.check_resume(before, facts, str(folder), unsaid)
        return batches, evaluations

    batches, evaluations = processes.together(open_rows, "the data's rows")
    heart.at("compile")
    ledger.keep(folder, jax.process_index())  # nothing is refused any more
    left_out = void.Void(folder, before.get("void", ()))
    if left_out.batches:
        facts["void"] = left_out.batches
        show(f"without the batches {left_out.batches}, which {left_out.path} says are void")

    place = saved.place(kept, recipe, abstract, batches.spec, facts)

    def make_state() -> states.TrainState:
        if resumes or void.newest(checkpoints) is not None:
            return states.restore(checkpoints, abstract, show)
        given = start.read(recipe, abstract, source) if source else None
        return states.create(recipe, abstract, given, kept=place)

    making = "restore" if resumes else "start/state"
    pipeline.warm()
    step, state = compiled.compile_beside(
        recipe, abstract, batches.spec, make_state, ledger=ledger, making=making, kept=place
    )
    ledger.phase("start/writers")
    if jax.process_index() == 0:
        workdir.write(folder, recipe.loaded, workdir.provenance(recipe.mesh))
    at = f", from step {int(state.step):,}" if resumes else f", from {source}" if source else ""
    bubble = f", pipeline bubble {recipe.pipeline.bubble:.1%}" if recipe.pipeline else ""
    show(f"{folder}: {states.describe(state)}, step compiled in {step.seconds:.1f} s{at}{bubble}")
    replayed = replay.make(recipe, abstract, batches.spec)
    made = (batches, evaluations, checkpoints, step, left_out, make_state, replayed)
    return Job(recipe, folder, facts, *made, progress, heart, ledger), state


def check_room(
    recipe: recipes.Recipe,
    folder: epath.Path,
    checkpoints: checkpoint.Tiers,
    state: states.TrainState,
) -> None:
    """Refuses a run whose next checkpoint has no room; see `preflight.check_room`."""
    done = checkpoints.latest() or 0
    places = checkpoints.local.there() if checkpoints.local else []
    full = len(places) >= recipe.config.checkpoint.local_keep  # the oldest goes for the next
    checkpoints.persistent.sweep()
    preflight.check_room(
        state,
        folder if done < recipe.steps else None,
        recipe.config.checkpoint.local,
        full=full,
    )
