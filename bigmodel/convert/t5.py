"""T5 1.0 and 1.1."""

from typing import Any

from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign, named
from bigmodel.convert.rows import LINEAR, OUT, Row

GATED = {"gated-gelu": "geglu", "gated-silu": "swiglu"}
PLAIN = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu"}
ACTIVATIONS = GATED | PLAIN
ATTENTION = {
    "query": ("q", LINEAR),
    "key": ("k", LINEAR),
    "value": ("v", LINEAR),
    "out": ("o", OUT),
}


def rows(fields: Fields) -> list[Row]:
    """The table of names."""
    found = [Row("embed/table", "shared.weight")]
    gated = fields["feedforward"] in GATED.values()
    products = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    for side, own, last in (("encoder", "encoder_", 1), ("decoder", "", 2)):
        layer = f"{side}.block.{{layer}}.layer."
        parts = [("attention", "SelfAttention", 0)]
        parts += [("cross", "EncDecAttention", 1)] if side == "decoder" else []
        for ours, theirs, n in parts:
            for name, (letter, form) in ATTENTION.items():
                path = f"{own}layers/{ours}/{name}/kernel"
                found.append(Row(path, f"{layer}{n}.{theirs}.{letter}.weight", form))
            found.append(Row(f"{own}layers/{ours}_norm/scale", f"{layer}{n}.layer_norm.weight"))
        for ours, theirs in (products | {"down": "wo"}).items():
            path = f"{own}layers/feedforward/{ours}/kernel"
            found.append(Row(path, f"{layer}{last}.DenseReluDense.{theirs}.weight", LINEAR))
        found.append(Row(f"{own}layers/feedforward_norm/scale", f"{layer}{last}.layer_norm.weight"))
        # The first layer's bias is that of all.
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found.append(Row(f"{own}relative/table", bias))
        ours = "final_norm" if side == "decoder" else "encoder_norm"
        found.append(Row(f"{ours}/scale", f"{side}.final_layer_norm.weight"))
    if not fields["tied"]:
        found.append(Row("head/kernel", "lm_head.weight", LINEAR))
    return found


def fields(theirs: Foreign) -> dict[str, Any]:
    """Our fields, of their config; whether the head is tied is told by the weights alone."""
    theirs.skip("dropout_rate", "classifier_dropout", "n_positions", "output_past")
    theirs.skip("dense_act_fn", "is_gated_act")  # what feed_forward_proj says
    layers = theirs.take("num_layers")
    scaled = theirs.take("scale_decoder_outputs", theirs.take("tie_word_embeddings", True))
    theirs.skip("tie_word_embeddings")
    return {
        "vocab": theirs.take("vocab_size"),
        "width": theirs.take("d_model"),
        "layers": theirs.take("num_decoder_layers", layers),
        "encoder_layers": layers,
        "heads": theirs.take("num_heads"),
        "head_dim": theirs.take("d_kv"),
        "hidden": theirs.take("d_ff"),
        "norm": "rms",
        "norm_epsilon": theirs.take("layer_norm_epsilon", 1e-6),
        "norm_placement": "pre",
        "position": "none",
        "relative_buckets": theirs.take("relative_attention_num_buckets", 32),
        "relative_distance": theirs.take("relative_attention_max_distance", 128),
        "feedforward": ACTIVATIONS[theirs.must("feed_forward_proj", ACTIVATIONS, "relu")],
        "bias": False,
        "attention_scale": 1.0,
        "embed_scale": False,
        "embed_std": 1.0,
        "head_scale": scaled,
        "tied": "lm_head.weight" not in theirs.tensors,
    }


def config(fields: Fields) -> dict[str, Any]:
    """And back."""
    return {
        "vocab_size": fields["vocab"],
        "d_model": fields["width"],
        "num_decoder_layers": fields["layers"],
        "num_layers": fields["encoder_layers"] or fields["layers"],
        "num_heads": fields["heads"],
        "d_kv": fields["head_dim"] or fields["width"] // fields["heads"],
        "d_ff": fields["hidden"] or 4 * fields["width"],
        "layer_norm_epsilon": fields["norm_epsilon"],
        "relative_attention_num_buckets": fields["relative_buckets"],
        "relative_attention_max_distance": fields["relative_distance"],
        "feed_forward_proj": named(ACTIVATIONS, fields["feedforward"]),
        "tie_word_embeddings": fields["head_scale"],
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
    }


ARCHITECTURES = {
    "T5ForConditionalGeneration": Architecture(
        *("t5", "encoder_decoder", fields, config, rows),
        data="pairs",
        data_fields=lambda _: {},
        unread=r"^(en|de)coder\.embed_tokens\.weight$",
        dropped=r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",
    ),
}
