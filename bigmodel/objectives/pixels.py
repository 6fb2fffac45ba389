"""Masked images: what a model did not see, pixel by pixel."""

from typing import Any

import jax.numpy as jnp

from bigmodel.objectives.contract import Objective, rngs, weights_of

EPSILON = 1e-6  # of a patch's variance, as published


def masked_image(model: Any, *, normalize: bool = True) -> Objective:
    """Squared error of the pixels of hidden patches, given `patches` and `reconstructed` [B, P, E].

    loss = sum over rows of w mean over hidden patches and pixels of (reconstructed - target)^2.
    He et al. 2022 (arXiv:2111.06377), section 3.

    Args:
        model: a handle (models/handle.py); its `masked` [B, P] is 1 where a patch was hidden.
        normalize: the target is a patch's pixels less their mean, by their standard deviation;
            else the pixels.

    Returns:
        An objective whose sum is `weight` (rows that count).
    """

    def objective(params, batch, rng):
        outputs = model.apply(params, batch, rngs=rngs(rng))
        target, masked = outputs["patches"], outputs["masked"]
        if normalize:
            target = target - target.mean(-1, keepdims=True)
            variance = jnp.square(target).mean(-1, keepdims=True)
            target = target / jnp.sqrt(variance + EPSILON)
        error = jnp.square(outputs["reconstructed"] - target).mean(-1)
        error = (error * masked).sum(-1) / masked.sum(-1)
        weights = weights_of(batch, error.shape)
        return (error * weights).sum(), {"weight": weights.sum()}

    return objective
