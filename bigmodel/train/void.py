"""Void batches: of steps that went wrong, which a run goes back before and then leaves out."""

import json
import zlib
from collections.abc import Iterable
from typing import Any

import jax
from etils import epath

from bigmodel import checkpoint
from bigmodel.checkpoint import agreement
from bigmodel.train import state as states
from bigmodel.train import watch

FILE = "void.json"


class RollBack(Exception):
    """A step went wrong, and the config says to go back before it.

    Attributes:
        step: its number; its batch is the one before.
        told: what was seen, in one line.
    """

    def __init__(self, step: int, told: str):
        super().__init__(told)
        self.step, self.told = step, told


class Void:
    """The void batches of a run, by number. Every process makes one and calls it in turn.

    They are kept in the workdir, written before the run goes back, and in every checkpoint since.

    Attributes:
        path: of the file: one entry for each time that the run went back.
        entries: what it holds.
    """

    def __init__(self, folder: epath.Path, remembered: Iterable[int] = ()):
        """Args: the workdir, and the batches that the newest checkpoint knows."""
        self.path, self.entries, fault = folder / FILE, [], ""
        try:
            found = json.loads(self.path.read_text()) if self.path.exists() else []
            self.entries = [{**entry, "batch": int(entry["batch"])} for entry in found]
        except (ValueError, KeyError, TypeError):
            fault = f"{self.path} is no list of void batches; restore it, or remove it."
        known = self.batches
        self.entries += [{"batch": batch} for batch in remembered if batch not in known]
        mark = zlib.crc32(json.dumps(self.entries).encode()) >> 1
        if agreement.from_process_0(mark, "the list of void batches") != mark:
            fault = f"{self.path}: not the same for all processes; the workdir must be shared."
        if fault := agreement.agreed(fault, "the list of void batches"):
            raise agreement.AgreedError(fault)

    @property
    def batches(self) -> list[int]:
        return [entry["batch"] for entry in self.entries]

    def __contains__(self, batch: int) -> bool:
        return any(entry["batch"] == batch for entry in self.entries)

    def add(self, bad: RollBack, back_to: int, most: int) -> None:
        """Makes the batch of a step void.

        Args:
            bad: the step, and what was seen.
            back_to: step of the checkpoint that the run goes back to, 0: its beginning.
            most: times that a run may go back to one checkpoint.

        Raises:
            WentWrongError: it has gone back to this one as often already.
        """
        times = 0
        for entry in reversed(self.entries):
            if entry.get("checkpoint") != back_to:
                break
            times += 1
        if times >= most:
            raise watch.WentWrongError(
                f"{bad.told}. rollbacks = {most}, and the run has gone back to step {back_to:,} "
                f"that often without a newer checkpoint. Lower schedule.peak, look at the "
                f"batches in {self.path}, or raise rollbacks."
            )
        entry = {"batch": bad.step - 1, "step": bad.step, "checkpoint": back_to, "told": bad.told}
        self.entries.append(entry)
        if jax.process_index() == 0:
            unfinished = self.path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(self.entries, indent=2) + "\n")
            unfinished.replace(self.path)


def newest(checkpoints: checkpoint.Tiers) -> int | None:
    """Step of the newest checkpoint, one that is being saved among them; on all processes."""
    checkpoints.wait()
    found = checkpoints.latest()
    agreed = agreement.from_process_0(-1 if found is None else found, "the newest checkpoint")
    return None if agreed < 0 else agreed


def pass_over(state: states.TrainState, batch: Any) -> tuple[states.TrainState, dict]:
    """A void step: its number goes on, and nothing else."""
    step = jax.jit(lambda step: step + 1, out_shardings=state.step.sharding)(state.step)
    return state.replace(step=step), {}


def roll_back(job: Any, bad: RollBack) -> states.TrainState:
    """Makes a step's batch void, and gives the state before it that a checkpoint holds."""
    job.heart.at("restore")
    back_to = newest(job.checkpoints) or 0
    job.void.add(bad, back_to, job.recipe.config.rollbacks)
    job.facts["void"] = job.void.batches
    job.progress.print(
        f"{bad.told}. The run goes back to step {back_to:,}, and on without the batch of step "
        f"{bad.step:,}"
    )
    return job.make_state()
