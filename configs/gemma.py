r"""Gemma 2 and the text decoders of Gemma 3 on C4 text, next-token loss.

    python -m bigmodel train --config configs/gemma.py:2-2b --workdir gs://bucket/gemma2-2b
    python -m bigmodel train --config configs/gemma.py:tiny --workdir /tmp/gemma     # seconds, CPU

Sizes `2-*`: Gemma Team 2024 (arXiv:2408.00118), table 1: layers by turns local and global, scores
and logits capped. Sizes `3-*`: Gemma Team 2025 (arXiv:2503.19786), section 2: five local layers to
a global one, QK-norm and no caps; `3-4b` and larger stretch the global layers' rotary wavelengths 8
times. The rest is from the config.json files of google/gemma-2-* and google/gemma-3-*-pt, so the
vocabulary of 3-4b and larger has 64 rows more than the tokenizer. `tiny` is a small Gemma 3.

Rates and batches were not published, and all but 2-27b were distilled from a larger model: the
rate here is Llama 3 8B's (arXiv:2407.21783, table 3), the tokens and length are the papers'. The
data is not theirs.

Measured: `tiny`, 40 steps in 5 s after 10 s of compiling on 2 CPU cores, ends at 4.3 bits a byte on
validation. Not measured here: time, utilisation and loss of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

GEMMA2 = dict(
    head_dim=256,
    vocab=256_000,
    length=8192,
    pattern=("local", "global"),
    window=4096,
    rope_theta=10_000.0,
    attention_softcap=50.0,
    logit_softcap=30.0,
)
GEMMA3 = dict(
    head_dim=256,
    vocab=262_208,
    length=131_072,
    pattern=(*("local",) * 5, "global"),
    window=1024,
    qk_norm="rms",
    rope_theta=1_000_000.0,
    rope_local_theta=10_000.0,
    rope_factor=8.0,
)
# Scores of the largest are divided by the square root of width / heads, not of head_dim.
GEMMA2_27B = GEMMA2 | dict(head_dim=128, attention_scale=144**-0.5)
GEMMA3_27B = GEMMA3 | dict(head_dim=128, attention_scale=168**-0.5)
GEMMA3_1B = GEMMA3 | dict(vocab=262_144, length=32_768, window=512, rope_factor=1.0)
TINY = GEMMA3_1B | dict(head_dim=32, vocab=320, length=128, window=32, pattern=("local", "global"))

SIZES: dict[str, dict] = {
    "tiny": dict(layers=3, width=64, heads=4, kv_heads=2, hidden=192, **TINY),
    "2-2b": dict(layers=26, width=2304, heads=8, kv_heads=4, hidden=9216, **GEMMA2),
    "2-9b": dict(layers=42, width=3584, heads=16, kv_heads=8, hidden=14_336, **GEMMA2),
    "2-27b": dict(layers=46, width=4608, heads=32, kv_heads=16, hidden=36_864, **GEMMA2_27B),
    "3-1b": dict(layers=26, width=1152, heads=4, kv_heads=1, hidden=6912, **GEMMA3_1B),
    "3-4b": dict(layers=34, width=2560, heads=8, kv_heads=4, hidden=10_240, **GEMMA3),
    "3-12b": dict(layers=48, width=3840, heads=16, kv_heads=8, hidden=15_360, **GEMMA3),
    "3-27b": dict(layers=62, width=5376, heads=32, kv_heads=16, hidden=21_504, **GEMMA3_27B),
}

# Trillions of tokens: arXiv:2408.00118, section 3.1; arXiv:2503.19786, section 2.2.
TOKENS = {"2-2b": 2, "2-9b": 8, "2-27b": 13, "3-1b": 2, "3-4b": 4, "3-12b": 12, "3-27b": 14}


def get_config(size: str = "2-2b") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-6,
        norm_offset=1.0,
        norm_placement="both",
        position="rope",
        feedforward="geglu",
        bias=False,
        embed_scale=True,
        tied=True,
        init_std=0.02,
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    old = size.startswith("2-")
    length = 8192 if old else 32_768
    config.batch = 2**22 // length  # 4 million tokens
    config.steps = int(TOKENS[size] * 1e12 / 2**22)
    config.schedule.update(name="warmup_cosine", peak=3e-4, warmup=2000, floor=3e-5)
    config.data.update(
        source="tfds:c4/en",
        # Of huggingface.co/google/gemma-2-2b (gated), or of gemma-3-1b-pt (gated).
        tokenizer="gemma2/tokenizer.model" if old else "gemma3/tokenizer.model",
        length=length,
    )
    config.model.remat = "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(
        validation=dict(source="tfds:c4/en", split="validation", every=2000, batches=10)
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 40, 8
    config.model.dtype = "float32"
    config.data.update(source="python_stdlib", tokenizer="bytes", length=128)
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=5, floor=1e-3)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0, batches=16))
    return config
