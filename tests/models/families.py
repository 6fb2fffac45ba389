"""Small models of every family besides the decoder, and batches of theirs: a row each.

A new family is tested by its row here (its model), and by its config's `tiny` size (its training:
tests/train/test_families.py).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax.core import meta

from bigmodel.models import dit, masked_autoencoder, vit
from tests.quick import jit

SMALL = dict(width=16, heads=4, layers=2, dtype="float32")


@dataclasses.dataclass(frozen=True)
class Case:
    """A family's row.

    Attributes:
        make: (**fields) -> its handle.
        fields: of the small model.
        batch: (rows, seed) -> arrays, with "rows".
        outputs: paths in its outputs that laws look at, such as "hidden", "embeddings/pooled".
        segments: the array of the batch whose zeros are padding, and the arrays that are padded
            where it is 0; None: nothing is.
        per_token: of `outputs`, those with an axis of tokens [B, T, ...] as `segments` has.
    """

    make: Callable[..., Any]
    fields: dict[str, Any]
    batch: Callable[[int, int], dict[str, np.ndarray]]
    outputs: tuple[str, ...]
    segments: tuple[str, tuple[str, ...]] | None = None
    per_token: tuple[str, ...] = ()


def images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    pixels = draw.normal(size=(rows, 8, 8, 3)).astype(np.float32)
    return {"images": pixels, "rows": np.arange(rows, dtype=np.int32)}


def noisy_images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed + 1)
    labels = draw.integers(0, 5, rows).astype(np.int32)
    time = draw.uniform(size=rows).astype(np.float32)
    return images(rows, seed) | {"labels": labels, "noise_time": time}


VIT = dict(image=8, patch=4, classes=5)

FAMILIES: dict[str, Case] = {
    f"vit_{pooling}": Case(
        vit.make, VIT | dict(pooling=pooling), images, ("class_logits", "embeddings/pooled")
    )
    for pooling in vit.POOLINGS
} | {
    "dit": Case(dit.make, VIT | dict(channels=3, patch=2), noisy_images, ("velocity",)),
    "masked_autoencoder": Case(
        masked_autoencoder.make,
        dict(image=8, patch=2, decoder_width=8, decoder_layers=2, decoder_heads=2, mask_ratio=0.5),
        images,
        ("reconstructed", "masked"),
    ),
}


@functools.cache
def make(name: str, **more: Any):
    case = FAMILIES[name]
    return case.make(**{**SMALL, **case.fields, **more})


@functools.cache
def params(name: str):
    """Parameters in which nothing is zero or one, so that every one of them is felt."""
    draw = np.random.default_rng(0)
    model = make(name)
    shapes = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))

    def one(path, leaf):
        start = 1.0 if path[-1].key == "scale" else 0.0
        return (start + 0.15 * draw.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def chosen(name: str, outputs: dict[str, Any]) -> list[jax.Array]:
    """The outputs that laws look at."""

    def at(path: str) -> jax.Array:
        found: Any = outputs
        for key in path.split("/"):
            found = found[key]
        return found

    return [at(path) for path in FAMILIES[name].outputs]


def program(model: Any, name: str):
    """(params, batch, dropout key or None) -> (gradients, outputs).

    The gradient is that of a sum of the outputs in which nothing cancels.
    """

    def total(params, batch, key):
        outputs = model.apply(params, batch, None if key is None else {"dropout": key})
        found = chosen(name, outputs)
        weights = [np.random.default_rng(n).normal(size=x.shape) for n, x in enumerate(found)]
        return sum((x * w).sum() for x, w in zip(found, weights, strict=True)), found

    return jit(jax.grad(total, has_aux=True))
