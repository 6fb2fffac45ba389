"""Llama and those built like it: Mistral, Qwen 2 and 3, Gemma 2 and 3, Mixtral, Qwen3-MoE."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel.convert import rotary
from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign
from bigmodel.convert.rows import BIAS, LINEAR, OUT, Row

LAYER = "model.layers.{layer}."
# (our norm, theirs) of a layer, with one norm a sublayer and with two (Gemma).
NORMS = {
    "pre": {
        "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm",
    },
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "feedforward_norm": "pre_feedforward_layernorm",
        "feedforward_post_norm": "post_feedforward_layernorm",
    },
}
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
PRODUCTS = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
EXPERTS = {"gate": "w1", "up": "w3", "down": "w2"}  # Mixtral's


def rows(fields: Fields) -> list[Row]:
    """The table of names of a decoder like Llama."""
    found = [
        Row("embed/table", "model.embed_tokens.weight"),
        Row("final_norm/scale", "model.norm.weight"),
    ]
    for ours, theirs in NORMS[fields["norm_placement"]].items():
        found.append(Row(f"layers/{ours}/scale", f"{LAYER}{theirs}.weight"))
    own, other = "layers/attention/", f"{LAYER}self_attn."
    for ours, theirs in ATTENTION.items():
        found.append(Row(f"{own}{ours}/kernel", f"{other}{theirs}.weight", LINEAR))
        if qkv_bias(fields):
            found.append(Row(f"{own}{ours}/bias", f"{other}{theirs}.bias", BIAS))
    found.append(Row(f"{own}out/kernel", f"{other}o_proj.weight", OUT))
    if fields["bias"]:
        found.append(Row(f"{own}out/bias", f"{other}o_proj.bias"))
    if fields["qk_norm"] == "rms":
        found.append(Row(f"{own}query_norm/scale", f"{other}q_norm.weight"))
        found.append(Row(f"{own}key_norm/scale", f"{other}k_norm.weight"))
    found += products(fields)
    if not fields["tied"]:
        found.append(Row("head/kernel", "lm_head.weight", LINEAR))
    return found


def products(fields: Fields) -> list[Row]:
    """Of the feed-forward layers, or of their experts."""
    if not fields["experts"]:
        own, other = "layers/feedforward/", f"{LAYER}mlp."
        found = [
            Row(f"{own}{ours}/kernel", f"{other}{theirs}.weight", LINEAR)
            for ours, theirs in PRODUCTS.items()
        ]
        return found + [
            Row(f"{own}{ours}/bias", f"{other}{theirs}.bias")
            for ours, theirs in PRODUCTS.items()
            if fields["bias"]
        ]
    own = "layers/experts/"
    mixtral = is_mixtral(fields)
    other = f"{LAYER}block_sparse_moe." if mixtral else f"{LAYER}mlp."
    return [
        Row(f"{own}router/kernel", f"{other}gate.weight", LINEAR),
        *(
            Row(f"{own}{ours}/kernel", f"{other}experts.{{expert}}.{theirs}.weight", LINEAR)
            for ours, theirs in (EXPERTS if mixtral else PRODUCTS).items()
        ),
    ]


def qkv_bias(fields: Fields) -> bool:
    return fields["bias"] if fields["qkv_bias"] is None else fields["qkv_bias"]


def is_mixtral(fields: Fields) -> bool:
    return bool(fields["experts"]) and fields["qk_norm"] == "none"


# Their configs


def common(theirs: Foreign, **more: Any) -> dict[str, Any]:
    """The fields that all of these have."""
    heads = theirs.take("num_attention_heads")
    theirs.skip("attention_dropout")
    return {
        "vocab": theirs.take("vocab_size"),
        "width": theirs.take("hidden_size"),
        "layers": theirs.take("num_hidden_layers"),
        "heads": heads,
        "kv_heads": theirs.take("num_key_value_heads", heads),
        "head_dim": theirs.take("head_dim", 0),
        "hidden": theirs.take("intermediate_size"),
        "length": theirs.take("max_position_embeddings"),
        "norm": "rms",
        "norm_epsilon": theirs.take("rms_norm_eps", 1e-6),
        "norm_placement": "pre",
        "position": "rope",
        "feedforward": "swiglu",
        "bias": False,
        "tied": theirs.take("tie_word_embeddings", False),
        **more,
    }


def common_config(fields: Fields) -> dict[str, Any]:
    """And back."""
    return {
        "vocab_size": fields["vocab"],
        "hidden_size": fields["width"],
        "num_hidden_layers": fields["layers"],
        "num_attention_heads": fields["heads"],
        "num_key_value_heads": fields["kv_heads"] or fields["heads"],
        "head_dim": head_dim(fields),
        "intermediate_size": fields["hidden"] or 4 * fields["width"],
        "max_position_embeddings": fields["length"],
        "rms_norm_eps": fields["norm_epsilon"],
        "tie_word_embeddings": fields["tied"],
    }


def head_dim(fields: Fields) -> int:
    return fields["head_dim"] or fields["width"] // fields["heads"]


def llama(theirs: Foreign) -> dict[str, Any]:
    theirs.must("hidden_act", ["silu"], "silu")
    bias = theirs.must("mlp_bias", [theirs.take("attention_bias", False)], False)
    return common(theirs, bias=bias, **rotary.fields(theirs))


def llama_config(fields: Fields) -> dict[str, Any]:
    bias = dict(attention_bias=fields["bias"], mlp_bias=fields["bias"])
    return common_config(fields) | dict(hidden_act="silu", **bias) | rotary.config(fields)


def mistral(theirs: Foreign, theta: float = 10_000.0) -> dict[str, Any]:
    """`theta` is what it has for rotary positions where its config does not say it."""
    theirs.must("hidden_act", ["silu"], "silu")
    window = theirs.take("sliding_window", 0)
    kinds = dict(pattern=("local",), window=window) if window else {}
    return common(theirs, **kinds, **rotary.fields(theirs, theta))


def mistral_config(fields: Fields) -> dict[str, Any]:
    window = fields["window"] or None
    return (
        common_config(fields)
        | dict(hidden_act="silu", sliding_window=window)
        | rotary.config(fields)
    )


def qwen2(theirs: Foreign) -> dict[str, Any]:
    theirs.must("hidden_act", ["silu"], "silu")
    kinds = windows(theirs)
    return common(theirs, qkv_bias=True, **kinds, **rotary.fields(theirs))


def qwen3(theirs: Foreign) -> dict[str, Any]:
    theirs.must("hidden_act", ["silu"], "silu")
    theirs.must("attention_bias", [False], False)
    kinds = windows(theirs)
    return common(theirs, qk_norm="rms", **kinds, **rotary.fields(theirs))


def windows(theirs: Foreign) -> dict[str, Any]:
    """Which layers see a window alone, as Qwen says it: all after the first few, or by a list."""
    window = theirs.take("sliding_window", 0)
    whole = theirs.take("max_window_layers", 0)
    layers = theirs.take("num_hidden_layers")
    used = theirs.take("use_sliding_window", False) and window
    default = [KINDS["local"] if used and n >= whole else KINDS["global"] for n in range(layers)]
    kinds = pattern_of(theirs, default)
    return dict(pattern=kinds, window=window) if "local" in kinds else {}


def windows_config(fields: Fields) -> dict[str, Any]:
    kinds = layer_types(fields)
    used = KINDS["local"] in kinds
    whole = kinds.index(KINDS["local"]) if used else fields["layers"]
    window = fields["window"] or None
    more = dict(use_sliding_window=used, max_window_layers=whole, layer_types=kinds)
    return dict(hidden_act="silu", sliding_window=window if used else None, **more)


KINDS = {"global": "full_attention", "local": "sliding_attention"}


def pattern_of(theirs: Foreign, default: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that, repeated, is their list of a kind for each layer."""
    known = {name: kind for kind, name in KINDS.items()}
    listed = theirs.take("layer_types", default)
    for name in listed:
        if name not in known:
            theirs.must("layer_types", [], listed)
    kinds = [known[name] for name in listed]
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[n % length] for n, kind in enumerate(kinds)):
            return tuple(kinds[:length])
    return ("global",)


def layer_types(fields: Mapping[str, Any]) -> list[str]:
    """A kind for each layer."""
    pattern = fields["pattern"] if fields["window"] else ("global",)
    return [KINDS[pattern[n % len(pattern)]] for n in range(fields["layers"])]


def qwen2_config(fields: Fields) -> dict[str, Any]:
    return common_config(fields) | windows_config(fields) | rotary.config(fields)


def qwen3_config(fields: Fields) -> dict[str, Any]:
    return qwen2_config(fields) | dict(attention_bias=False)


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", "decoder", llama, llama_config, rows),
    "MistralForCausalLM": Architecture("mistral", "decoder", mistral, mistral_config, rows),
    "Qwen2ForCausalLM": Architecture("qwen2", "decoder", qwen2, qwen2_config, rows),
    "Qwen3ForCausalLM": Architecture("qwen3", "decoder", qwen3, qwen3_config, rows),
}
