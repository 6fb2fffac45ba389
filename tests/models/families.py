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
    vision_language,
    vit,
)
from tests.models.batches import (
    captioned,
    histories,
    images,
    noisy_images,
    pairs,
    prefixed,
    shown,
    sounds,
    spoken,
    texts,
)

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
        packs: (segments, positions, arrays that go with them) of each side that documents are
            packed on; none: no side is.
        of_no_row: more paths, of outputs that are the same whatever the batch.
    """

    make: Callable[..., Any]
    fields: dict[str, Any]
    batch: Callable[[int, int], dict[str, np.ndarray]]
    outputs: tuple[str, ...]
    segments: tuple[str, tuple[str, ...]] | None = None
    per_token: tuple[str, ...] = ()
    packs: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    of_no_row: tuple[str, ...] = ()


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
        packs=(("segments", "positions", ("tokens",)),),
    )
    for name, fields in RECOMMENDERS.items()
}

ENCODER = dict(vocab=19, length=8, dropout=0.0)
OF_TOKENS = ("hidden", "logits", "token_logits")
OF_ROWS = ("embeddings/pooled", "class_logits", "sentence_logits")
PADDED = ("segments", ("tokens", "token_types"))
TYPED = (("segments", "positions", ("tokens", "token_types")),)
FAMILIES |= {
    "bert": Case(
        encoder.make,
        ENCODER | dict(classes=3, token_classes=4, next_sentence=True),
        texts,
        (*OF_TOKENS, *OF_ROWS),
        PADDED,
        OF_TOKENS,
        TYPED,
    ),
    "roberta": Case(
        encoder.make,
        ENCODER | dict(pooler=False, position_offset=2, token_types=1, norm_epsilon=1e-5),
        texts,
        OF_TOKENS[:2],
        PADDED,
        OF_TOKENS[:2],
        TYPED,
    ),
    "encoder_pre_norm": Case(
        encoder.make,
        ENCODER | dict(norm_placement="pre", token_types=0, masked_head=False, classes=3),
        texts,
        ("hidden", "class_logits"),
        PADDED,
        ("hidden",),
        TYPED,
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
        (
            ("source_segments", "source_positions", ("source",)),
            ("segments", "positions", ("tokens",)),
        ),
    )
    for name, fields in PAIRS.items()
}


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


VISION_LANGUAGE: dict[str, Any] = dict(image=8, patch=4, vocab=19, length=9, position="rope")
VISION_LANGUAGE |= dict(norm="rms", bias=False, kv_heads=2, hidden=24, image_width=8)
VISION_LANGUAGE |= dict(image_layers=3, image_heads=2, image_hidden=0)
LLAVA: dict[str, Any] = dict(connector="mlp", class_token=True, first_norm=True, last_norm=False)
LLAVA |= dict(feedforward="swiglu", tied=False, patch_bias=False)
PALIGEMMA: dict[str, Any] = dict(feedforward="geglu", norm_offset=1.0, embed_scale=True)
FAMILIES |= {
    name: Case(
        vision_language.make,
        VISION_LANGUAGE | fields,
        batch,
        ("hidden", "logits"),
        segments=("segments", ("tokens",)),
        per_token=("hidden", "logits"),
    )
    for name, fields, batch in (
        ("llava", LLAVA, shown),
        ("paligemma", PALIGEMMA, prefixed),
    )
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


@functools.cache
def applied(name: str):
    """The model's `apply`, compiled once for all laws that look at it."""
    return jax.jit(make(name).apply)


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

    return jax.jit(jax.grad(total, has_aux=True))
