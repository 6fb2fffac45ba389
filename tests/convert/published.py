"""What config.json of published models says, every field that stands there: facts, no weights.

Those under MEMORY are from memory; what of the others was found in public repositories stands in
the comment of its row.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# fmt: off
TYPES = {"Llama": "llama", "Mistral": "mistral", "Mixtral": "mixtral", "Gemma2": "gemma2"}
TYPES |= {"Gemma3": "gemma3_text", "Qwen2": "qwen2", "Qwen3": "qwen3", "Qwen3Moe": "qwen3_moe"}


Fields = dict[str, Any]


class Published(NamedTuple):
    """A row of the table.

    Attributes:
        config: its config.json.
        size: of a file in configs/ that is this model, "" if none is.
        but: fields in which it is another than that size.
        passed: names of weights that its file holds and nobody needs.
        numbers: in its file, without buffers, where no test of configs/ knows how many.
    """

    config: Fields
    size: str = ""
    but: Mapping[str, Any] = MappingProxyType({})
    passed: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    numbers: int = 0


def gpt2(width: int, layers: int, heads: int, **more: Any) -> Fields:
    return dict(
        architectures=["GPT2LMHeadModel"], model_type="gpt2", activation_function="gelu_new",
        attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1, bos_token_id=50256, eos_token_id=50256,
        initializer_range=0.02, layer_norm_epsilon=1e-05, n_ctx=1024, n_embd=width, n_head=heads,
        n_layer=layers, n_positions=1024, summary_activation=None, summary_first_dropout=0.1,
        summary_proj_to_labels=True, summary_type="cls_index", summary_use_proj=True,
        task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}},
        vocab_size=50257, **more,
    )


def decoder(
    kind: str, width: int, layers: int, heads: int, kv: int, hidden: int, **more: Any
) -> Fields:
    """Of Llama and those like it."""
    return dict(
        architectures=[f"{kind}ForCausalLM"], model_type=TYPES[kind], bos_token_id=1,
        eos_token_id=2, hidden_size=width, initializer_range=0.02, intermediate_size=hidden,
        num_attention_heads=heads, num_hidden_layers=layers, num_key_value_heads=kv,
        torch_dtype="bfloat16", transformers_version="4.51.0", use_cache=True,
    ) | (dict(hidden_act="silu") | more)


LLAMA2: Fields = dict(max_position_embeddings=4096, pretraining_tp=1, rms_norm_eps=1e-05)
LLAMA2 |= dict(vocab_size=32000)
LLAMA2 |= dict(rope_scaling=None, tie_word_embeddings=False, torch_dtype="float16")
LLAMA2 |= dict(_name_or_path="meta-llama/Llama-2-7b-hf")
LLAMA3: Fields = dict(max_position_embeddings=131072, pretraining_tp=1, rms_norm_eps=1e-05)
LLAMA3 |= dict(attention_bias=False, attention_dropout=0.0, mlp_bias=False, rope_theta=500000.0)
LLAMA3 |= dict(bos_token_id=128000, eos_token_id=128001, vocab_size=128256)
STRETCHED: Fields = dict(high_freq_factor=4.0, low_freq_factor=1.0, rope_type="llama3")
STRETCHED |= dict(original_max_position_embeddings=8192)
MISTRAL: Fields = dict(max_position_embeddings=32768, rms_norm_eps=1e-05, tie_word_embeddings=False)
QWEN: Fields = dict(attention_dropout=0.0, bos_token_id=151643, eos_token_id=151645)
QWEN |= dict(rms_norm_eps=1e-06, rope_theta=1000000.0, vocab_size=151936, use_sliding_window=False)
QWEN3 = QWEN | dict(attention_bias=False, head_dim=128, max_position_embeddings=40960)
QWEN3 |= dict(rope_scaling=None, sliding_window=None)
SPARSE: Fields = dict(decoder_sparse_step=1, mlp_only_layers=[], moe_intermediate_size=768)
SPARSE |= dict(norm_topk_prob=True, num_experts=128, num_experts_per_tok=8)
SPARSE |= dict(output_router_logits=False, router_aux_loss_coef=0.001)
GEMMA: Fields = dict(attention_bias=False, attention_dropout=0.0, bos_token_id=2)
GEMMA |= dict(eos_token_id=1, pad_token_id=0, cache_implementation="hybrid", rms_norm_eps=1e-06)
GEMMA |= dict(hidden_activation="gelu_pytorch_tanh")
GEMMA2 = GEMMA | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
GEMMA2 |= dict(hidden_act="gelu_pytorch_tanh", max_position_embeddings=8192, rope_theta=10000.0)
GEMMA2 |= dict(sliding_window=4096, vocab_size=256000)
GEMMA3 = GEMMA | dict(attn_logit_softcapping=None, final_logit_softcapping=None, hidden_act=None)
GEMMA3 |= dict(head_dim=256, max_position_embeddings=32768, query_pre_attn_scalar=256)
GEMMA3 |= dict(rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000)
GEMMA3 |= dict(sliding_window=512, sliding_window_pattern=6, vocab_size=262144)


def encoder(kind: str, width: int, layers: int, heads: int, **more: Any) -> Fields:
    """Of BERT and RoBERTa."""
    return dict(
        architectures=[f"{kind}ForMaskedLM"], model_type=kind.lower(),
        attention_probs_dropout_prob=0.1, hidden_act="gelu", hidden_dropout_prob=0.1,
        hidden_size=width, initializer_range=0.02, intermediate_size=4 * width,
        num_attention_heads=heads, num_hidden_layers=layers, **more,
    )


BERT: Fields = dict(layer_norm_eps=1e-12, max_position_embeddings=512, pad_token_id=0)
BERT |= dict(type_vocab_size=2)
BERT |= dict(gradient_checkpointing=False, position_embedding_type="absolute", use_cache=True)
POOLER: Fields = dict(pooler_fc_size=768, pooler_num_attention_heads=12, pooler_num_fc_layers=3)
POOLER |= dict(pooler_size_per_head=128, pooler_type="first_token_transform")
ROBERTA: Fields = dict(bos_token_id=0, eos_token_id=2, pad_token_id=1, layer_norm_eps=1e-05)
ROBERTA |= dict(max_position_embeddings=514, type_vocab_size=1, vocab_size=50265)


def pooler(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}pooler.dense.weight": (width, width), f"{prefix}pooler.dense.bias": (width,)}


def of_bert(width: int) -> dict[str, tuple[int, ...]]:
    """What BertForPreTraining has and BertForMaskedLM has not."""
    head = "cls.seq_relationship."
    return pooler("bert.", width) | {f"{head}weight": (2, width), f"{head}bias": (2,)}


def t5(layers: int, heads: int, hidden: int, **more: Any) -> Fields:
    return dict(
        architectures=["T5ForConditionalGeneration"], model_type="t5", d_ff=hidden, d_kv=64,
        d_model=512, decoder_start_token_id=0, dropout_rate=0.1, eos_token_id=1,
        initializer_factor=1.0, is_encoder_decoder=True, layer_norm_epsilon=1e-06, num_heads=heads,
        num_layers=layers, output_past=True, pad_token_id=0, relative_attention_num_buckets=32,
        vocab_size=32128, **more,
    )


TASKS = {
    "summarization": dict(early_stopping=True, length_penalty=2.0, max_length=200, min_length=30)
    | dict(no_repeat_ngram_size=3, num_beams=4, prefix="summarize: "),
    "translation_en_to_de": dict(early_stopping=True, max_length=300, num_beams=4)
    | dict(prefix="translate English to German: "),
}
GATED: Fields = dict(feed_forward_proj="gated-gelu", num_decoder_layers=8)
GATED |= dict(tie_word_embeddings=False, use_cache=True)
CROSS_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

VIT: Fields = dict(model_type="vit", attention_probs_dropout_prob=0.0, hidden_act="gelu")
VIT |= dict(hidden_dropout_prob=0.0, hidden_size=768, image_size=224, initializer_range=0.02)
VIT |= dict(intermediate_size=3072, layer_norm_eps=1e-12, num_attention_heads=12, num_channels=3)
VIT |= dict(num_hidden_layers=12, patch_size=16)
LABELS = {str(n): f"label {n}" for n in range(1000)}  # theirs are names of ImageNet's classes
OF_VIT = dict(pooling="class", norm_epsilon=1e-12)


def whisper(width: int, layers: int, heads: int, **more: Any) -> Fields:
    sides = {f"{side}_attention_heads": heads for side in ("encoder", "decoder")}
    sides |= {f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")}
    sides |= {f"{side}_layers": layers for side in ("encoder", "decoder")}
    return sides | dict(
        architectures=["WhisperForConditionalGeneration"], model_type="whisper",
        activation_dropout=0.0, activation_function="gelu", attention_dropout=0.0,
        begin_suppress_tokens=[220, 50257], bos_token_id=50257, d_model=width,
        decoder_layerdrop=0.0, decoder_start_token_id=50258, dropout=0.0, encoder_layerdrop=0.0,
        eos_token_id=50257, init_std=0.02, is_encoder_decoder=True, max_length=448,
        max_source_positions=1500, max_target_positions=448, num_hidden_layers=layers,
        scale_embedding=False, use_cache=True, **more,
    )


SPECAUGMENT: Fields = dict(apply_spec_augment=False, mask_feature_length=10)
SPECAUGMENT |= dict(mask_feature_min_masks=0)
SPECAUGMENT |= dict(mask_feature_prob=0, mask_time_length=10, mask_time_min_masks=2)
SPECAUGMENT |= dict(mask_time_prob=0.05, classifier_proj_size=256, median_filter_width=7)

# What `transformers` 4.16 wrote of every config, in each section of CLIP's.
GENERATION: Fields = dict.fromkeys((
    "architectures", "bad_words_ids", "cross_attention_hidden_size", "decoder_start_token_id",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "prefix", "problem_type",
    "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype",
))
GENERATION |= dict.fromkeys((
    "add_cross_attention", "do_sample", "early_stopping", "is_decoder", "is_encoder_decoder",
    "output_attentions", "output_hidden_states", "output_scores", "remove_invalid_values",
    "return_dict_in_generate", "tie_encoder_decoder", "torchscript", "use_bfloat16",
), False)
GENERATION |= dict(_name_or_path="", chunk_size_feed_forward=0, diversity_penalty=0.0)
GENERATION |= dict(encoder_no_repeat_ngram_size=0, length_penalty=1.0, max_length=20, min_length=0)
GENERATION |= dict(no_repeat_ngram_size=0, num_beam_groups=1, num_beams=1, num_return_sequences=1)
GENERATION |= dict(pruned_heads={}, repetition_penalty=1.0, return_dict=True, temperature=1.0)
GENERATION |= dict(tie_word_embeddings=True, top_k=50, top_p=1.0)
GENERATION |= dict(id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
GENERATION |= dict(transformers_version="4.16.0.dev0", attention_dropout=0.0, dropout=0.0)
GENERATION |= dict(hidden_act="quick_gelu", initializer_factor=1.0, initializer_range=0.02)
GENERATION |= dict(layer_norm_eps=1e-05, num_hidden_layers=12)
READER = GENERATION | dict(bos_token_id=0, eos_token_id=2, pad_token_id=1, vocab_size=49408)
READER |= dict(model_type="clip_text_model", max_position_embeddings=77)
VIEWER = GENERATION | dict(bos_token_id=None, eos_token_id=None, pad_token_id=None, image_size=224)
VIEWER |= dict(model_type="clip_vision_model")


def clip(joint: int, text: Fields, image: Fields, **more: Any) -> Fields:
    return dict(
        architectures=["CLIPModel"], model_type="clip", initializer_factor=1.0,
        logit_scale_init_value=2.6592, projection_dim=joint,
        text_config=READER | text | dict(projection_dim=joint),
        vision_config=VIEWER | image | dict(projection_dim=joint), transformers_version=None,
        **more,
    )


def tower(width: int, heads: int, **more: Any) -> Fields:
    sizes = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads)
    return sizes | more


LARGE_TEXT, LARGE_IMAGE = tower(768, 12), tower(1024, 16, num_hidden_layers=24, patch_size=14)

# name on the Hub -> row
FOUND: dict[str, Published] = {
    "openai-community/gpt2": Published(gpt2(768, 12, 12), "gpt.py:124m"),
    "meta-llama/Llama-3.2-1B": Published(
        decoder("Llama", 2048, 16, 32, 8, 8192, **LLAMA3, head_dim=64, tie_word_embeddings=True,
                rope_scaling=STRETCHED | dict(factor=32.0)), "llama.py:1b"),
    "mistralai/Mistral-7B-v0.1": Published(
        decoder("Mistral", 4096, 32, 32, 8, 14336, **MISTRAL, vocab_size=32000,
                rope_theta=10000.0, sliding_window=4096), "mistral.py:7b"),
    "Qwen/Qwen2-0.5B": Published(
        decoder("Qwen2", 896, 24, 14, 2, 4864, **QWEN, max_position_embeddings=131072,
                max_window_layers=24, sliding_window=131072, tie_word_embeddings=True),
        "qwen.py:2.5-0.5b", dict(length=131072)),
    "Qwen/Qwen3-8B": Published(
        decoder("Qwen3", 4096, 36, 32, 8, 12288, **QWEN3, max_window_layers=36,
                tie_word_embeddings=False), "qwen.py:3-8b", dict(length=40960)),
    "google/gemma-3-1b-pt": Published(  # found: that of -it
        decoder("Gemma3", 1152, 26, 4, 1, 6912, **GEMMA3), "gemma.py:3-1b"),
    "FacebookAI/roberta-base": Published(
        encoder("Roberta", 768, 12, 12, **ROBERTA), "bert.py:roberta-base", {},
        pooler("roberta.", 768)),
    "google-t5/t5-small": Published(
        t5(6, 8, 2048, n_positions=512, task_specific_params=TASKS), "t5.py:small", {},
        {CROSS_BIAS: (32, 8)}),
    "openai/clip-vit-base-patch32": Published(
        clip(512, tower(512, 8), tower(768, 12, patch_size=32), text_config_dict=None,
             vision_config_dict=None), "clip.py:vit-b-32"),
}
MEMORY: dict[str, Published] = {
    "openai-community/gpt2-medium": Published(
        gpt2(1024, 24, 16, n_special=0, predict_special_tokens=True), "gpt.py:355m"),
    "meta-llama/Llama-2-7b-hf": Published(
        decoder("Llama", 4096, 32, 32, 32, 11008, **LLAMA2), "llama.py:2-7b"),
    "meta-llama/Llama-3.1-8B": Published(
        decoder("Llama", 4096, 32, 32, 8, 14336, **LLAMA3, tie_word_embeddings=False,
                rope_scaling=STRETCHED | dict(factor=8.0)), "llama.py:8b"),
    "mistralai/Mistral-7B-v0.3": Published(
        decoder("Mistral", 4096, 32, 32, 8, 14336, **MISTRAL, vocab_size=32768,
                attention_dropout=0.0, rope_theta=1000000.0, sliding_window=None),
        numbers=7_248_023_552),
    "mistralai/Mixtral-8x7B-v0.1": Published(
        decoder("Mixtral", 4096, 32, 32, 8, 14336, **MISTRAL, vocab_size=32000,
                attention_dropout=0.0, rope_theta=1000000.0, sliding_window=None,
                num_experts_per_tok=2, num_local_experts=8, output_router_logits=False,
                router_aux_loss_coef=0.02), "mixtral.py:8x7b"),
    "Qwen/Qwen2.5-0.5B": Published(
        decoder("Qwen2", 896, 24, 14, 2, 4864, **QWEN, max_position_embeddings=32768,
                max_window_layers=24, sliding_window=32768, tie_word_embeddings=True,
                use_mrope=False), "qwen.py:2.5-0.5b"),
    "Qwen/Qwen2.5-0.5B-Instruct": Published(
        decoder("Qwen2", 896, 24, 14, 2, 4864, **QWEN, max_position_embeddings=32768,
                max_window_layers=21, sliding_window=32768, tie_word_embeddings=True),
        "chat.py:qwen2.5-0.5b-instruct"),
    "Qwen/Qwen3-0.6B": Published(
        decoder("Qwen3", 1024, 28, 16, 8, 3072, **QWEN3, max_window_layers=28,
                tie_word_embeddings=True), "qwen.py:3-0.6b", dict(length=40960)),
    "Qwen/Qwen3-30B-A3B": Published(
        decoder("Qwen3Moe", 2048, 48, 32, 4, 6144, **QWEN3, **SPARSE, max_window_layers=48,
                tie_word_embeddings=False),
        "qwen.py:3-30b-a3b", dict(length=40960, hidden=6144)),  # which no layer has
    "google/gemma-2-2b": Published(
        decoder("Gemma2", 2304, 26, 8, 4, 9216, **GEMMA2, head_dim=256,
                query_pre_attn_scalar=256), "gemma.py:2-2b"),
    "google/gemma-2-27b": Published(
        decoder("Gemma2", 4608, 46, 32, 16, 36864, **GEMMA2, head_dim=128,
                query_pre_attn_scalar=144, sliding_window_size=4096,
                _attn_implementation="eager"), "gemma.py:2-27b"),
    "google-bert/bert-base-uncased": Published(
        encoder("Bert", 768, 12, 12, **BERT, vocab_size=30522, transformers_version="4.6.0.dev0"),
        "bert.py:base", dict(next_sentence=False, pooler=False), of_bert(768), 110_106_428),
    "google-bert/bert-large-cased": Published(
        encoder("Bert", 1024, 24, 16, **BERT, **POOLER, vocab_size=28996, directionality="bidi"),
        "bert.py:large", dict(next_sentence=False, pooler=False, vocab=28996), of_bert(1024)),
    "google/t5-v1_1-small": Published(t5(8, 6, 1024, **GATED), "t5.py:1.1-small"),
    "google/flan-t5-small": Published(
        t5(8, 6, 1024, **GATED, n_positions=512, relative_attention_max_distance=128,
           task_specific_params=TASKS), "t5.py:1.1-small"),
    "google/vit-base-patch16-224": Published(
        VIT | dict(architectures=["ViTForImageClassification"], id2label=LABELS,
                   label2id={name: int(n) for n, name in LABELS.items()}, qkv_bias=True),
        "vit.py:base", OF_VIT, {}, 86_567_656),
    "google/vit-base-patch16-224-in21k": Published(
        VIT | dict(architectures=["ViTModel"]), "vit.py:base", OF_VIT | dict(classes=0),
        pooler("", 768), 86_389_248),
    "openai/whisper-tiny": Published(
        whisper(384, 4, 6, num_mel_bins=80, vocab_size=51865, pad_token_id=50257,
                forced_decoder_ids=[[1, 50259], [2, 50359], [3, 50363]],
                suppress_tokens=[1, 2, 7, 8, 9, 10, 14, 25]), "whisper.py:whisper-tiny"),
    "openai/whisper-large-v3": Published(
        whisper(1280, 32, 20, num_mel_bins=128, vocab_size=51866, pad_token_id=50256,
                torch_dtype="float16", use_weighted_layer_sum=False, **SPECAUGMENT),
        "whisper.py:whisper-large-v3"),
    "openai/clip-vit-large-patch14": Published(
        clip(768, LARGE_TEXT, LARGE_IMAGE, text_config_dict=LARGE_TEXT | dict(projection_dim=768),
             vision_config_dict=LARGE_IMAGE | dict(projection_dim=768)), "clip.py:vit-l-14"),
    "google/siglip-base-patch16-224": Published(  # the sections say no more than this
        dict(architectures=["SiglipModel"], model_type="siglip", initializer_factor=1.0,
             text_config=dict(model_type="siglip_text_model"),
             vision_config=dict(model_type="siglip_vision_model")), "siglip.py:base-patch16-224"),
}
# fmt: on
MODELS = FOUND | MEMORY
