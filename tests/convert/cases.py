"""Small foreign models of odd shapes: a row each, by architecture and what their config says.

`record.py` writes what `transformers` computes of each; weights are drawn by their names, so that
the recorded files need not hold them.
"""

import json
import pathlib
import zlib
from typing import Any

import numpy as np

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "hugging_face"
DECODER: dict[str, Any] = dict(vocab_size=37, max_position_embeddings=24)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def decoder(width: int, layers: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    """Fields of a decoder's config; F is no multiple of anything."""
    sizes = dict(hidden_size=width, num_hidden_layers=layers, intermediate_size=2 * width + 3)
    return DECODER | sizes | dict(num_attention_heads=heads, num_key_value_heads=kv_heads) | more


def encoder(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = dict(hidden_size=width, num_hidden_layers=layers, intermediate_size=width + 5)
    return (
        dict(vocab_size=37, max_position_embeddings=20)
        | sizes
        | dict(num_attention_heads=heads)
        | more
    )


def t5(width: int, layers: int, below: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = dict(d_model=width, num_layers=below, num_decoder_layers=layers, num_heads=heads)
    return dict(vocab_size=37, d_kv=5, d_ff=2 * width + 1, decoder_start_token_id=0) | sizes | more


def tower(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = dict(hidden_size=width, num_hidden_layers=layers, intermediate_size=width + 7)
    return sizes | dict(num_attention_heads=heads) | more


def image(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return tower(width, layers, heads, image_size=12, patch_size=4) | more


TEXT = dict(vocab_size=37, max_position_embeddings=9, eos_token_id=36, pad_token_id=36)


def towers(vision: dict[str, Any], text: dict[str, Any], **more: Any) -> dict[str, Any]:
    return dict(vision_config=vision, text_config=TEXT | dict(bos_token_id=35) | text) | more


# name -> (architecture, its config)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        dict(n_embd=18, n_layer=2, n_head=3, n_positions=20, vocab_size=37),
    ),
    "gpt2_wide": (
        "GPT2LMHeadModel",
        dict(n_embd=20, n_layer=1, n_head=5, n_inner=33, n_positions=19, vocab_size=41)
        | dict(layer_norm_epsilon=1e-3, activation_function="gelu"),
    ),
    "gpt2_untied": (
        "GPT2LMHeadModel",
        dict(n_embd=14, n_layer=3, n_head=7, n_positions=21, vocab_size=37)
        | dict(tie_word_embeddings=False, activation_function="relu"),
    ),
    "llama": ("LlamaForCausalLM", decoder(24, 2, 6, 2)),
    "llama3": (
        "LlamaForCausalLM",
        decoder(20, 3, 5, 1, tie_word_embeddings=True, rope_scaling=LLAMA3, rms_norm_eps=1e-3),
    ),
    "llama_yarn": (
        "LlamaForCausalLM",
        decoder(24, 2, 3, 1)
        | dict(
            rope_theta=90.0,
            rope_scaling=dict(
                rope_type="yarn", factor=4.0, original_max_position_embeddings=6, beta_fast=3.0
            ),
        ),
    ),
    "llama_biases": (
        "LlamaForCausalLM",
        decoder(18, 1, 3, 3, head_dim=10, attention_bias=True, mlp_bias=True)
        | dict(rope_scaling=dict(rope_type="linear", factor=3.0), rope_theta=500.0),
    ),
    "mistral": ("MistralForCausalLM", decoder(24, 2, 6, 3, sliding_window=4)),
    "mistral_whole": ("MistralForCausalLM", decoder(20, 1, 5, 5, sliding_window=None)),
    "mistral_head_dim": (
        "MistralForCausalLM",
        decoder(14, 3, 4, 2, head_dim=6, sliding_window=7, tie_word_embeddings=True),
    ),
    "qwen2": ("Qwen2ForCausalLM", decoder(24, 2, 6, 2, tie_word_embeddings=True)),
    "qwen2_windows": (
        "Qwen2ForCausalLM",
        decoder(20, 5, 5, 1, use_sliding_window=True, sliding_window=4, max_window_layers=2),
    ),
    "qwen2_epsilon": (
        "Qwen2ForCausalLM",
        decoder(18, 1, 3, 3, rms_norm_eps=1e-2, rope_theta=100.0),
    ),
    "qwen3": ("Qwen3ForCausalLM", decoder(24, 2, 6, 2, head_dim=8)),
    "qwen3_yarn": (
        "Qwen3ForCausalLM",
        decoder(18, 1, 3, 3, head_dim=8)
        | dict(
            rope_scaling=dict(
                rope_type="yarn",
                factor=2.5,
                original_max_position_embeddings=10,
                attention_factor=0.7,
            )
        ),
    ),
    "qwen3_tied": ("Qwen3ForCausalLM", decoder(20, 3, 5, 1, head_dim=6, tie_word_embeddings=True)),
    "qwen3_windows": (
        "Qwen3ForCausalLM",
        decoder(18, 3, 3, 3, head_dim=4, use_sliding_window=True, sliding_window=3)
        | dict(max_window_layers=1, rms_norm_eps=1e-3),
    ),
    "gemma2": ("Gemma2ForCausalLM", decoder(24, 3, 6, 2, head_dim=8, sliding_window=4)),
    "gemma2_scale": (
        "Gemma2ForCausalLM",
        decoder(20, 2, 5, 1, head_dim=6, sliding_window=5, query_pre_attn_scalar=6)
        | dict(final_logit_softcapping=None, attn_logit_softcapping=2.0),
    ),
    "gemma2_caps": (
        "Gemma2ForCausalLM",
        decoder(18, 4, 3, 3, head_dim=4, sliding_window=3, final_logit_softcapping=1.5)
        | dict(attn_logit_softcapping=None, rms_norm_eps=1e-3, rope_theta=77.0),
    ),
    "gemma3": ("Gemma3ForCausalLM", decoder(24, 7, 6, 2, head_dim=8, sliding_window=4)),
    "gemma3_stretched": (
        "Gemma3ForCausalLM",
        decoder(20, 3, 5, 1, head_dim=6, sliding_window=5, query_pre_attn_scalar=10)
        | dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"])
        | dict(
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=900.0),
                sliding_attention=dict(rope_type="default", rope_theta=50.0),
            )
        ),
    ),
    "gemma3_untied": (
        "Gemma3ForCausalLM",
        decoder(18, 2, 3, 3, head_dim=4, sliding_window=3, tie_word_embeddings=False)
        | dict(rms_norm_eps=1e-3),
    ),
    "mixtral": ("MixtralForCausalLM", decoder(24, 2, 6, 2, num_local_experts=4)),
    "mixtral_three": (
        "MixtralForCausalLM",
        decoder(20, 1, 5, 1, num_local_experts=3, num_experts_per_tok=1, rms_norm_eps=1e-3),
    ),
    "mixtral_window": (
        "MixtralForCausalLM",
        decoder(18, 2, 3, 3, num_local_experts=5, num_experts_per_tok=3, sliding_window=4)
        | dict(head_dim=4, tie_word_embeddings=True),
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        decoder(24, 2, 6, 2, head_dim=8, num_experts=4, num_experts_per_tok=2)
        | dict(moe_intermediate_size=11),
    ),
    "qwen3_moe_normal": (
        "Qwen3MoeForCausalLM",
        decoder(20, 1, 5, 1, head_dim=6, num_experts=5, num_experts_per_tok=3)
        | dict(moe_intermediate_size=7, norm_topk_prob=True),
    ),
    "qwen3_moe_tied": (
        "Qwen3MoeForCausalLM",
        decoder(18, 3, 3, 3, head_dim=4, num_experts=3, num_experts_per_tok=1)
        | dict(moe_intermediate_size=9, tie_word_embeddings=True, rms_norm_eps=1e-3),
    ),
    "bert": ("BertForPreTraining", encoder(24, 2, 6)),
    "bert_masked": (
        "BertForMaskedLM",
        encoder(20, 3, 5, type_vocab_size=3, layer_norm_eps=1e-3, hidden_act="relu"),
    ),
    "bert_classes": ("BertForSequenceClassification", encoder(18, 1, 3, num_labels=5)),
    "bert_labels": ("BertForTokenClassification", encoder(14, 2, 7, num_labels=3)),
    "bert_bare": ("BertModel", encoder(10, 1, 2, hidden_act="gelu_new")),
    "roberta": ("RobertaForMaskedLM", encoder(24, 2, 6, type_vocab_size=1)),
    "roberta_types": ("RobertaForMaskedLM", encoder(20, 1, 5, type_vocab_size=2)),
    "roberta_epsilon": (
        "RobertaForMaskedLM",
        encoder(18, 3, 3, type_vocab_size=1, layer_norm_eps=1e-3, pad_token_id=0),
    ),
    "t5": ("T5ForConditionalGeneration", t5(24, 2, 3, 4)),
    "t5_gated": (
        "T5ForConditionalGeneration",
        t5(18, 3, 1, 5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "t5_buckets": (
        "T5ForConditionalGeneration",
        t5(20, 1, 2, 3, relative_attention_num_buckets=8, relative_attention_max_distance=6)
        | dict(layer_norm_epsilon=1e-3, d_kv=7),
    ),
    "vit": ("ViTForImageClassification", image(24, 2, 6, num_labels=5)),
    "vit_grey": (
        "ViTForImageClassification",
        image(20, 3, 5, num_channels=1, patch_size=3, num_labels=3, layer_norm_eps=1e-3),
    ),
    "vit_bare": ("ViTModel", image(18, 1, 3, patch_size=6, hidden_act="gelu_pytorch_tanh")),
    "clip": ("CLIPModel", towers(image(24, 2, 4), tower(20, 3, 5), projection_dim=11)),
    "clip_gelu": (
        "CLIPModel",
        towers(
            image(18, 1, 3, hidden_act="gelu", layer_norm_eps=1e-3, patch_size=3),
            tower(14, 2, 7, hidden_act="gelu", layer_norm_eps=1e-3),
            projection_dim=16,
        ),
    ),
    "clip_patches": (
        "CLIPModel",
        towers(image(20, 3, 5, patch_size=6), tower(24, 1, 4), projection_dim=9),
    ),
    "siglip": ("SiglipModel", towers(image(24, 2, 4), tower(20, 3, 5, projection_size=24))),
    "siglip_epsilon": (
        "SiglipModel",
        towers(
            image(18, 1, 3, layer_norm_eps=1e-3, patch_size=3),
            tower(14, 2, 7, layer_norm_eps=1e-3, projection_size=18),
        ),
    ),
    "siglip_gelu": (
        "SiglipModel",
        towers(
            image(20, 3, 5, hidden_act="gelu", patch_size=6),
            tower(24, 1, 4, hidden_act="gelu", projection_size=20),
        ),
    ),
}


WHISPER: dict[str, Any] = dict(
    num_mel_bins=6, vocab_size=37, max_source_positions=7, max_target_positions=20
)
WHISPER |= dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
WHISPER |= dict(suppress_tokens=None, begin_suppress_tokens=None)


def whisper(width: int, layers: int, below: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = dict(d_model=width, decoder_layers=layers, encoder_layers=below)
    sizes |= dict(decoder_attention_heads=heads, encoder_attention_heads=heads)
    return WHISPER | sizes | dict(encoder_ffn_dim=width + 3, decoder_ffn_dim=width + 3) | more


CASES |= {
    "whisper": ("WhisperForConditionalGeneration", whisper(24, 2, 3, 6)),
    "whisper_relu": (
        "WhisperForConditionalGeneration",
        whisper(20, 3, 1, 5, activation_function="relu", num_mel_bins=5),
    ),
    "whisper_long": (
        "WhisperForConditionalGeneration",
        whisper(18, 1, 2, 3, max_source_positions=10, max_target_positions=23, vocab_size=41),
    ),
}


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor's values, by its name; those that multiply as they are lie about one."""
    if name == "model.encoder.embed_positions.weight":  # Radford et al. 2022, section 2.2
        turns = 10_000.0 ** -(np.arange(shape[1] // 2) / (shape[1] // 2 - 1))
        places = np.arange(shape[0])[:, None] * turns
        return np.concatenate([np.sin(places), np.cos(places)], 1).astype(np.float32)
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    scales = len(shape) == 1 and name.endswith("weight")
    return np.asarray(scales + 0.3 * draw.normal(size=shape), np.float32)


def inputs(kind: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a model reads, by its `model_type`, with the names of ours."""
    draw = np.random.default_rng(zlib.crc32(kind.encode()))

    def ids(length: int, vocab: int) -> np.ndarray:
        return draw.integers(3, vocab, (2, length)).astype(np.int32)

    if kind == "whisper":
        frames = 2 * config["max_source_positions"]
        audio = draw.normal(size=(2, frames, config["num_mel_bins"])).astype(np.float32)
        return {"audio": audio, "tokens": ids(7, config["vocab_size"])}
    if kind == "t5":
        vocab = config["vocab_size"]
        return {"source": ids(9, vocab), "tokens": ids(7, vocab)}
    if kind in ("vit", "clip", "siglip"):
        vision = config.get("vision_config", config)
        size, channels = vision["image_size"], vision.get("num_channels", 3)
        found = {"images": draw.normal(size=(2, size, size, channels)).astype(np.float32)}
        if kind != "vit":
            text = config["text_config"]
            found["tokens"] = ids(text["max_position_embeddings"], text["vocab_size"] - 1)
            found["tokens"][:, -1] = text["vocab_size"] - 1  # the end of the text
        return found
    found = {"tokens": ids(11, config["vocab_size"])}
    if kind == "bert":
        found["token_types"] = np.sort(draw.integers(0, 2, (2, 11))).astype(np.int32)
    return found


def recorded(name: str) -> dict[str, Any]:
    """What `transformers` gave: config, tensors' shapes, outputs, greedy ids and those of beams."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return json.loads(str(arrays.pop("facts"))) | {"outputs": arrays}
