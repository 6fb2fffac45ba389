"""Whisper."""

from typing import Any

import numpy as np

from bigmodel.convert.architecture import NO_NAME, Architecture, Fields
from bigmodel.convert.fields import Foreign, named
from bigmodel.convert.rows import CONVOLUTION, LINEAR, OUT, Row, dense, norm

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "silu": "silu"}
PRODUCTS = (
    ("query", "q_proj", LINEAR),
    ("key", "k_proj", LINEAR),
    ("value", "v_proj", LINEAR),
    ("out", "out_proj", OUT),
)
# What says how to train it, how its own procedure writes, and heads that are not there.
SKIPPED = (
    *("activation_dropout", "attention_dropout", "dropout", "encoder_layerdrop"),
    *("decoder_layerdrop", "apply_spec_augment", "mask_time_prob", "mask_time_length"),
    *("mask_time_min_masks", "mask_feature_prob", "mask_feature_length", "mask_feature_min_masks"),
    *("median_filter_width", "classifier_proj_size", "use_weighted_layer_sum", "num_hidden_layers"),
)


def rows(fields: Fields) -> list[Row]:
    """The table of names."""
    found = [
        Row("embed/table", "model.decoder.embed_tokens.weight"),
        Row("positions/table", "model.decoder.embed_positions.weight"),
        *dense("stem/first", "model.encoder.conv1", CONVOLUTION),
        *dense("stem/second", "model.encoder.conv2", CONVOLUTION),
        *norm("encoder_norm", "model.encoder.layer_norm"),
        *norm("final_norm", "model.decoder.layer_norm"),
    ]
    for own, side in (("encoder_layers", "encoder"), ("layers", "decoder")):
        layer = f"model.{side}.layers.{{layer}}."
        found += attention(f"{own}/attention", f"{layer}self_attn")
        found += norm(f"{own}/attention_norm", f"{layer}self_attn_layer_norm")
        if side == "decoder":
            found += attention(f"{own}/cross", f"{layer}encoder_attn")
            found += norm(f"{own}/cross_norm", f"{layer}encoder_attn_layer_norm")
        found += dense(f"{own}/feedforward/up", f"{layer}fc1")
        found += dense(f"{own}/feedforward/down", f"{layer}fc2")
        found += norm(f"{own}/feedforward_norm", f"{layer}final_layer_norm")
    return found


def attention(ours: str, theirs: str) -> list[Row]:
    """Four products, of which that of the keys has no bias."""
    return [
        row
        for name, other, form in PRODUCTS
        for row in dense(f"{ours}/{name}", f"{theirs}.{other}", form, bias=name != "key")
    ]


def fields(theirs: Foreign) -> dict[str, Any]:
    """Our fields, of their config."""
    theirs.skip(*SKIPPED)
    theirs.must("scale_embedding", [False], False)
    theirs.must("tie_word_embeddings", [True], True)
    heads, hidden = theirs.take("encoder_attention_heads"), theirs.take("encoder_ffn_dim")
    theirs.must("decoder_attention_heads", [heads])
    theirs.must("decoder_ffn_dim", [hidden])
    return {
        "vocab": theirs.take("vocab_size"),
        "mels": theirs.take("num_mel_bins", 80),
        "frames": 2 * theirs.take("max_source_positions", 1500),
        "width": theirs.take("d_model"),
        "encoder_layers": theirs.take("encoder_layers"),
        "layers": theirs.take("decoder_layers"),
        "heads": heads,
        "hidden": hidden,
        "length": theirs.take("max_target_positions", 448),
        "feedforward": ACTIVATIONS[theirs.must("activation_function", ACTIVATIONS, "gelu")],
    }


def config(fields: Fields) -> dict[str, Any]:
    """And back."""
    hidden = fields["hidden"] or 4 * fields["width"]
    sides = {f"{side}_attention_heads": fields["heads"] for side in ("encoder", "decoder")}
    sides |= {f"{side}_ffn_dim": hidden for side in ("encoder", "decoder")}
    return sides | {
        "vocab_size": fields["vocab"],
        "num_mel_bins": fields["mels"],
        "max_source_positions": fields["frames"] // 2,
        "d_model": fields["width"],
        "encoder_layers": fields["encoder_layers"] or fields["layers"],
        "decoder_layers": fields["layers"],
        "max_target_positions": fields["length"],
        "activation_function": named(ACTIVATIONS, fields["feedforward"]),
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }


def positions(fields: Fields) -> dict[str, np.ndarray]:
    """The encoder's, which stand among their weights: Radford et al. 2022, section 2.2."""
    half = fields["width"] // 2
    turns = 10_000.0 ** -(np.arange(half) / (half - 1))
    places = np.arange(fields["frames"] // 2)[:, None] * turns
    table = np.concatenate([np.sin(places), np.cos(places)], 1).astype(np.float32)
    return {"model.encoder.embed_positions.weight": table}


def of_sounds(fields: Fields) -> dict[str, Any]:
    """The fields of the data that must fit."""
    own = dict(frames=fields["frames"], mels=fields["mels"], pad="silence")
    return own | {"length": fields["length"]}


ARCHITECTURES = {
    "WhisperForConditionalGeneration": Architecture(
        *("whisper", "speech", fields, config, rows),
        data="speech",
        data_fields=of_sounds,
        unread=NO_NAME,
        fixed=positions,
    ),
}
