"""What is good: objectives make a summed loss, and sums with its weight, out of a batch.

The first argument of each is a model's handle (models/handle.py); its keyword-only arguments are
the fields of a config. One that is about all rows of a batch together has an attribute
`whole_batch`, and its batch is not taken in parts.
"""

from collections.abc import Callable

from bigmodel.objectives.classes import classify, regress
from bigmodel.objectives.contract import Objective, Sums
from bigmodel.objectives.contrastive import contrastive, sigmoid_contrastive
from bigmodel.objectives.ctc import ctc
from bigmodel.objectives.flow import flow_matching
from bigmodel.objectives.items import next_item
from bigmodel.objectives.pixels import masked_image
from bigmodel.objectives.tokens import (
    LOGITS,
    LOGITS_ON_CPU,
    chunk_length,
    cross_entropy,
    label_tokens,
    masked_token,
    next_token,
)

# name in a config -> what makes it
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "classify": classify,
    "flow_matching": flow_matching,
    "label_tokens": label_tokens,
    "masked_image": masked_image,
    "masked_token": masked_token,
    "next_item": next_item,
    "contrastive": contrastive,
    "ctc": ctc,
    "next_token": next_token,
    "regress": regress,
    "sigmoid_contrastive": sigmoid_contrastive,
}

__all__ = [
    "LOGITS",
    "LOGITS_ON_CPU",
    "OBJECTIVES",
    "Objective",
    "Sums",
    "chunk_length",
    "cross_entropy",
    "next_item",
    "next_token",
]
