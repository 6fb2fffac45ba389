"""Checkpoints of a run in one folder: when to save, which to keep, which can be trusted."""

import concurrent.futures
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel import compat, config, trees
from bigmodel.checkpoint import agreement, checksums, leaves, manifest, schedule, store

Tree = Any


class UnsoundError(RuntimeError):
    """No checkpoint is left that could be trusted."""


class Restored(NamedTuple):
    step: int
    tree: Tree
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run. Every process makes one and calls the same methods in turn.

    A checkpoint is a folder `<step>/`: Orbax's files, and a manifest with the caller's metadata
    and a checksum for each array, written last. What does not match it is never handed out.

    Attributes:
        folder: local or remote ("gs://..."); made when the first checkpoint is saved.
        keep: how many of the newest to keep.
        every: steps between checkpoints; 0 for none by step.
        every_minutes: minutes between checkpoints, besides; 0 for none by time.
        best: name of a metric; the checkpoint with the best value is kept as well.
        best_is: "lowest" or "highest".
        order: memory[i] = disk[order[i]] of stacked layers, where a pipeline has them otherwise.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        keep: int = 3,
        every: int = 1000,
        every_minutes: float = 0.0,
        best: str = "",
        best_is: str = "lowest",
        order: np.ndarray | None = None,
    ):
        if keep < 1:
            raise config.InputError(f"checkpoint.keep is {keep}; allowed: 1 or more")
        if best_is not in schedule.SIGNS:
            known = " or ".join(schedule.SIGNS)
            raise config.InputError(
                f"checkpoint.best_is is {best_is!r}; allowed: {known}"
                + config.nearest(best_is, schedule.SIGNS)
            )
        folder = epath.Path(folder)
        self.folder = folder if "://" in str(folder) else epath.Path(folder.resolve())
        self.keep = keep
        self.every = every
        self.best = best
        self.best_is = best_is
        self.order = order
        self._clock = schedule.Clock(every_minutes)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: concurrent.futures.Future | None = None
        self._warming: list[concurrent.futures.Future] = []
        self._at: int | None = None  # the step last saved or restored
        self._unsound: set[int] = set()
        self._swept = False

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, oldest first."""
        return [step for step in self._folders() if manifest.exists(self.folder / str(step))]

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def due(self, step: int) -> bool:
        """Whether to save at this step; to be asked at each one, by every process.

        Raises what went wrong in the save before, if it has ended.
        """
        if self._saving is not None and self._saving.done():
            self.wait()
        by_time = self._clock.due(step)
        return by_time or (self.every > 0 and step > 0 and step % self.every == 0)

    def save(
        self,
        step: int,
        tree: Tree,
        metadata: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Starts to save and returns once the tree may be donated; `wait` for it on disk.

        Waits for the save before, whose failure, if any, is raised here. Nothing is written at
        the step last saved or restored: it is there already.
        """
        self.wait()
        if step != self._at:
            if self.order is not None:
                tree = leaves.reordered(tree, np.argsort(self.order))
            arrays = leaves.to_arrays(tree)
            concurrent.futures.wait(self._warming)  # or both would compile the same
            sums = {
                name: compat.in_turn(checksums.checksum(array)) for name, array in arrays.items()
            }
            if jax.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
            self.sweep()
            written = store.begin(self.folder / str(step), arrays)
            content = {
                "step": step,
                "metadata": dict(metadata),
                "metrics": {name: float(value) for name, value in (metrics or {}).items()},
                "leaves": leaves.describe(tree),
            }
            self._saving = self._thread.submit(self._finish, step, written, content, sums)
            self._at = step
            self._clock.restart(step)
        if wait:
            self.wait()

    def restore(
        self,
        abstract: Tree,
        *,
        step: int | None = None,
        warn: Callable[[str], None] = config.to_stderr,
    ) -> Restored:
        """The newest sound checkpoint (or the one of `step`) on the shardings of `abstract`.

        Args:
            abstract: a tree of jax.ShapeDtypeStruct with shardings. It may be a part of what was
                saved, such as {"params": ...}: the rest is not read.
            warn: is told, in one line each, of checkpoints that are unsound.

        Raises:
            FileNotFoundError: there is no checkpoint.
            InputError: the checkpoint is of another model: leaves differ in name, shape or dtype.
            UnsoundError: there are some, none is sound.
        """
        self.wait()
        wanted = trees.flatten(abstract)
        faults: dict[int, str] = {}
        while (at := self._agree(step, faults)) >= 0:
            found, fault = self._read(at, wanted)
            if found is not None:
                values, metadata = found
                self._at = at
                self._unsound |= set(faults)
                self._clock.restart(at)
                tree = jax.tree.unflatten(jax.tree.structure(abstract), values.values())
                return Restored(at, leaves.reordered(tree, self.order), metadata)
            faults[at] = fault
            if jax.process_index() == 0:
                warn(f"checkpoint {self.folder / str(at)} is unsound and left aside: {fault}")
        if not faults:
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(
                f"{which} in {self.folder}; there are: {self.steps() or 'none'}"
            )
        lines = (f"  step {at}: {fault}" for at, fault in faults.items())
        raise UnsoundError("\n".join([f"no sound checkpoint in {self.folder}:", *lines]))

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """What was given to `save`, of the newest checkpoint with a readable manifest, or {}."""
        return self._said(step, "metadata")

    def leaves(self, step: int | None = None) -> dict[str, leaves.Description]:
        """Name -> shape and dtype of all that the same checkpoint holds, or {}."""
        return self._said(step, "leaves")

    def _said(self, step: int | None, what: str) -> dict[str, Any]:
        for at in reversed(self.steps() if step is None else [step]):
            try:
                return manifest.read(self.folder / str(at))[what]
            except manifest.Damaged:
                continue
        return {}

    def warm(self, tree: Tree) -> None:
        """Imports Orbax and compiles the checksums of a (possibly abstract) tree, on a thread.

        To be asked for long before the first save, so that it does not wait for them.
        """
        kept = map(leaves.stored, jax.tree.leaves(tree))
        kinds = {(x.shape, x.dtype, x.sharding): x for x in kept}

        def prepare() -> None:  # what fails here, fails again and is told when it saves
            store.warm()
            for array in kinds.values():
                checksums.checksum.lower(array).compile()

        self._warming.append(self._thread.submit(prepare))

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises what went wrong on the way."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(
        self,
        step: int,
        written: Callable[[], None],
        content: dict[str, Any],
        sums: dict[str, jax.Array],
    ) -> None:
        """What follows a save, on a thread: the manifest, then room is made."""
        with jax.transfer_guard("allow"):
            for name, value in sums.items():
                content["leaves"][name]["checksum"] = int(np.asarray(value))
        written()
        if jax.process_index() == 0:
            folder = self.folder / str(step)
            manifest.write(folder, {**content, "files": manifest.sizes(folder)})
            self._make_room(step)

    def _make_room(self, saved: int) -> None:
        """Removes what is older than `saved` and not to be kept; what is newer is not touched."""
        steps = [at for at in self.steps() if at <= saved and at not in self._unsound - {saved}]
        keep = schedule.kept(steps, self._scores(steps), self.keep, self.best_is)
        for step in self._folders():
            if step < saved and step not in keep:
                (self.folder / str(step)).rmtree(missing_ok=True)

    def _scores(self, steps: list[int]) -> dict[int, float]:
        scores = {}
        for step in steps if self.best else ():
            try:
                metrics = manifest.read(self.folder / str(step))["metrics"]
            except manifest.Damaged:
                continue
            if self.best in metrics:
                scores[step] = metrics[self.best]
        return scores

    def sweep(self) -> None:
        """Removes what a killed save has left; to be called by who alone writes here."""
        if not self._swept and jax.process_index() == 0 and self.folder.exists():
            store.remove_unfinished(self.folder)
        self._swept = True

    def _folders(self) -> list[int]:
        if not self.folder.exists():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def _candidate(self, step: int | None, faults: Mapping[int, str]) -> int:
        """The next checkpoint to try, or -1; where none was ever finished there is none."""
        if not faults and not self.steps():
            return -1
        left = [at for at in self._folders() if at not in faults and step in (None, at)]
        return max(left, default=-1)

    def _agree(self, step: int | None, faults: Mapping[int, str]) -> int:
        """Process 0's candidate, on every process."""
        return agreement.from_process_0(self._candidate(step, faults), "which checkpoint to take")

    def _read(
        self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]
    ) -> tuple[tuple[dict[str, jax.Array], dict[str, Any]] | None, str]:
        """(leaves, metadata) and no fault, or None and what is wrong with it."""
        folder = self.folder / str(step)
        content: dict[str, Any] = {}
        arrays: dict[str, jax.Array] = {}
        fault = ""
        try:
            content = manifest.read(folder)
            manifest.check_sizes(folder, content)
        except manifest.Damaged as error:
            fault = str(error)
        if fault := agreement.agreed(fault, f"the manifest of checkpoint {step}"):
            return None, fault
        known = content["leaves"]
        leaves.check_fit(wanted, known, where=str(folder))
        stored = {name: leaves.stored(leaf) for name, leaf in wanted.items()}
        try:
            arrays = store.read(folder, stored, known)
        except store.Unreadable as error:
            fault = str(error)
        if fault := agreement.agreed(fault, f"the arrays of checkpoint {step}"):
            return None, fault
        sums = {name: compat.in_turn(checksums.checksum(array)) for name, array in arrays.items()}
        for name, value in sums.items():
            if int(value) != known[name]["checksum"]:
                return None, f"{name} does not match its checksum"
        values = {name: leaves.revive(array, known[name]) for name, array in arrays.items()}
        return (values, content["metadata"]), ""
