"""Connectionist temporal classification: labels in order, at moments that nobody was told."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bigmodel import config
from bigmodel.objectives.contract import Objective, rngs, weights_of


def ctc(model: Any) -> Objective:
    """-log of the summed probability of all alignments of a row's labels to its frames.

    Graves et al. 2006 (doi:10.1145/1143844.1143891), eq. 3 and 14: an alignment has a label or the
    blank at each frame; runs of one label are one, and the blank, the last row of the vocabulary,
    is then left out. A row's labels are its targets that have a weight, in order, wherever they
    stand; how large a weight is does not matter. The frames are those of the model's
    `frame_segments` that are not 0. A row without labels is to be silent: it has a loss, and adds
    no weight; a row without frames and labels counts nothing.

    Labels and a blank between any two that are equal need a frame each. A row that has too few
    (`impossible`) has no alignment and an infinite loss: optax gives 1e5 for each frame that is
    missing, and more, so that it is seen. Data should refuse such rows.

    Memory: [B, A, V] log probabilities and [B, N, V] labels in float32, N the length of `targets`.

    Args:
        model: a handle (models/handle.py) that gives `frame_logits` and `frame_segments`.

    Returns:
        An objective whose sums are `weight` (labels), `nll` (nats), `correct` (labels of the rows
        whose likeliest alignment is theirs) and `impossible` (rows).
    """

    def objective(params, batch, rng):
        outputs = model.apply(params, batch, rngs=rngs(rng))
        if "frame_logits" not in outputs:
            raise config.InputError(
                "objective ctc: the model gives no logits of frames; allowed is one that does, "
                "such as model 'speech_encoder'."
            )
        logits, frames = outputs["frame_logits"].astype(jnp.float32), outputs["frame_segments"] > 0
        counts = weights_of(batch, batch["targets"].shape) > 0
        labels, counts = to_the_left(batch["targets"], counts)
        V = logits.shape[-1]
        # Its one-hot labels choose by a product, which TPUs and GPUs would round to half the bits.
        with jax.named_scope("loss"), jax.default_matmul_precision("highest"):
            paddings = (1.0 - mask.astype(jnp.float32) for mask in (frames, counts))
            of_frames, of_labels = paddings
            nll = optax.ctc_loss(logits, of_frames, labels, of_labels, blank_id=V - 1)
        numbers = counts.sum(1)
        said, spoken = collapsed(logits.argmax(-1), frames, blank=V - 1)
        sums = {
            "weight": numbers.sum().astype(jnp.float32),
            "nll": nll.sum(),
            "correct": (same(said, spoken, labels, counts) * numbers).sum().astype(jnp.float32),
            "impossible": (least(labels, counts) > frames.sum(1)).sum().astype(jnp.float32),
        }
        return nll.sum(), sums

    return objective


# The vocabulary has a row more than there are tokens.
ctc.blank = True  # type: ignore[attr-defined]


def to_the_left(values: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each row's real values first, in their order, then zeros; and which they are then.  [B, N]"""
    order = jnp.argsort(~real, axis=1, stable=True)
    real = jnp.take_along_axis(real, order, axis=1)
    return jnp.where(real, jnp.take_along_axis(values, order, axis=1), 0), real


def collapsed(path: jax.Array, real: jax.Array, *, blank: int) -> tuple[jax.Array, jax.Array]:
    """The labels of an alignment: no repetitions, no blanks.  int [B, A] -> [B, A], bool [B, A]"""
    before = jnp.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=blank)
    return to_the_left(path, real & (path != blank) & (path != before))


def same(one: jax.Array, of_one: jax.Array, other: jax.Array, of_other: jax.Array) -> jax.Array:
    """Whether rows that stand to the left are alike, whatever room they have.  -> bool [B]"""
    most = max(one.shape[1], other.shape[1])

    def whole(x: jax.Array, real: jax.Array) -> jax.Array:
        return jnp.pad(jnp.where(real, x, -1), ((0, 0), (0, most - x.shape[1])), constant_values=-1)

    return (whole(one, of_one) == whole(other, of_other)).all(1)


def least(labels: jax.Array, real: jax.Array) -> jax.Array:
    """Frames that labels need: one each, and one between two that are equal.  [B, N] -> int [B]"""
    again = (labels[:, 1:] == labels[:, :-1]) & real[:, 1:]
    return real.sum(1) + again.sum(1)
