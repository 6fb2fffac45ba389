"""What the loop is handed, made before its first step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from etils import epath

from bigmodel import checkpoint
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.train import compiled, goodput, heartbeat, replay, void
from bigmodel.train import progress as progresses
from bigmodel.train import state as states


class Job(NamedTuple):
    """What the loop needs, made before its first step."""

    recipe: recipes.Recipe
    folder: epath.Path
    facts: dict[str, Any]  # what a checkpoint remembers of the run
    batches: pipeline.Batches
    evaluations: dict[str, recipes.Evaluation]
    checkpoints: checkpoint.Tiers
    step: compiled.Compiled
    void: void.Void
    make_state: Callable[[], states.TrainState]  # that of the newest checkpoint, or the first
    replay: replay.Replay | None
    progress: progresses.Progress
    heart: heartbeat.Heartbeat
    ledger: goodput.Ledger
