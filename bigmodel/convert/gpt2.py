"""GPT-2: learned positions, biases everywhere, kernels stored as [inputs, outputs]."""

from typing import Any

from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign, named
from bigmodel.convert.rows import BIAS, LINEAR, Row, plain

LAYER = "transformer.h.{layer}."
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
ACTIVATIONS |= {"relu": "relu", "silu": "silu"}


def rows(fields: Fields) -> list[Row]:
    """The table of names."""
    found = [
        Row("embed/table", "transformer.wte.weight"),
        Row("positions/table", "transformer.wpe.weight"),
    ]
    for n, ours in enumerate(("query", "key", "value")):
        own, other = f"layers/attention/{ours}", f"{LAYER}attn.c_attn"
        found.append(Row(f"{own}/kernel", f"{other}.weight", plain(1), (n, 3), 1))
        found.append(Row(f"{own}/bias", f"{other}.bias", BIAS, (n, 3)))
    products = {"attention/out": "attn.c_proj", "feedforward/up": "mlp.c_fc"}
    products |= {"feedforward/down": "mlp.c_proj"}
    for ours, theirs in products.items():
        form = plain(2 if ours == "attention/out" else 1)
        found.append(Row(f"layers/{ours}/kernel", f"{LAYER}{theirs}.weight", form))
        found.append(Row(f"layers/{ours}/bias", f"{LAYER}{theirs}.bias"))
    norms = {"layers/attention_norm": f"{LAYER}ln_1", "layers/feedforward_norm": f"{LAYER}ln_2"}
    for ours, theirs in (norms | {"final_norm": "transformer.ln_f"}).items():
        found.append(Row(f"{ours}/scale", f"{theirs}.weight"))
        found.append(Row(f"{ours}/bias", f"{theirs}.bias"))
    if not fields["tied"]:
        found.append(Row("head/kernel", "lm_head.weight", LINEAR))
    return found


def fields(theirs: Foreign) -> dict[str, Any]:
    """Our fields, of their config; dropout is a matter of training, and none is taken over."""
    theirs.skip("resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn", "n_ctx")
    theirs.skip("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout")
    theirs.skip("summary_proj_to_labels", "predict_special_tokens")
    theirs.must("scale_attn_weights", [True], True)
    theirs.must("scale_attn_by_inverse_layer_idx", [False], False)
    return {
        "vocab": theirs.take("vocab_size"),
        "width": theirs.take("n_embd"),
        "layers": theirs.take("n_layer"),
        "heads": theirs.take("n_head"),
        "hidden": theirs.take("n_inner", 0),
        "length": theirs.take("n_positions"),
        "norm": "layer",
        "norm_epsilon": theirs.take("layer_norm_epsilon", 1e-5),
        "position": "learned",
        "feedforward": ACTIVATIONS[theirs.must("activation_function", ACTIVATIONS, "gelu_new")],
        "bias": True,
        "tied": theirs.take("tie_word_embeddings", True),
    }


def config(fields: Fields) -> dict[str, Any]:
    """And back."""
    return {
        "vocab_size": fields["vocab"],
        "n_embd": fields["width"],
        "n_layer": fields["layers"],
        "n_head": fields["heads"],
        "n_inner": fields["hidden"] or None,
        "n_positions": fields["length"],
        "layer_norm_epsilon": fields["norm_epsilon"],
        "activation_function": named(ACTIVATIONS, fields["feedforward"]),
        "tie_word_embeddings": fields["tied"],
    }


ARCHITECTURES = {
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        "decoder",
        fields,
        config,
        rows,
        prefix="transformer.",
        unread=r"\.attn\.(masked_)?bias$",
    ),
}
