"""A checked config becomes what a run is made of: model, objective, optimizer, mesh, data."""

from bigmodel.recipe.build import Recipe, make, resolve, unsaid
from bigmodel.recipe.defaults import default_config
from bigmodel.recipe.entries import sources
from bigmodel.recipe.rows import (
    Evaluation,
    Progress,
    batch_spec,
    check_vocabulary,
    evaluation,
    evaluations,
    inspect_data,
    open_rows,
    open_small_rows,
    placed,
    prepare_data,
    preparing,
    tokenizer_fingerprint,
    train_batches,
    train_tokenizer,
)
from bigmodel.recipe.stored import make_stored
from bigmodel.recipe.tuning import asked as tuning_asked
from bigmodel.recipe.tuning import table as tuning_table

__all__ = [
    "Evaluation",
    "Progress",
    "Recipe",
    "batch_spec",
    "check_vocabulary",
    "default_config",
    "evaluation",
    "evaluations",
    "inspect_data",
    "make",
    "make_stored",
    "open_rows",
    "open_small_rows",
    "placed",
    "prepare_data",
    "preparing",
    "resolve",
    "sources",
    "tokenizer_fingerprint",
    "train_batches",
    "train_tokenizer",
    "tuning_asked",
    "tuning_table",
    "unsaid",
]
