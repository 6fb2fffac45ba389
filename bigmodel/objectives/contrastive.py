"""Losses of pairs: each image and its own text, against all others of the whole mesh's batch.

Arrays are global under `jit`, so a product of all images with all texts is exact whatever the mesh.
Rows of weight 0 (padding) take part in nothing: they are no rows, and nobody's negatives.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.objectives.contract import NEVER, Objective, Sums, rngs, weights_of


def contrastive(model: Any) -> Objective:
    """Cross entropy of each image's text among all texts, and of each text's image; their mean.

    loss = sum_i w_i [ -log softmax_j(s x_i y_j)_i - log softmax_j(s x_j y_i)_i ] / 2.

    Radford et al. 2021, CLIP (arXiv:2103.00020), figure 3.

    Args:
        model: a handle (models/handle.py) whose outputs are `embeddings` "image" and "text" and
            `logit_scale`, as of models/two_towers.py.

    Returns:
        An objective whose sums are `weight` (pairs that count), `correct` and `image_recall`
        (see `retrieved`).
    """

    def objective(params, batch, rng):
        logits, weights = products(model, params, batch, rng)
        real = weights > 0
        own = jnp.diagonal(logits)
        to_text = jax.nn.logsumexp(jnp.where(real[None, :], logits, NEVER), axis=1) - own
        to_image = jax.nn.logsumexp(jnp.where(real[:, None], logits, NEVER), axis=0) - own
        loss = jnp.where(real, (to_text + to_image) / 2 * weights, 0.0).sum()
        return loss, retrieved(logits, weights)

    return objective


def sigmoid_contrastive(model: Any) -> Objective:
    """Whether an image and a text belong together, asked of every pair.

    loss = sum_i w_i sum_j -log sigmoid(z_ij (s x_i y_j + b)), z_ij = 1 where i = j, else -1.

    Zhai et al. 2023, SigLIP (arXiv:2303.15343), section 3.2, algorithm 1.

    Args:
        model: as of `contrastive`, whose outputs have `logit_bias` besides.

    Returns:
        As `contrastive` does.
    """

    def objective(params, batch, rng):
        logits, weights = products(model, params, batch, rng)
        signs = 2 * jnp.eye(logits.shape[0]) - 1
        counts = jnp.where(weights > 0, weights, 0.0)[:, None] * (weights > 0)[None, :]
        loss = jnp.where(counts > 0, -jax.nn.log_sigmoid(signs * logits) * counts, 0.0).sum()
        return loss, retrieved(logits, weights)

    return objective


# Parts of a batch have fewer negatives.
contrastive.whole_batch = True  # type: ignore[attr-defined]
sigmoid_contrastive.whole_batch = True  # type: ignore[attr-defined]


def products(
    model: Any, params: Any, batch: dict[str, jax.Array], rng: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """s x_i y_j + b of all images and texts, float32 [B, B], and weights [B]."""
    outputs = model.apply(params, batch, rngs=rngs(rng))
    if not {"image", "text"} <= set(outputs.get("embeddings", {})):
        raise config.InputError(
            "A contrastive objective wants a model of images and texts, such as model.name = "
            f"'two_towers'; this one gives {', '.join(sorted(outputs))}."
        )
    image, text = (outputs["embeddings"][name].astype(jnp.float32) for name in ("image", "text"))
    logits = jnp.einsum("IJ,KJ->IK", image, text, precision="highest") * outputs["logit_scale"]
    if "logit_bias" in outputs:
        logits += outputs["logit_bias"]
    logits = nn.with_logical_constraint(logits, ("batch", None))
    return logits, weights_of(batch, image.shape[:1])


def retrieved(logits: jax.Array, weights: jax.Array) -> Sums:
    """Recall at 1 in the batch, both ways: whether what belongs to it is as near as anything.

    Of equal ones (the same text twice) each counts.

    Returns:
        `correct`: of images, whose own text is; `image_recall`: of texts, whose own image is; and
        `weight`.
    """
    real, own = weights > 0, jnp.diagonal(logits)
    text = jnp.where(real[None, :], logits, NEVER).max(1)
    image = jnp.where(real[:, None], logits, NEVER).max(0)
    found = {"correct": own >= text, "image_recall": own >= image}
    return {name: (hit * weights).sum() for name, hit in found.items()} | {"weight": weights.sum()}
