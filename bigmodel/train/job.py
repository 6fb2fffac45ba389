"""What the loop is handed, made before its first step."""

from typing import Any, NamedTuple

from etils import epath

from bigmodel import checkpoint
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.train import compiled, goodput
from bigmodel.train import progress as progresses


class Job(NamedTuple):
    """What the loop needs, made before its first step."""

    recipe: recipes.Recipe
    folder: epath.Path
    facts: dict[str, Any]  # what a checkpoint remembers of the run
    batches: pipeline.Batches
    evaluations: dict[str, recipes.Evaluation]
    checkpoints: checkpoint.Checkpoints
    step: compiled.Compiled
    progress: progresses.Progress
    ledger: goodput.Ledger
