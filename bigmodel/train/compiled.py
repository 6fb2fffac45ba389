"""The step of a recipe, put together and compiled for its mesh."""

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from bigmodel import compat, costs
from bigmodel import recipe as recipes
from bigmodel.train import goodput, saved, spikes, step
from bigmodel.train import state as states

T = TypeVar("T")


class Compiled(NamedTuple):
    """A compiled step, ready for (state, batch); the state that goes in is given up.

    Attributes:
        run: (state, batch) -> (state, metrics).
        program: jax's handle of it, for memory and text.
        trace_seconds: to make the program.
        compile_seconds: to compile it.
        ahead: steps that are under way when `run` returns: 0 or 1.
    """

    run: step.TrainStep
    program: jax.stages.Compiled
    trace_seconds: float
    compile_seconds: float
    ahead: int = 1

    @property
    def seconds(self) -> float:
        return self.trace_seconds + self.compile_seconds


def train_step(recipe: recipes.Recipe) -> step.TrainStep:
    """The step that a recipe says, not yet compiled."""
    made = step.make_train_step(
        recipe.objective, recipe.optimizer, recipe.schedule, recipe.accumulate
    )
    if recipe.ema:
        made = step.with_average(made, recipe.ema)
    if recipe.config.nonfinite == "skip":
        made = step.skipping_nonfinite(made)
    if recipe.config.spikes.action != "off":
        made = spikes.watching(made, **spikes.ask(recipe.config.spikes))
    return made


def trace(
    recipe: recipes.Recipe, state: states.TrainState, batch: dict[str, jax.ShapeDtypeStruct]
) -> jax.stages.Traced:
    """The step, traced for a mesh; to be called within `meshes.use`.

    Args:
        recipe: of the run.
        state: abstract, with shardings, as `state.abstract` gives it.
        batch: shape and dtype of every array of a batch.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(train_step(recipe), donate_argnums=0, out_shardings=(shardings, None))
    return jitted.trace(state, placed(recipe, batch))


def placed(
    recipe: recipes.Recipe, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch's shapes and dtypes with their shardings."""
    return {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=recipe.batch_sharding)
        for name, spec in batch.items()
    }


def compile_step(
    recipe: recipes.Recipe,
    state: states.TrainState,
    batch: Any,
    ledger: goodput.Ledger | None = None,
    kept: saved.Place | None = None,
) -> Compiled:
    """`trace`, and the machine's program, with the config's compiler options; or a `kept` one."""
    ledger = ledger or goodput.Ledger()
    began, _ = since = saved.moment()
    with ledger.span("compile/saved"):
        found = kept.load() if kept else None
    if kept and found:
        return Compiled(kept.guarded(found), found, 0.0, time.perf_counter() - began)
    with ledger.span("compile/trace"):
        made = trace(recipe, state, batch)
    with ledger.span("compile/lower"):
        lowered = made.lower()
    traced = time.perf_counter()
    with ledger.span("compile/program"):
        program = lowered.compile(compiler_options=recipe.compiler_options or None)
    ended = time.perf_counter()
    if kept:
        kept.save(program, since=since)
    return Compiled(program, program, traced - began, ended - traced)


def compile_beside(
    recipe: recipes.Recipe,
    abstract: states.TrainState,
    batch: dict[str, jax.ShapeDtypeStruct],
    make_state: Callable[[], T],
    *,
    ledger: goodput.Ledger | None = None,
    making: str = "start/state",
    kept: saved.Place | None = None,
) -> tuple[Compiled, T]:
    """`compile_step`, and a state that is made meanwhile: both leave Python for most of it.

    Not on a GPU, whose compiler tries kernels out: a state made between their buffers would lie in
    the middle of the memory, of which the temporaries want one piece.

    Args:
        recipe, abstract, batch: see `trace`.
        make_state: what it returns is returned.
        ledger: of the run's time.
        making: the kind of time that is spent on `make_state`, beyond that of compiling.
        kept: where the program may lie already, or is to be kept.
    """
    ledger = ledger or goodput.Ledger()
    platform = recipe.mesh.devices.flat[0].platform
    if platform == "gpu" or jax.process_count() > 1:  # processes: in one order on all of them
        made_step = compile_step(recipe, abstract, batch, ledger, kept)
        with ledger.span(making):
            state = make_state()
    else:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            made = thread.submit(make_state)
            made_step = compile_step(recipe, abstract, batch, ledger, kept)
            with ledger.span(making):
                state = made.result()
    if platform == "cpu":
        compat.keep_pages()
        made_step = made_step._replace(run=one_at_a_time(made_step), ahead=0)
    return made_step, state


LARGE = 2**27  # bytes of temporaries


def one_at_a_time(made: Compiled) -> step.TrainStep:
    """The step, returned from when it has ended: two in flight are no quicker on CPU.

    They would hold the temporaries of two steps. What comes out is there a moment before the
    temporaries are given back, so where they are large the next step waits for that as well.
    """
    pause = 0.003 if costs.memory(made.program)["temporaries"] > LARGE else 0.0

    def run(state: states.TrainState, batch: step.Batch) -> tuple[states.TrainState, step.Metrics]:
        out = jax.block_until_ready(made.run(state, batch))
        time.sleep(pause)
        return out

    return run
