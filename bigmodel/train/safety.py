"""What stands around a run: the lock on its workdir, the preflight, the watch over its hosts."""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import jax
from etils import epath

from bigmodel import checkpoint, config
from bigmodel import recipe as recipes
from bigmodel.launch import statuses
from bigmodel.train import heartbeat, lock, preflight, processes, watch


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved and the same command goes on.

    Attributes:
        status: what the process should end with.
    """

    def __init__(self, reason: str, step: int):
        super().__init__(f"stopped by {reason or 'another process'} at step {step:,}; it is saved")
        self.status = statuses.INTERRUPTED if reason == "SIGINT" else statuses.TERMINATED


# What all processes raise at once: each of them ends by itself.
SHARED = (config.InputError, checkpoint.UnsoundError, watch.WentWrongError, Stopped)


@contextlib.contextmanager
def watched(
    recipe: recipes.Recipe, folder: epath.Path, show: Callable[[str], None]
) -> Iterator[heartbeat.Heartbeat]:
    """Within it the workdir is this run's, and no host can be silent or stuck unnoticed.

    An error of one process of several ends all of them, this one at once: jax would wait for the
    others when Python exits.

    Raises:
        InputError: the workdir is in use, or some host is not fit.
    """
    first = jax.process_index() == 0
    show = show if first else lambda text: None
    held = lock.Lock(folder)
    settings = recipe.config.watch
    heart = heartbeat.Heartbeat(
        silent=settings.silent_seconds,
        stalled=settings.stalled_seconds,
        show=show,
        beaten=held.beat if first else lambda: "",
    )
    with heart:
        processes.together(lambda: held.take(show) if first else None, "the workdir's lock")
        try:
            if jax.process_count() > 1 or jax.default_backend() != "cpu":
                preflight.check(folder, recipes.sources(recipe.config))
            yield heart
        except Exception as error:
            if jax.process_count() == 1 or isinstance(error, SHARED):
                raise
            leave(heart, error)
        finally:
            if first:
                held.release()


def leave(heart: heartbeat.Heartbeat, error: Exception) -> None:
    """Ends this process for an error that the others do not have, and says whose fault it is."""
    of_others = heartbeat.is_of_others(error)
    why = heart.blame(error)  # the others are told first: a full disk may take no more lines
    heart.stop.set()
    with contextlib.suppress(Exception):
        if not of_others:
            traceback.print_exception(error)
        print(f"bigmodel: the job ends: {why}", file=sys.stderr)
    if jax.process_index() == 0 and not of_others:
        time.sleep(2 * heart.every)  # jax's service ends with this process: the others read first
    heartbeat.end_now(statuses.OF_OTHERS if of_others else statuses.FAILED)
