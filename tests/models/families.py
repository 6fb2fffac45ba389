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

from bigmodel.models import (
    dit,
    encoder,
    encoder_decoder,
    masked_autoencoder,
    recommender,
    speech,
    speech_encoder,
    two_towers,
    vit,
)
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


def noisy_images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed + 1)
    labels = draw.integers(0, 5, rows).astype(np.int32)
    time = draw.uniform(size=rows).astype(np.float32)
    return images(rows, seed) | {"labels": labels, "noise_time": time}


def texts(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Two texts packed in a row, of two types of token each, and padding."""
    draw = np.random.default_rng(seed)
    T = 8
    first, second = draw.integers(2, 4, rows), draw.integers(2, 4, rows)
    place = np.arange(T)[None]
    ends = np.stack([first, first + second])[..., None]
    segments = np.where(place < ends[0], 1, np.where(place < ends[1], 2, 0))
    positions = np.where(segments == 2, place - ends[0], place) * (segments > 0)
    return {
        "tokens": draw.integers(0, 19, (rows, T)).astype(np.int32),
        "token_types": draw.integers(0, 2, (rows, T)).astype(np.int32),
        "segments": segments.astype(np.int32),
        "positions": positions.astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def pairs(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Sources of 3 to 7 tokens in 8 places, and as many tokens in all rows."""
    draw = np.random.default_rng(seed)
    real = np.arange(8) < draw.integers(3, 8, (rows, 1))
    return {
        "source": draw.integers(0, 17, (rows, 8)).astype(np.int32),
        "source_segments": real.astype(np.int32),
        "tokens": draw.integers(0, 17, (rows, 6)).astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def histories(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Items 1 to 19, padded on the left."""
    draw = np.random.default_rng(seed)
    real = np.arange(7) >= draw.integers(1, 5, (rows, 1))
    tokens = np.where(real, draw.integers(1, 20, real.shape), 0).astype(np.int32)
    rows_ = np.arange(rows, dtype=np.int32)
    return {"tokens": tokens, "segments": real.astype(np.int32), "rows": rows_}


RECOMMENDERS: dict[str, dict[str, Any]] = {
    "sasrec": dict(causal=True, hidden=16, qkv_bias=False, embed_scale=True),
    "bert4rec": dict(
        **dict(causal=False, norm_placement="post", feedforward="gelu", init_std=0.02),
        **dict(embed_norm=True, projection=True),
    ),
}
VIT = dict(image=8, patch=4, classes=5)

PAIRS: dict[str, dict[str, Any]] = {
    "transformer": dict(vocab=17, encoder_layers=3),
    "t5": dict(
        **dict(vocab=17, head_dim=6, hidden=24, norm="rms", norm_placement="pre", bias=False),
        **dict(position="none", relative_buckets=8, relative_distance=6, attention_scale=1.0),
        **dict(feedforward="geglu", embed_scale=False, head_scale=True),
    ),
}

FAMILIES: dict[str, Case] = {
    f"vit_{pooling}": Case(
        vit.make, VIT | dict(pooling=pooling), images, ("class_logits", "embeddings/pooled")
    )
    for pooling in vit.POOLINGS
}
FAMILIES |= {
    "dit": Case(dit.make, VIT | dict(channels=3, patch=2), noisy_images, ("velocity",)),
    "masked_autoencoder": Case(
        masked_autoencoder.make,
        dict(image=8, patch=2, decoder_width=8, decoder_layers=2, decoder_heads=2, mask_ratio=0.5),
        images,
        ("reconstructed", "masked"),
    ),
}
FAMILIES |= {
    name: Case(
        recommender.make,
        dict(vocab=24, length=8) | fields,
        histories,
        ("hidden", "logits"),
        segments=("segments", ("tokens",)),
        per_token=("hidden", "logits"),
    )
    for name, fields in RECOMMENDERS.items()
}

ENCODER = dict(vocab=19, length=8, dropout=0.0)
OF_TOKENS = ("hidden", "logits", "token_logits")
OF_ROWS = ("embeddings/pooled", "class_logits", "sentence_logits")
PADDED = ("segments", ("tokens", "token_types"))
FAMILIES |= {
    "bert": Case(
        encoder.make,
        ENCODER | dict(classes=3, token_classes=4, next_sentence=True),
        texts,
        (*OF_TOKENS, *OF_ROWS),
        PADDED,
        OF_TOKENS,
    ),
    "roberta": Case(
        encoder.make,
        ENCODER | dict(pooler=False, position_offset=2, token_types=1, norm_epsilon=1e-5),
        texts,
        OF_TOKENS[:2],
        PADDED,
        OF_TOKENS[:2],
    ),
    "encoder_pre_norm": Case(
        encoder.make,
        ENCODER | dict(norm_placement="pre", token_types=0, masked_head=False, classes=3),
        texts,
        ("hidden", "class_logits"),
        PADDED,
        ("hidden",),
    ),
}

FAMILIES |= {
    name: Case(
        encoder_decoder.make,
        fields,
        pairs,
        ("logits", "hidden", "memory"),
        ("source_segments", ("source",)),
        ("memory",),
    )
    for name, fields in PAIRS.items()
}


def captioned(rows: int, seed: int) -> dict[str, np.ndarray]:
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
        captioned,
        EMBEDDINGS,
        segments=("segments", ("tokens",)),
        of_no_row=("logit_scale",),
    ),
    "siglip": Case(
        two_towers.make,
        TOWERS | SIGLIP,
        captioned,
        EMBEDDINGS,
        of_no_row=("logit_scale", "logit_bias"),
    ),
}


def sounds(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Sounds of 3 to 11 frames in 12 places."""
    draw = np.random.default_rng(seed)
    real = np.arange(12) < draw.integers(3, 12, (rows, 1))
    return {
        "audio": draw.normal(size=(rows, 12, 5)).astype(np.float32),
        "audio_segments": real.astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def spoken(rows: int, seed: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed + 1).integers(0, 17, (rows, 6)).astype(np.int32)
    return sounds(rows, seed) | {"tokens": tokens}


SOUND = dict(vocab=17, mels=5, frames=12)
FAMILIES |= {
    "speech": Case(
        speech.make,
        SOUND | dict(encoder_layers=3, length=12),
        spoken,
        ("logits", "hidden", "memory"),
        ("audio_segments", ("audio",)),
    ),
    "speech_encoder": Case(
        speech_encoder.make,
        SOUND,
        sounds,
        ("frame_logits", "hidden"),
        ("audio_segments", ("audio",)),
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
