"""What one kind of foreign checkpoint is: how its config and its names are ours, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel.convert.fields import Foreign
from bigmodel.convert.rows import Row

Fields = Mapping[str, Any]  # of a family of ours, complete

NO_NAME = "(?!)"  # the regular expression of none
LENGTH = 1024  # tokens of a row of text, where the model takes so many


def rows_of_text(fields: Fields) -> dict[str, Any]:
    return {"length": min(fields["length"], LENGTH)}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of `convert.ARCHITECTURES`.

    Attributes:
        model_type: what a config.json says beside its architecture.
        family: of `models.FAMILIES`.
        fields: their config -> our model's fields, but for those at their defaults. What comes out
            of `config` must give the same again: so is told what can be written as what.
        config: our fields -> their config, but for what all have.
        rows: our fields -> the table of names.
        objective: of a run that goes on from it.
        data: its kind.
        data_fields: our model's fields -> those of the data that must fit them.
        prefix: which names begin with, and in some folders do not.
        fixed: fields -> tensors of theirs that are no parameters, and their values.
        bare: whether it is written without that prefix.
        unread: a regular expression of names that hold no weights, or those of another name.
        dropped: and of weights that our model has no place for.
        renamed: (pattern, replacement) of names in older folders.
    """

    model_type: str
    family: str
    fields: Callable[[Foreign], dict[str, Any]]
    config: Callable[[Fields], dict[str, Any]]
    rows: Callable[[Fields], Sequence[Row]]
    objective: str = "next_token"
    data: str = "text"
    data_fields: Callable[[Fields], dict[str, Any]] = rows_of_text
    prefix: str = ""
    bare: bool = False
    fixed: Callable[[Fields], dict[str, np.ndarray]] = lambda _: {}
    unread: str = r"rotary_emb\.inv_freq$"
    dropped: str = NO_NAME
    renamed: tuple[tuple[str, str], ...] = ()
