"""What stands around a run: the lock on its workdir, the preflight, the watch over its hosts."""

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from bigmodel import checkpoint, compat, config
from bigmodel import recipe as recipes
from bigmodel.checkpoint import agreement
from bigmodel.launch import statuses
from bigmodel.train import heartbeat, preflight, processes, watch
from bigmodel.train import lock as locks


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved and the same command goes on.

    Attributes:
        status: what the process should end with.
    """

    def __init__(self, reason: str, step: int):
        super().__init__(f"stopped by {reason or 'another process'} at step {step:,}; it is saved")
        self.status = statuses.INTERRUPTED if reason == "SIGINT" else statuses.TERMINATED


# What all processes raise at once: each of them ends by itself.
SHARED = (agreement.AgreedError, checkpoint.UnsoundError, watch.WentWrongError, Stopped)


@contextlib.contextmanager
def watched(settings: Any) -> Iterator[heartbeat.Heartbeat]:
    """Within it no host can be silent or stuck unnoticed; jax need not have seen a device.

    An error of one process of several ends all of them, this one at once: jax would wait for the
    others when Python exits.

    Args:
        settings: the config's section `watch`.
    """
    process, count = compat.place()
    heart = heartbeat.Heartbeat(
        silent=settings.silent_seconds,
        stalled=settings.stalled_seconds,
        show=print if process == 0 else lambda text: None,
    )
    with heart:
        try:
            yield heart
        except Exception as error:
            if count == 1 or isinstance(error, SHARED):
                raise
            leave(heart, error)


@contextlib.contextmanager
def held(recipe: recipes.Recipe, folder: epath.Path, heart: heartbeat.Heartbeat) -> Iterator[None]:
    """Within it the workdir is this run's alone, on hosts that are fit.

    Raises:
        InputError: the workdir is in use, or some host is not fit.
    """
    first = jax.process_index() == 0
    lock = locks.Lock(folder)
    processes.together(lambda: lock.take(heart.show) if first else None, "the workdir's lock")
    try:
        if first:
            heart.beaten = lock.beat
        if jax.process_count() > 1 or jax.default_backend() != "cpu":
            preflight.check(folder, recipes.sources(recipe.loaded))
        yield
    finally:
        if first:
            lock.release()


def leave(heart: heartbeat.Heartbeat, error: Exception) -> None:
    """Ends this process for an error that the others do not have, and says whose fault it is."""
    of_others, refused = heartbeat.is_of_others(error), isinstance(error, config.InputError)
    why = heart.blame(error)  # the others are told first: a full disk may take no more lines
    heart.stop.set()
    with contextlib.suppress(Exception):
        if not of_others and not refused:
            traceback.print_exception(error)
        print(f"bigmodel: the job ends: {why}", file=sys.stderr)
    if heart.process == 0 and not of_others:  # not jax's word: it may be what has failed
        time.sleep(2 * heart.every)  # jax's service ends with this process: the others read first
    status = statuses.REFUSED if refused else statuses.FAILED
    heartbeat.end_now(statuses.OF_OTHERS if of_others else status)
