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

from bigmodel.models import two_towers, vit
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
        of_no_row: more paths, of outputs that are the same whatever the batch.
    """

    make: Callable[..., Any]
    fields: dict[str, Any]
    batch: Callable[[int, int], dict[str, np.ndarray]]
    outputs: tuple[str, ...]
    segments: tuple[str, tuple[str, ...]] | None = None
    per_token: tuple[str, ...] = ()
    of_no_row: tuple[str, ...] = ()


def images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    pixels = draw.normal(size=(rows, 8, 8, 3)).astype(np.float32)
    return {"images": pixels, "rows": np.arange(rows, dtype=np.int32)}


VIT = dict(image=8, patch=4, classes=5)

FAMILIES: dict[str, Case] = {
    f"vit_{pooling}": Case(
        vit.make, VIT | dict(pooling=pooling), images, ("class_logits", "embeddings/pooled")
    )
    for pooling in vit.POOLINGS
}


def pairs(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 11, (rows, 6)).astype(np.int32)
    lengths = draw.integers(2, 6, rows)
    segments = (np.arange(6) < lengths[:, None]).astype(np.int32)
    return images(rows, seed) | {"tokens": tokens, "segments": segments}


TOWERS: dict[str, Any] = dict(image=8, patch=4, vocab=11, text_length=6, joint=16)
TOWERS |= dict(text_width=8, text_layers=2, text_heads=2, init_std=0.02)
SIGLIP: dict[str, Any] = dict(patch_bias=True, first_norm=False, pooling="attention")
SIGLIP |= dict(text_causal=False, text_pooling="last", projections="text", logit_bias=-10.0)
EMBEDDINGS = ("embeddings/image", "embeddings/text")
FAMILIES |= {
    "clip": Case(
        two_towers.make,
        TOWERS,
        pairs,
        EMBEDDINGS,
        segments=("segments", ("tokens",)),
        of_no_row=("logit_scale",),
    ),
    "siglip": Case(
        two_towers.make,
        TOWERS | SIGLIP,
        pairs,
        EMBEDDINGS,
        of_no_row=("logit_scale", "logit_bias"),
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
    return [at(path, outputs) for path in FAMILIES[name].outputs]


def at(path: str, outputs: dict[str, Any]) -> jax.Array:
    found: Any = outputs
    for key in path.split("/"):
        found = found[key]
    return found


def program(model: Any, name: str):
    """(params, batch, dropout key or None) -> (gradients, outputs).

    The gradient is that of a sum of the outputs in which nothing cancels.
    """

    def total(params, batch, key):
        outputs = model.apply(params, batch, None if key is None else {"dropout": key})
        found = chosen(name, outputs)
        weights = [np.random.default_rng(n).normal(size=x.shape) for n, x in enumerate(found)]
        besides = sum(at(path, outputs) for path in FAMILIES[name].of_no_row)
        return besides + sum((x * w).sum() for x, w in zip(found, weights, strict=True)), found

    return jit(jax.grad(total, has_aux=True))
