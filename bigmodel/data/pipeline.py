"""The batch of a step: which rows, in NumPy; then on the mesh; then ahead of the loop."""

import functools
import importlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import jax
import numpy as np

T = TypeVar("T")


class Rows(Protocol):
    """A sequence of rows of one shape."""

    @property
    def parts(self) -> Sequence["Rows"]:
        """One after the other they are this sequence; each is shuffled and repeated by itself."""

    @property
    def weights(self) -> Sequence[float]:
        """The share of each part among the rows drawn."""

    @property
    def fingerprint(self) -> str:
        """Hash of every row's content."""

    @property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes of text for each target; 0 where targets are no text."""

    def describe(self) -> str:
        """One line of what they are."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> name -> [b, ...].

        What is random in a row is drawn by the row and the number of its epoch [b], another in
        the next; None: nothing is, as in evaluation.
        """


class Batches:
    """Batch s is a pure function of (rows, seed, s), at the same cost for every s.

    Shuffled over the whole data set, anew each epoch; a batch may hold the end of one epoch and
    the start of the next, so that every row comes once an epoch whatever the batch.

    Attributes:
        rows: what is batched.
        batch: rows in a batch, over the whole mesh.
        seed: of the order.
        shuffle: in a random order, or in that of `rows` (a mixture's sources are drawn by
            weight in both cases).
        repeat: without end; else each row comes once, a mixture's sources one after the other,
            and the last batch is filled up with rows of zeros: segment 0 and weight 0.
    """

    def __init__(
        self, rows: Rows, batch: int, *, seed: int = 0, shuffle: bool = True, repeat: bool = True
    ):
        if not len(rows):
            raise ValueError("Batches need at least one row.")
        self.rows, self.batch, self.seed = rows, batch, seed
        self.shuffle, self.repeat = shuffle, repeat

    def __len__(self) -> int:
        """Batches in all; only if they end."""
        if self.repeat:
            raise TypeError("These batches repeat without end.")
        return -(-len(self.rows) // self.batch)

    def host(self, step: int, index: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
        """Some rows of batch `step`, by their index in it: name -> [b, ...], with `rows` [b].

        Those are their indices in the batch, and where batches end their places among all.
        """
        number = np.arange(self.batch)[index]
        places = step * self.batch + number
        real = places < len(self.rows) if not self.repeat else np.ones(len(places), bool)
        # The order is asked place by place: Grain's public interface has no other.
        chosen = np.array([self._order[int(place)] for place in places[real]], np.int64)
        chosen = chosen.reshape(-1, 2) if len(chosen) else np.zeros((1, 2), np.int64)
        batch = self.rows.take(chosen[:, 0], chosen[:, 1] if self.repeat else None)
        if not real.all():
            batch = {name: _padded(array, real) for name, array in batch.items()}
        # What evaluation draws belongs to a row of the data, however large the batch.
        return {**batch, "rows": (number if self.repeat else places).astype(np.int32)}

    @functools.cached_property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape [batch, ...] and dtype of every array of a batch."""
        first = np.zeros(1, np.int64)
        row = self.rows.take(first, first if self.repeat else None)
        row["rows"] = np.zeros(1, np.int32)
        return {
            name: jax.ShapeDtypeStruct((self.batch, *array.shape[1:]), array.dtype)
            for name, array in row.items()
        }

    @functools.cached_property
    def _order(self) -> Sequence[tuple[int, int]]:
        """Place in the stream -> (row, epoch)."""
        import grain

        parts = self.rows.parts if self.repeat else (self.rows,)
        streams, start = [], 0
        for number, part in enumerate(parts):
            stream = grain.MapDataset.range(start, start + len(part))
            if self.shuffle:
                stream = stream.shuffle(seed=_seed(self.seed, number))
            stream = stream.repeat() if self.repeat else stream
            # Of a mixture each part has epochs of its own.
            streams.append(stream.map_with_index(functools.partial(_with_epoch, len(part))))
            start += len(part)
        return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, self.rows.weights)


def warm() -> None:
    """Imports Grain on a thread, which takes 0.6 s: compiling, or loading a step, hides it."""
    threading.Thread(target=importlib.import_module, args=("grain",), name="grain").start()


def place(
    batches: Batches, step: int, shardings: Callable[[str, tuple[int, ...]], jax.sharding.Sharding]
) -> dict[str, jax.Array]:
    """Batch `step` on the mesh: name -> [B, ...], laid out as `shardings(name, shape)` says.

    A process reads only the rows that its own devices hold, each of them once.
    """
    layouts = {name: shardings(name, spec.shape) for name, spec in batches.spec.items()}
    held = np.zeros(batches.batch, bool)
    for name, layout in layouts.items():
        shape = batches.spec[name].shape
        for index in layout.addressable_devices_indices_map(shape).values():
            held[index[0] if index else slice(None)] = True
    here = np.flatnonzero(held)
    host = batches.host(step, here)
    where = np.cumsum(held) - 1  # row of the batch -> row of `host`

    def cut(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        rows = where[index[0]]  # what one device holds is one stretch, and stays one here
        return array[(slice(rows[0], rows[-1] + 1), *index[1:])]

    return {
        name: jax.make_array_from_callback(
            batches.spec[name].shape, layout, functools.partial(cut, host[name])
        )
        for name, layout in layouts.items()
    }


class ahead(Generic[T]):
    """Yields (step, make(step)) for steps start, start + 1, ..., made on a thread of its own.

    At most `depth` results wait. An error of `make` is raised where its result would have come.

    Attributes:
        waited_seconds: how long the consumer has waited so far.
    """

    def __init__(
        self, make: Callable[[int], T], start: int, stop: int | None = None, depth: int = 2
    ):
        self.waited_seconds = 0.0
        self._ready: queue.Queue[tuple[int, T] | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._steps = (start, stop)
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True, name="ahead")
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return self

    def __next__(self) -> tuple[int, T]:
        if self._closed.is_set():
            raise StopIteration
        began = time.perf_counter()
        made = self._ready.get()
        self.waited_seconds += time.perf_counter() - began
        if isinstance(made, BaseException):
            self.close()
            raise made
        return made

    def __enter__(self) -> "ahead[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the thread and drops what waits."""
        self._closed.set()
        while self._thread.is_alive():  # it may be waiting for room
            while not self._ready.empty():
                self._ready.get_nowait()
            self._thread.join(0.01)

    def _work(self, make: Callable[[int], T]) -> None:
        step, stop = self._steps
        while not self._closed.is_set() and (stop is None or step < stop):
            try:
                made = make(step)
            except BaseException as error:  # raised again in the consumer
                self._ready.put(error)
                return
            self._ready.put((step, made))
            step += 1
        self._ready.put(StopIteration())


def _padded(array: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Rows [n, ...] to where `real` [b] says, zeros elsewhere."""
    out = np.zeros((len(real), *array.shape[1:]), array.dtype)
    out[real] = array[: real.sum()]
    return out


def _with_epoch(rows: int, place: int, row: int) -> tuple[int, int]:
    return row, place // rows


def _seed(seed: int, part: int) -> int:
    """Grain adds the epoch to its seed: seeds that are neighbours must not stay neighbours."""
    return int(np.random.SeedSequence(seed, spawn_key=(part,)).generate_state(1)[0])
