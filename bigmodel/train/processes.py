"""One job out of several processes, and signals that ask it to stop."""

import contextlib
import itertools
import os
import signal
import socket
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from bigmodel import compat, config
from bigmodel.checkpoint import agreement


def join() -> None:
    """Forms one job, before anything else asks jax for its devices.

    A cluster is found by jax's own detection; BIGMODEL_COORDINATOR, BIGMODEL_PROCESSES and
    BIGMODEL_PROCESS say it by hand. One process with several CPU devices joins a job of its own:
    sums within a process run in another order than those between processes, and with it the bits
    are the same on any number of them.
    """
    if jax.distributed.is_initialized():
        return
    if "BIGMODEL_PROCESSES" in os.environ:
        jax.distributed.initialize(
            coordinator_address=os.environ["BIGMODEL_COORDINATOR"],
            num_processes=int(os.environ["BIGMODEL_PROCESSES"]),
            process_id=int(os.environ["BIGMODEL_PROCESS"]),
        )
    elif in_cluster():
        jax.distributed.initialize()
    elif several_cpu_devices():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        # It would hold SIGTERM back to tell other processes of it, and there is none.
        jax.config.update("jax_enable_preemption_service", False)
        # Python that has used jax already, a notebook say, keeps the sums within its process.
        with contextlib.suppress(RuntimeError):
            jax.distributed.initialize(address, num_processes=1, process_id=0)


def in_cluster() -> bool:
    """Whether a launcher that jax knows started this process beside others."""
    known = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    sizes = [int(os.environ.get(name, "1")) for name in known]
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return max(sizes) > 1 or len(hosts) > 1


def several_cpu_devices() -> bool:
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    return forced and os.environ.get("JAX_PLATFORMS", "").startswith("cpu")


T = TypeVar("T")
TURNS = itertools.count()  # in all calls, which are the same on every process


def one_first(work: Callable[[], object]) -> None:
    """Does the work on process 0, then on the others, which find it done on shared storage.

    Raises:
        InputError: the same on all of them, where one could not do it.
    """
    if jax.process_count() == 1:
        work()
        return
    first = jax.process_index() == 0
    for mine in (first, not first):
        with ending_at_once():
            own = attempt(work) if mine else None
            compat.wait_for_all(f"turn {next(TURNS)}")
        if fault := agreement.agreed("" if own is None else told(own)):
            raise own or config.InputError(fault)


def together(work: Callable[[], T]) -> T:
    """Does the work on all processes at once; it must not wait for the others.

    Raises:
        InputError: the same on all of them, where one could not do it.
    """
    done: list[T] = []
    own = attempt(lambda: done.append(work()))
    if fault := agreement.agreed("" if own is None else told(own)):
        raise own or config.InputError(fault)
    return done[0]


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Within it Ctrl-C ends this process, and jax with it the others.

    Python's own answer would come after the wait for the others, who may wait for this one.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def attempt(work: Callable[[], object]) -> Exception | None:
    """What the work raised, if anything."""
    try:
        work()
    except Exception as error:
        return error
    return None


def told(error: Exception) -> str:
    """An error for processes that did not have it."""
    if isinstance(error, config.InputError):
        return str(error)
    return f"process {jax.process_index()} failed with {type(error).__name__}: {error}"


class StopRequest:
    """Turns SIGTERM and Ctrl-C into a question that the loop asks between steps.

    The second Ctrl-C is not held back: it ends the process at once.

    Attributes:
        reason: name of the signal that this process got, or "".
    """

    def __init__(self) -> None:
        self.reason = ""
        self._first: int | None = None  # step that was asked about
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Among several processes jax's own handler of SIGTERM tells the others: it must stay.
        alone = jax.process_count() == 1
        for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self.reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step: all processes answer alike, so all must ask."""
        if jax.process_count() == 1:
            return bool(self.reason)
        from jax.experimental import multihost_utils

        # From 1: a signal before the first question is answered at 1, which the steps of a resumed
        # run are all past, and jax compares for equality.
        self._first = step if self._first is None else self._first
        return multihost_utils.reached_preemption_sync_point(step - self._first + 1)
