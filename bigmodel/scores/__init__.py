"""Numbers that say how good: NumPy arrays and texts in, floats out.

What is not of a few lines is told by the library that the field takes for it.
"""

from bigmodel.scores.classes import (
    accuracy,
    correlation,
    matthews,
    mean_squared_error,
    of_classes,
)
from bigmodel.scores.language import (
    bigram_nats,
    bits_per_byte,
    ngram_bits_per_byte,
    perplexity,
    unigram_nats,
)
from bigmodel.scores.matches import class_vectors, classify, recall, unit
from bigmodel.scores.ranks import hit_rate, mrr, ndcg
from bigmodel.scores.spans import is_tag, of_spans, spans
from bigmodel.scores.texts import (
    bleu,
    character_error_rate,
    chrf,
    exact_match,
    word_error_rate,
)

__all__ = [
    "accuracy",
    "bigram_nats",
    "bits_per_byte",
    "bleu",
    "character_error_rate",
    "chrf",
    "class_vectors",
    "classify",
    "correlation",
    "exact_match",
    "hit_rate",
    "is_tag",
    "matthews",
    "mean_squared_error",
    "mrr",
    "ndcg",
    "ngram_bits_per_byte",
    "of_classes",
    "of_spans",
    "perplexity",
    "recall",
    "spans",
    "unigram_nats",
    "unit",
    "word_error_rate",
]
