"""One job out of several processes, and signals that ask it to stop."""

import contextlib
import hashlib
import os
import pathlib
import signal
import socket
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

import bigmodel
from bigmodel import compat, config
from bigmodel.checkpoint import agreement
from bigmodel.train import rollcall, saved, workdir


def join(loaded: config.Loaded | Any = None) -> None:
    """Forms one job, before anything else asks jax for its devices.

    A cluster is found by jax's own detection; BIGMODEL_COORDINATOR, BIGMODEL_PROCESSES and
    BIGMODEL_PROCESS say it by hand. One process with several CPU devices joins a job of its own:
    sums within a process run in another order than those between processes, and with it the bits
    are the same on any number of them.

    Args:
        loaded: the config of the run, which must be the same on all.

    Raises:
        AbsentError: not all came; the missing are named, and were named after a minute.
        InputError: they are not of the same code, versions and config.
    """
    if jax.distributed.is_initialized():
        return
    if place := find_place():
        hosts = []
        if place.processes > 1:
            hosts = rollcall.meet(place, identity(loaded), seconds=meet_seconds())
        agreement.HOSTS.update(enumerate(hosts))
        jax.distributed.initialize(*place, initialization_timeout=JOIN_SECONDS)
    elif several_cpu_devices():
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        # It would hold SIGTERM back to tell other processes of it, and there is none.
        jax.config.update("jax_enable_preemption_service", False)
        # Python that has used jax already, a notebook say, keeps the sums within its process.
        with contextlib.suppress(RuntimeError):
            jax.distributed.initialize(address, num_processes=1, process_id=0)


JOIN_SECONDS = 60
MEET_SECONDS = 600.0  # hosts of a cloud come minutes apart; who is missing is told much sooner


def meet_seconds() -> float:
    """How long all are waited for."""
    return float(os.environ.get("BIGMODEL_MEET_SECONDS", MEET_SECONDS))


def find_place() -> rollcall.Place | None:
    """Where this process's job meets, or None where it is alone."""
    if "BIGMODEL_PROCESSES" in os.environ:
        names = ("BIGMODEL_COORDINATOR", "BIGMODEL_PROCESSES", "BIGMODEL_PROCESS")
        if absent := [name for name in names if name not in os.environ]:
            raise config.InputError(
                f"{' and '.join(absent)} must be set beside BIGMODEL_PROCESSES: the address "
                f"host:port of process 0, how many processes there are, and which one this is."
            )
        address, processes, process = (os.environ[name] for name in names)
        return rollcall.Place(address, int(processes), int(process))
    if not (in_cluster() or compat.on_tpu_vm()):
        return None
    try:
        found = compat.cluster(JOIN_SECONDS)
    except (OSError, RuntimeError) as error:
        fault = f"the first process of the cluster cannot be found: {error}"
        raise rollcall.AbsentError(fault) from error
    return rollcall.Place(*found) if found else None


def identity(loaded: config.Loaded | Any) -> dict[str, str]:
    """What must be the same on all processes of a job, by name."""
    code = saved.code(pathlib.Path(bigmodel.__file__).parent)
    about = {"bigmodel's code": code[:12]}
    about |= {f"{name}'s version": version for name, version in workdir.versions().items()}
    if loaded is not None:
        values = getattr(loaded, "config", loaded)
        fields = config.flat(config.plain(values)).items()
        about |= {f"config.{field}": config.shown(value)[:200] for field, value in fields}
        about["the config's file"] = hashlib.sha256(
            getattr(loaded, "text", "").encode()
        ).hexdigest()[:12]
    return about


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


def one_first(work: Callable[[], object], what: str) -> None:
    """Does the work on process 0, then on the others, which find it done on shared storage.

    Args:
        work: what is to be done.
        what: it is, in words, for who waits.

    Raises:
        AgreedError: where it is refused by one of them.
        OthersError: where another one has failed; that one raises its own error.
    """
    if jax.process_count() == 1:
        work()
        return
    first = jax.process_index() == 0
    for mine in (first, not first):
        with ending_at_once():
            own = attempt(work) if mine else None
            fault = agreement.agreed("" if own is None else told(own), what, seconds=LONG_SECONDS)
        settle(own, fault)


LONG_SECONDS = 7 * 86400.0  # large corpora are prepared for days; who dies meanwhile is noticed


def together(work: Callable[[], T], what: str) -> T:
    """Does the work on all processes at once; it must not wait for the others.

    Raises: as `one_first` does.
    """
    if jax.process_count() == 1:
        return work()
    done: list[T] = []
    own = attempt(lambda: done.append(work()))
    settle(own, agreement.agreed("" if own is None else told(own), what))
    return done[0]


def settle(own: Exception | None, fault: str) -> None:
    """Raises what one process has told all of them, if anything; `own`: what this one had."""
    refused, _, text = fault.partition("|")
    if own is not None and not (refused and isinstance(own, config.InputError)):
        raise own
    if refused:
        raise agreement.AgreedError(text) from own
    if text:
        raise agreement.OthersError(text)


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
    """An error for processes that did not have it, "|" before it: "refused|" or "|"."""
    if isinstance(error, config.InputError):
        return f"refused|{error}"
    who = agreement.named([jax.process_index()])
    return f"|{who} failed with {type(error).__name__}: {error}"


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
