"""All that this project asks of Orbax: write a flat dict of arrays, read some of them back.

Orbax calls the interface used here v1; it becomes the package's own in its version 1.0. Only
six names of it appear, and one option: what changes there is mended here. It is imported where
it is used, as it costs 0.4 to 1 s.
"""

import contextlib
import functools
import gc
import importlib
import logging
import sys
import textwrap
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
from etils import epath

UNFINISHED = ".orbax-checkpoint-tmp"  # part of a folder's name until Orbax has finished it

# Replicas each write a slice of what they hold, cut by a program that is compiled for each shape
# and device. Slices of fewer bytes are written sooner by one replica than their programs are made.
SLICE_BYTES = 2**20

Arrays = dict[str, jax.Array]


def begin(folder: epath.Path, arrays: Arrays) -> Callable[[], None]:
    """Copies the arrays to the host and returns; the result, once called, waits for the disk.

    Every process calls it and writes the parts that its devices hold. The arrays may be donated
    as soon as `begin` has returned.
    """
    from orbax.checkpoint import v1 as orbax

    context = orbax.Context()
    context.array.saving.min_slice_bytes_for_replica_parallel = SLICE_BYTES
    # The loop forbids implicit transfers; these are meant.
    with jax.transfer_guard("allow"), context:
        return orbax.save_async(folder, arrays, overwrite=True).result


class Unreadable(ValueError):
    """Files that Orbax could not make arrays of."""


def read(
    folder: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct], names: Collection[str]
) -> Arrays:
    """The wanted ones of the arrays that `folder` holds under `names`, on their shardings."""
    from orbax.checkpoint import v1 as orbax

    hush_late_reads()
    with jax.transfer_guard("allow"), silence():
        try:
            found = orbax.load(
                folder, {name: wanted.get(name, orbax.PLACEHOLDER) for name in names}
            )
        except Exception as error:  # what damaged files can raise has no common type
            if out_of_memory(error):
                raise
            fault = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder="...")
        else:
            return {name: found[name] for name in wanted}
        gc.collect()  # the other reads in flight, which complain when they are collected
    raise Unreadable(fault)


def out_of_memory(error: Exception) -> bool:
    """No fault of the files, so no reason to leave them aside."""
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Orbax logs pages about damaged files and then raises; what it raises is enough."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@functools.cache
def hush_late_reads() -> None:
    """When one read fails Orbax closes its event loop; reads in flight then complain of that."""
    hook = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = quiet


def remove_unfinished(folder: epath.Path) -> None:
    """Sweeps up what a killed save has left."""
    for child in folder.iterdir():
        if UNFINISHED in child.name:
            child.rmtree(missing_ok=True)


def warm() -> None:
    importlib.import_module("orbax.checkpoint")
