"""Checkpoints of one process on its own host: quick to write, and gone with the host."""

import concurrent.futures
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel import config
from bigmodel.checkpoint import leaves, manifest

Tree = Any
Bounds = tuple[tuple[int, int], ...]  # of a part of an array: (begin, end) on each axis

FILE = "shards"


class SaveError(RuntimeError):
    """A checkpoint could not be written."""


class Shard(NamedTuple):
    """A part of an array, in the host's memory."""

    leaf: str
    bounds: Bounds
    array: np.ndarray


class Local:
    """What this process's devices hold at some steps, in a folder of this host.

    FOLDER/RUN/<step>/<process>-of-<processes>/ has the bits of each distinct shard, one after
    another in one file, and a manifest with their places and CRC-32, written last. Nothing here
    speaks to other processes: whether a step is whole on all of them is for the caller to ask.

    Attributes:
        run: name of the run's own folder; to be set before anything is asked.
        keep: how many steps to keep, the one that is being written among them; 2 or more.
        every: steps between checkpoints.
    """

    def __init__(
        self, folder: str, *, every: int, keep: int, order: np.ndarray | None = None
    ) -> None:
        if "://" in folder:
            raise config.InputError(
                f"checkpoint.local = {folder!r}: must be a folder of each host's own disk or "
                "memory, such as '/dev/shm/bigmodel'; '' for none."
            )
        self.folder = epath.Path(os.path.abspath(os.path.expanduser(folder)))
        self.run = ""
        self.keep = keep
        self.every = every
        self._order = None if order is None else order.tolist()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="local")
        self._saving: concurrent.futures.Future | None = None

    def unwritable(self) -> str:
        """What keeps this process from writing there, or ""."""
        above = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if above.is_dir() and os.access(above, os.W_OK):
            return ""
        return (
            f"checkpoint.local = {str(self.folder)!r}: process {jax.process_index()} may not write "
            f"to {above}; set it to a folder that every host may write to, or '' for none."
        )

    def at(self, step: int) -> epath.Path:
        part = f"{jax.process_index()}-of-{jax.process_count()}"
        return self.folder / self.run / str(step) / part

    def there(self) -> list[int]:
        """Steps of which anything is there, of whatever process; oldest first."""
        folder = self.folder / self.run
        if not self.run or not folder.exists():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())

    def steps(self) -> list[int]:
        """Steps that this process has finished, oldest first."""
        return [step for step in self.there() if manifest.exists(self.at(step))]

    def due(self, step: int) -> bool:
        return step > 0 and step % self.every == 0

    def save(self, step: int, tree: Tree, metadata: Mapping[str, Any]) -> None:
        """Copies the shards and returns: the tree may be donated; a thread writes them.

        Every process must have finished the save before: what is older makes room first.
        """
        older = [at for at in self.steps() if at < step][1 - self.keep :]
        self.remove(at for at in self.there() if at not in (*older, step))
        content = {
            "step": step,
            "run": self.run,
            "order": self._order,
            "metadata": dict(metadata),
            "leaves": leaves.describe(tree),
        }
        with jax.transfer_guard("allow"):  # the loop refuses transfers that nobody asked for
            shards = on_host(leaves.to_arrays(tree))
        self._saving = self._thread.submit(write, self.at(step), shards, content)

    def fault(self) -> str:
        """Waits for the save under way; what went wrong with it, or ""."""
        saving, self._saving = self._saving, None
        error = saving.exception() if saving is not None else None
        return "" if error is None else f"process {jax.process_index()}: {error}"

    def content(self, step: int) -> dict[str, Any]:
        """A step's manifest; raises Damaged."""
        return manifest.read(self.at(step))

    def read(
        self, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> tuple[dict[str, dict[Bounds, np.ndarray]], dict[str, Any]]:
        """The shards of each wanted leaf that this process's devices need, and the manifest.

        Args:
            step: one of `steps`.
            wanted: of a whole tree, with shardings.

        Raises:
            InputError: it is of another model.
            Damaged: it is not what was written, or of another run or layout.
        """
        folder = self.at(step)
        try:
            content = manifest.read(folder)
            manifest.check_sizes(folder, content)
            if content["run"] != self.run:
                raise manifest.Damaged("it is of another run")
            if content["order"] != self._order:
                raise manifest.Damaged("its layers lie in the order of another pipeline")
            leaves.check_fit(wanted, content["leaves"], where=str(folder))
            places = {
                (shard["leaf"], tuple(map(tuple, shard["bounds"]))): shard
                for shard in content["shards"]
            }
            found: dict[str, dict[Bounds, np.ndarray]] = {}
            with open(folder / FILE, "rb") as file:
                for name, leaf in wanted.items():
                    plain, found[name] = leaves.stored(leaf), {}
                    for at in needed(plain):
                        if (name, at) not in places:
                            raise manifest.Damaged(
                                f"it holds no part {list(at)} of {name}: it is of another mesh"
                            )
                        place = places[name, at]
                        file.seek(place["offset"])
                        bits = np.fromfile(file, np.uint8, place["bytes"])
                        if zlib.crc32(bits.data) != place["crc32"]:
                            raise manifest.Damaged(f"{FILE}: {name} does not match its checksum")
                        shape = [end - begin for begin, end in at]
                        found[name][at] = bits.view(plain.dtype).reshape(shape)
        except manifest.Damaged as error:
            raise manifest.Damaged(f"{folder}: {error}") from error
        except OSError as error:
            raise manifest.Damaged(f"{folder}: cannot be read ({error})") from error
        return found, content

    def remove(self, steps: Iterable[int]) -> None:
        """Removes steps, of all processes that share the folder."""
        for step in steps:
            shutil.rmtree(self.folder / self.run / str(step), ignore_errors=True)

    def remove_all(self) -> None:
        if self.run:
            shutil.rmtree(self.folder / self.run, ignore_errors=True)

    def close(self) -> None:
        self._thread.shutdown()


def on_host(arrays: Mapping[str, jax.Array]) -> list[Shard]:
    """One copy of each distinct shard that this process's devices hold."""
    held: dict[tuple[str, Bounds], jax.Array] = {}
    for name, array in arrays.items():
        for shard in array.addressable_shards:
            held.setdefault((name, bounds(shard.index, array.shape)), shard.data)
    for data in held.values():
        data.copy_to_host_async()  # all of them are under way before the first is waited for
    return [Shard(name, at, copied(data)) for (name, at), data in held.items()]


def copied(data: jax.Array) -> np.ndarray:
    """An array of one device, in memory of its own."""
    array = np.asarray(data)
    host = data.sharding.memory_kind != "device" or jax.default_backend() == "cpu"
    # There jax hands out the array's own memory, which the next step could not take over.
    return array.copy() if host else array


def needed(leaf: jax.ShapeDtypeStruct) -> set[Bounds]:
    """The distinct parts that this process's devices hold of an array."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
    return {bounds(index, leaf.shape) for index in indices.values()}


def bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def write(folder: epath.Path, shards: list[Shard], content: dict[str, Any]) -> None:
    """The file, then the manifest; or SaveError, and nothing is left of them."""
    size = sum(shard.array.nbytes for shard in shards)
    free = -1
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError("no room is left")
        places, offset = [], 0
        with open(folder / FILE, "wb") as file:
            for leaf, at, array in shards:
                bits = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                file.write(bits.data)
                places.append(
                    {
                        "leaf": leaf,
                        "bounds": at,
                        "offset": offset,
                        "bytes": bits.size,
                        "crc32": zlib.crc32(bits.data),
                    }
                )
                offset += bits.size
        manifest.write(folder, {**content, "shards": places, "files": {FILE: size}})
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        room = f", {free:,} are free" if free >= 0 else ""
        raise SaveError(
            f"the local checkpoint {folder} cannot be written: {error.strerror or error}. It needs "
            f"{size:,} bytes{room}. Make room for checkpoint.local_keep of them, set "
            "checkpoint.local to another folder, or to '' for none."
        ) from error
