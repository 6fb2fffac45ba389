"""Gemma 2 and 3, decoders of text; and the mixtures of experts Mixtral and Qwen3-MoE."""

from typing import Any

from bigmodel.convert import llama, rotary
from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign

GEMMA = dict(
    norm_placement="both", norm_offset=1.0, feedforward="geglu", embed_scale=True, qkv_bias=None
)
ACTIVATIONS = ("gelu_pytorch_tanh",)


def gemma(theirs: Foreign, **more: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 have alike."""
    theirs.skip("hidden_act", "cache_implementation")
    theirs.must("hidden_activation", ACTIVATIONS, ACTIVATIONS[0])
    theirs.must("attention_bias", [False], False)
    theirs.must("use_bidirectional_attention", [False], False)
    head_dim = theirs.take("head_dim", 256)
    scalar = theirs.take("query_pre_attn_scalar", 256)
    found = llama.common(theirs) | GEMMA | more
    return found | {
        "tied": theirs.take("tie_word_embeddings", True),
        "head_dim": head_dim,
        "attention_scale": 0.0 if scalar == head_dim else scalar**-0.5,
        "window": theirs.take("sliding_window", 4096),
    }


def gemma_config(fields: Fields) -> dict[str, Any]:
    """And back."""
    scale, head_dim = fields["attention_scale"], llama.head_dim(fields)
    scalar = scale**-2 if scale else head_dim
    near = round(scalar)
    return llama.common_config(fields) | {
        "hidden_activation": ACTIVATIONS[0],
        "attention_bias": False,
        "query_pre_attn_scalar": near if scale in (0.0, near**-0.5) else scalar,
        "sliding_window": fields["window"],
        "layer_types": llama.layer_types(fields),
    }


def gemma2(theirs: Foreign) -> dict[str, Any]:
    window = theirs.take("sliding_window", 4096)
    theirs.must("sliding_window_size", [window], window)  # the larger ones say it twice
    layers = theirs.take("num_hidden_layers")
    default = [llama.KINDS["global" if n % 2 else "local"] for n in range(layers)]
    return gemma(
        theirs,
        attention_softcap=theirs.take("attn_logit_softcapping", 0.0),
        logit_softcap=theirs.take("final_logit_softcapping", 0.0),
        pattern=llama.pattern_of(theirs, default),
        **rotary.fields(theirs),
    )


def gemma2_config(fields: Fields) -> dict[str, Any]:
    caps = dict(
        attn_logit_softcapping=fields["attention_softcap"] or None,
        final_logit_softcapping=fields["logit_softcap"] or None,
    )
    return gemma_config(fields) | caps | rotary.config(fields)


def gemma3(theirs: Foreign) -> dict[str, Any]:
    """Two kinds of layer with rotary wavelengths of their own."""
    theirs.must("attn_logit_softcapping", [0.0], 0.0)
    theirs.must("final_logit_softcapping", [0.0], 0.0)
    layers = theirs.take("num_hidden_layers")
    turn = theirs.take("sliding_window_pattern", theirs.take("_sliding_window_pattern", 6))
    default = [llama.KINDS["local" if (n + 1) % turn else "global"] for n in range(layers)]
    given = theirs.take("rope_parameters", {})
    if any(isinstance(value, dict) for value in given.values()):
        of_global = rotary.of_section(given[llama.KINDS["global"]], theirs.where)
        local = rotary.of_section(given[llama.KINDS["local"]], theirs.where)["rope_theta"]
    else:
        of_global = rotary.fields(theirs, 1_000_000.0)
        local = float(theirs.take("rope_local_base_freq", 10_000.0))
    pattern = llama.pattern_of(theirs, default)
    return gemma(theirs, qk_norm="rms", pattern=pattern, rope_local_theta=local, **of_global)


def gemma3_config(fields: Fields) -> dict[str, Any]:
    local = {"rope_local_base_freq": fields["rope_local_theta"]}
    return gemma_config(fields) | local | rotary.config(fields)


def mixtral(theirs: Foreign) -> dict[str, Any]:
    theirs.skip("router_aux_loss_coef", "output_router_logits", "router_jitter_noise")
    return llama.mistral(theirs, 1_000_000.0) | dict(
        experts=theirs.take("num_local_experts", 8),
        experts_per_token=theirs.take("num_experts_per_tok", 2),
    )


def mixtral_config(fields: Fields) -> dict[str, Any]:
    experts = fields["experts"], fields["experts_per_token"]
    return llama.mistral_config(fields) | dict(
        zip(("num_local_experts", "num_experts_per_tok"), experts, strict=True)
    )


def qwen3_moe(theirs: Foreign) -> dict[str, Any]:
    theirs.skip("router_aux_loss_coef", "output_router_logits")
    theirs.must("decoder_sparse_step", [1], 1)
    theirs.must("mlp_only_layers", [[]], [])
    experts = theirs.take("num_local_experts", theirs.take("num_experts", 128))
    theirs.skip("num_experts")
    return llama.qwen3(theirs) | dict(
        experts=experts,
        experts_per_token=theirs.take("num_experts_per_tok", 8),
        expert_hidden=theirs.take("moe_intermediate_size", 768),
        router_normalize=theirs.take("norm_topk_prob", False),
    )


def qwen3_moe_config(fields: Fields) -> dict[str, Any]:
    return llama.qwen3_config(fields) | {
        "num_experts": fields["experts"],
        "num_experts_per_tok": fields["experts_per_token"],
        "moe_intermediate_size": fields["expert_hidden"] or fields["hidden"] or 4 * fields["width"],
        "norm_topk_prob": fields["router_normalize"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


ROWS = llama.rows
ARCHITECTURES = {
    "Gemma2ForCausalLM": Architecture("gemma2", "decoder", gemma2, gemma2_config, ROWS),
    "Gemma3ForCausalLM": Architecture("gemma3_text", "decoder", gemma3, gemma3_config, ROWS),
    "MixtralForCausalLM": Architecture("mixtral", "decoder", mixtral, mixtral_config, ROWS),
    "Qwen3MoeForCausalLM": Architecture("qwen3_moe", "decoder", qwen3_moe, qwen3_moe_config, ROWS),
}
