"""Two tiers of checkpoints: frequent ones on each host, and persistent ones that outlive it."""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from bigmodel import config, trees
from bigmodel.checkpoint import agreement, leaves, manifest
from bigmodel.checkpoint.checkpoints import Checkpoints, Restored
from bigmodel.checkpoint.local import Bounds, Local, SaveError, bounds

Tree = Any
Found = tuple[int, dict[str, dict[Bounds, np.ndarray]], dict[str, Any]]

RUN = "run_id"  # a file beside the persistent checkpoints; it ties local ones to them


class Tiers:
    """The checkpoints of a run as one: what is newest and whole on every process is restored.

    A local checkpoint is of use to the same processes on the same hosts alone, on a mesh that cuts
    the state into the same parts. Wherever it is not, the persistent one is taken, aloud. Every
    process makes one of these and calls the same methods in turn.

    Attributes:
        persistent: Orbax's, in the workdir.
        local: of this process, or None.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        local: str = "",
        local_every: int = 100,
        local_keep: int = 2,
        order: np.ndarray | None = None,
        **persistent: Any,
    ):
        """`persistent` and `order` are as in Checkpoints, `local` as in Local; "" for none."""
        self.local = (
            Local(local, every=local_every, keep=local_keep, order=order) if local else None
        )
        self.persistent = Checkpoints(folder, order=order, **persistent)
        self._local_at: int | None = None  # the step at which the local tier alone is due
        self._sought = False  # whether `find` has been asked since the last `restore`
        self._found: Found | None = None

    def steps(self) -> dict[int, str]:
        """Step -> "persistent" or "local", of what this process sees; oldest first."""
        held = dict.fromkeys(self.local.steps() if self.local else (), "local")
        return dict(sorted((held | dict.fromkeys(self.persistent.steps(), "persistent")).items()))

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def due(self, step: int, *, ends: bool = False) -> bool:
        """Whether to save at this step; to be asked at each one, by every process.

        Args:
            step: that has been done.
            ends: the process ends after it, so what is saved must last.
        """
        if self.persistent.due(step) or ends:
            self._local_at = None
            return True
        self._local_at = step if self.local is not None and self.local.due(step) else None
        return self._local_at is not None

    def save(
        self,
        step: int,
        tree: Tree,
        metadata: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        """Starts to save in the tier that is due and returns once the tree may be donated.

        Waits for the local save before, whose failure on any process is raised on all.
        """
        self._check()
        self._sought, self._found = False, None  # what was found is not the newest any more
        if self.local is not None and step == self._local_at:
            self._identify(create=True)
            self.local.save(step, tree, metadata)
        else:
            self.persistent.save(step, tree, metadata, metrics=metrics, wait=wait)
            if wait:
                agreement.wait(f"the save of step {step}")  # process 0 finishes it

    def metadata(self) -> dict[str, Any]:
        """What was given to `save`, of the newest checkpoint whose manifest can be read, or {}.

        Raises:
            InputError: a process may not write to its local folder.
        """
        return self._said("metadata") or self.persistent.metadata()

    def leaves(self) -> dict[str, leaves.Description]:
        """Name -> shape and dtype of all that the same checkpoint holds, or {}."""
        return self._said("leaves") or self.persistent.leaves()

    def _said(self, what: str) -> dict[str, Any]:
        for step in self._whole()[0]:
            try:
                return self._own.content(step)[what]
            except manifest.Damaged:
                continue
        return {}

    def warm(self, tree: Tree) -> None:
        """See `Checkpoints.warm`."""
        self.persistent.warm(tree)

    def wait(self) -> None:
        """Returns when all that was saved is on disk; raises what went wrong on the way."""
        self.persistent.wait()
        agreement.wait("the last save")  # which process 0 finishes
        self._check()

    def find(self, abstract: Tree, *, warn: Callable[[str], None] = config.to_stderr) -> bool:
        """Whether there is a checkpoint to restore; a local one is read and checked here.

        Args:
            abstract: the tree to restore: jax.ShapeDtypeStruct with shardings.
            warn: is told, in one line each, of newer local checkpoints that are left aside.
        """
        self._check()
        self._sought, self._found = True, None
        steps, why = self._whole()
        tell = warn if jax.process_index() == 0 else lambda line: None
        if why:
            tell(why)
        wanted = trees.flatten(abstract)
        for step in steps:
            fault = ""
            try:
                self._found = (step, *self._own.read(step, wanted))
            except manifest.Damaged as error:
                fault = f"process {jax.process_index()}: {error}"
            if not (fault := agreement.agreed(fault, f"the local checkpoint of step {step}")):
                return True
            self._found = None
            tell(f"the local checkpoint of step {step} is left aside: {fault}")
        there = self.persistent.latest() is not None  # which may be known later elsewhere
        return bool(agreement.from_process_0(there, "whether there is a checkpoint"))

    def restore(
        self, abstract: Tree, *, warn: Callable[[str], None] = config.to_stderr
    ) -> Restored:
        """What `find` has found, or finds now, on the shardings of `abstract`; else as Checkpoints.

        Local checkpoints of later steps are removed: the run goes on from here.
        """
        if not self._sought:
            self.find(abstract, warn=warn)
        found, self._found, self._sought = self._found, None, False
        if found is None:
            restored = self.persistent.restore(abstract, warn=warn)
        else:
            step, shards, content = found
            values = [
                leaves.revive(made(leaves.stored(leaf), shards.pop(name)), content["leaves"][name])
                for name, leaf in trees.flatten(abstract).items()
            ]
            tree = jax.tree.unflatten(jax.tree.structure(abstract), values)
            restored = Restored(step, tree, content["metadata"])
        if self.local is not None:
            self.local.remove(step for step in self.local.there() if step > restored.step)
        return restored

    def finish(self) -> None:
        """Waits for all saves; with the last persistent one on disk, local ones are removed."""
        self.wait()
        if self.local is not None and self.steps().get(self.latest() or 0) == "persistent":
            self.local.remove_all()

    def close(self) -> None:
        try:
            self.persistent.close()
        finally:
            if self.local is not None:
                self.local.close()

    def __enter__(self) -> "Tiers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _own(self) -> Local:
        if self.local is None:
            raise ValueError("there is no local tier")
        return self.local

    def _check(self) -> None:
        if self.local is not None and (
            fault := agreement.agreed(self.local.fault(), "the local save before")
        ):
            raise SaveError(fault)

    def _identify(self, *, create: bool) -> None:
        """Gives the local tier its run's name, of a random number that process 0 has stored."""
        if self.local is None or self.local.run:
            return
        if fault := agreement.agreed(self.local.unwritable(), "a look at the local folders"):
            raise agreement.AgreedError(fault)
        text, path = "", self.persistent.folder / RUN
        if jax.process_index() == 0:
            text = path.read_text() if path.exists() else ""
            if create and not text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text := secrets.token_hex(16))
        if text := agreement.gathered("the run's id", text)[0]:
            # With the workdir's place: its copy elsewhere is another run. A digest, as whoever
            # wrote the file must not choose a path.
            place = f"{text} {self.persistent.folder}"
            self.local.run = hashlib.sha256(place.encode()).hexdigest()[:16]

    def _whole(self) -> tuple[list[int], str]:
        """Local steps that every process has finished, if newer than the persistent ones.

        The newest comes first; and why a newer one is none of them, or "".
        """
        self._identify(create=False)
        if self.local is None or not self.local.run:
            return [], ""
        last = agreement.from_process_0(
            max(self.persistent.steps(), default=-1), "the newest persistent checkpoint"
        )
        own = json.dumps([self.local.steps(), self.local.there()])
        said = [
            json.loads(text) for text in agreement.gathered("what local checkpoints there are", own)
        ]
        finished = [set(steps) for steps, _ in said]
        whole = sorted((s for s in set.intersection(*finished) if s > last), reverse=True)
        newest = max((step for _, there in said for step in there), default=-1)
        if newest <= max([last, *whole]):
            return whole, ""
        lacking = [str(number) for number, steps in enumerate(finished) if newest not in steps]
        return whole, (
            f"the local checkpoint of step {newest} is left aside: process {', '.join(lacking)} of "
            f"{len(said)} has no finished one in {self.local.folder / self.local.run} (a save cut "
            "off, another host, or another number of processes)"
        )


def made(leaf: jax.ShapeDtypeStruct, parts: Mapping[Bounds, np.ndarray]) -> jax.Array:
    """An array out of the parts that this process's devices hold."""
    with jax.transfer_guard("allow"):
        return jax.make_array_from_callback(
            leaf.shape,
            leaf.sharding,
            lambda index: parts[bounds(index or (), leaf.shape)],
            dtype=leaf.dtype,
        )
