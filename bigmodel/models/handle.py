"""What everything above the models sees of one: pure functions of parameters and a batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel import config

Params = Any
Batch = dict[str, jax.Array]
Outputs = dict[str, Any]


def no_tokens(*_: Any) -> Any:
    raise config.InputError("this model writes no text: it has no head, or no cache to write with.")


def no_scores(*_: Any) -> Any:
    raise config.InputError(
        "this model scores no tokens but all of them; allowed are objective.loss = 'softmax' and "
        "data.eval_negatives = 0."
    )


def one_token() -> Batch:
    return {"tokens": jnp.zeros((1, 1), jnp.int32)}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as functions; the names and shapes of a batch are in docs/batch.md.

    Attributes:
        init: (rng, batch) -> params, each leaf in a box that names its logical axes.
        apply: (params, batch, rngs=None, cache=None) -> outputs. Dropout happens when `rngs` holds
            a key "dropout". With a cache the batch holds the next tokens, and outputs["cache"] is
            the cache after them.
        head: params -> the part of them that `unembed` reads, in the dtype of the arithmetic and
            gathered as it wants them: once, where `unembed` runs many times.
        unembed: (head or params, hidden [..., D]) -> logits float32 [..., V].
        score: (head or params, hidden [B, T, D], tokens [B, T, N]) -> logits float32 [B, T, N] of
            some tokens alone, where a family's vocabulary is too large to ask for all.
        new_cache: (params, batch, length) -> an empty cache for `length` tokens a row.
        example: a batch of one short row, enough to make parameters.

    A model that gives no tokens has none of the four before the last; most have no `score`.
    """

    init: Callable[[jax.Array, Batch], Params]
    apply: Callable[..., Outputs]
    head: Callable[[Params], Params] = no_tokens
    unembed: Callable[[Params, jax.Array], jax.Array] = no_tokens
    score: Callable[[Params, jax.Array, jax.Array], jax.Array] = no_scores
    new_cache: Callable[[Params, Batch, int], Any] = no_tokens
    example: Batch = dataclasses.field(default_factory=one_token, compare=False)
