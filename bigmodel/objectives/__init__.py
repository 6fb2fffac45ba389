"""What is good: objectives make a summed loss, and sums with its weight, out of a batch.

The first argument of each is a model's handle (models/handle.py); its keyword-only arguments are
the fields of a config. One that is about all rows of a batch together has an attribute
`whole_batch`, and its batch is not taken in parts.
"""

from bigmodel.objectives.classes import classify, regress
from bigmodel.objectives.contract import Objective, Sums
from bigmodel.objectives.contrastive import contrastive, sigmoid_contrastive
from bigmodel.objectives.tokens import (
    LOGITS,
    LOGITS_ON_CPU,
    chunk_length,
    cross_entropy,
    next_token,
)

# name in a config -> what makes it
OBJECTIVES = {
    "classify": classify,
    "contrastive": contrastive,
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
    "next_token",
]
