"""Losses of whole examples: a class, or numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.objectives.contract import Objective, rngs, weights_of


def classify(model: Any, *, label_smoothing: float = 0.0) -> Objective:
    """Cross entropy of an example's class, given `class_logits` [B, N].

    Labels are classes, int [B], or how much of each there is, float [B, N] (mixed images): then the
    loss is -sum_n label_n log p_n.

    Args:
        model: a handle (models/handle.py).
        label_smoothing: e, see `objectives.next_token`.

    Returns:
        An objective whose sums are `weight` (examples that count), `nll` and `correct`.
    """

    def objective(params, batch, rng):
        logits = model.apply(params, batch, rngs=rngs(rng))["class_logits"]
        labels, N = batch["labels"], logits.shape[-1]
        weights = weights_of(batch, batch["labels"].shape[:1])
        if labels.ndim == 1:
            shares = jax.nn.one_hot(labels, N)
        else:  # there may be more logits than classes
            shares = jnp.pad(labels, ((0, 0), (0, N - labels.shape[1])))
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        nll = -(shares * log_p).sum(-1)
        smooth = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(-1)
        correct = logits.argmax(-1) == shares.argmax(-1)
        sums = {"nll": (nll * weights).sum(), "correct": (correct * weights).sum()}
        return (smooth * weights).sum(), sums | {"weight": weights.sum()}

    return objective


def regress(model: Any) -> Objective:
    """Squared error of numbers, float [B, N], given `class_logits` [B, N]; the mean over N.

    Args:
        model: a handle (models/handle.py).

    Returns:
        An objective whose sums are `weight` and `squared_error`.
    """

    def objective(params, batch, rng):
        found = model.apply(params, batch, rngs=rngs(rng))["class_logits"]
        labels = batch["labels"].reshape(found.shape[0], -1)
        if labels.shape != found.shape:
            raise ValueError(f"labels {labels.shape} for numbers {found.shape}; they must be alike")
        weights = weights_of(batch, batch["labels"].shape[:1])
        error = (jnp.square(found - labels).mean(-1) * weights).sum()
        return error, {"squared_error": error, "weight": weights.sum()}

    return objective
