r"""Qwen 2.5 and Qwen 3 on C4 text, next-token loss.

    python -m bigmodel train --config configs/qwen.py:3-0.6b --workdir gs://bucket/qwen3-0.6b
    python -m bigmodel train --config configs/qwen.py:tiny --workdir /tmp/qwen     # seconds, on CPU

Sizes `2.5-*`: Qwen Team 2024 (arXiv:2412.15115), table 1; `3-*`: Yang et al. 2025
(arXiv:2505.09388), tables 1 and 2; the rest is from the config.json files of Qwen/Qwen2.5-* and
Qwen/Qwen3-*-Base. Qwen 2.5 has biases on q, k and v; Qwen 3 normalises queries and keys instead.
`tiny` is a small Qwen 3.

Rates and batches were not published (the papers fit them by scaling laws): those of Llama 3 for
models of like size (arXiv:2407.21783, table 3) stand here. The number of tokens is the papers', at
the 4096 tokens a row of their first phase. The data is not theirs.

Measured: `tiny`, 40 steps in 5 s after 10 s of compiling on 2 CPU cores, ends at 4.5 bits a byte on
validation. Not measured here: time, utilisation and loss of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SMALL25 = dict(qkv_bias=True, vocab=151_936, norm_epsilon=1e-6, length=32_768, tied=True)
LARGE25 = dict(qkv_bias=True, vocab=152_064, norm_epsilon=1e-5, length=131_072, tied=False)
SEVEN25 = LARGE25 | dict(norm_epsilon=1e-6)
QWEN3 = dict(qk_norm="rms", head_dim=128, vocab=151_936, norm_epsilon=1e-6, length=32_768)
SPARSE3 = QWEN3 | dict(experts=128, experts_per_token=8, tied=False)
TINY = QWEN3 | dict(head_dim=32, vocab=320, length=128)

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, kv_heads=2, hidden=192, **TINY),
    "2.5-0.5b": dict(layers=24, width=896, heads=14, kv_heads=2, hidden=4864, **SMALL25),
    "2.5-1.5b": dict(layers=28, width=1536, heads=12, kv_heads=2, hidden=8960, **SMALL25),
    "2.5-3b": dict(layers=36, width=2048, heads=16, kv_heads=2, hidden=11_008, **SMALL25),
    "2.5-7b": dict(layers=28, width=3584, heads=28, kv_heads=4, hidden=18_944, **SEVEN25),
    "2.5-14b": dict(layers=48, width=5120, heads=40, kv_heads=8, hidden=13_824, **LARGE25),
    "2.5-32b": dict(layers=64, width=5120, heads=40, kv_heads=8, hidden=27_648, **LARGE25),
    "2.5-72b": dict(layers=80, width=8192, heads=64, kv_heads=8, hidden=29_568, **LARGE25),
    "3-0.6b": dict(layers=28, width=1024, heads=16, kv_heads=8, hidden=3072, tied=True, **QWEN3),
    "3-1.7b": dict(layers=28, width=2048, heads=16, kv_heads=8, hidden=6144, tied=True, **QWEN3),
    "3-4b": dict(layers=36, width=2560, heads=32, kv_heads=8, hidden=9728, tied=True, **QWEN3),
    "3-8b": dict(layers=36, width=4096, heads=32, kv_heads=8, hidden=12_288, tied=False, **QWEN3),
    "3-14b": dict(layers=40, width=5120, heads=40, kv_heads=8, hidden=17_408, tied=False, **QWEN3),
    "3-32b": dict(layers=64, width=5120, heads=64, kv_heads=8, hidden=25_600, tied=False, **QWEN3),
    # A3B and A22B: parameters that a token goes through, 3.3 and 22 billion.
    "3-30b-a3b": dict(layers=48, width=2048, heads=32, kv_heads=4, expert_hidden=768, **SPARSE3),
    "3-235b-a22b": dict(layers=94, width=4096, heads=64, kv_heads=4, expert_hidden=1536, **SPARSE3),
}


def get_config(size: str = "3-0.6b") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        position="rope",
        rope_theta=1_000_000.0,
        feedforward="swiglu",
        bias=False,
        init_std=0.02,
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    if "experts" in SIZES[size]:
        config.objective.balance_loss = 1e-3
    large = SIZES[size]["width"] >= 5120
    tokens = 18e12 if size.startswith("2.5-") else 36e12
    config.batch = 2048 if large else 1024
    config.steps = int(tokens / (4096 * config.batch))
    peak = 1.5e-4 if large else 3e-4
    config.schedule.update(name="warmup_cosine", peak=peak, warmup=2000, floor=0.1 * peak)
    config.data.update(
        source="tfds:c4/en",
        tokenizer="qwen/tokenizer.json",  # of huggingface.co/Qwen/Qwen3-0.6B-Base; both families'
        length=4096,
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
