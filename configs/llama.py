r"""Llama 2, 3.1 and 3.2 on C4 text, next-token loss.

    python -m bigmodel train --config configs/llama.py:8b --workdir gs://bucket/llama-8b
    python -m bigmodel train --config configs/llama.py:tiny --workdir /tmp/llama     # seconds, CPU

Sizes `2-7b`, `2-13b`, `2-70b` are Llama 2 (Touvron et al. 2023, arXiv:2307.09288), `8b`, `70b`,
`405b` Llama 3.1 (Grattafiori et al. 2024, arXiv:2407.21783, table 3), `1b` and `3b` Llama 3.2; what
papers leave out (epsilon, rotary stretching) is from the config.json files of meta-llama.

Training is Llama 2's section 2.2 and Llama 3's section 3.4 in one phase: theirs grew batch and
length on the way. Llama 3.2 was pruned from 8b and distilled; here 1b and 3b take 8b's schedule.
The data is not theirs.

Measured: `tiny`, 40 steps in 5 s after 10 s of compiling on 2 CPU cores, ends at 4.5 bits a byte on
validation. Not measured here: time, utilisation and loss of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

LLAMA2 = dict(vocab=32_000, length=4096, rope_theta=10_000.0, tied=False)
LLAMA3 = dict(
    vocab=128_256,
    length=131_072,
    rope_theta=500_000.0,
    rope_factor=8.0,
    rope_original_length=8192,
    rope_low=1.0,
    rope_high=4.0,
    tied=False,
)
LLAMA32 = LLAMA3 | dict(rope_factor=32.0, tied=True)

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, kv_heads=2, hidden=192, vocab=320, length=128),
    "1b": dict(layers=16, width=2048, heads=32, kv_heads=8, hidden=8192, **LLAMA32),
    "3b": dict(layers=28, width=3072, heads=24, kv_heads=8, hidden=8192, **LLAMA32),
    "8b": dict(layers=32, width=4096, heads=32, kv_heads=8, hidden=14_336, **LLAMA3),
    "70b": dict(layers=80, width=8192, heads=64, kv_heads=8, hidden=28_672, **LLAMA3),
    "405b": dict(layers=126, width=16_384, heads=128, kv_heads=8, hidden=53_248, **LLAMA3),
    "2-7b": dict(layers=32, width=4096, heads=32, kv_heads=32, hidden=11_008, **LLAMA2),
    "2-13b": dict(layers=40, width=5120, heads=40, kv_heads=40, hidden=13_824, **LLAMA2),
    "2-70b": dict(layers=80, width=8192, heads=64, kv_heads=8, hidden=28_672, **LLAMA2),
}

# Llama 3: table 3 and section 3.4.1 (warmup, the floor and steps of 405B); 15 trillion tokens.
# Llama 2: section 2.2, 2 trillion tokens; epsilon 1e-5 of AdamW.
RUNS = {
    "1b": dict(peak=3e-4, floor=3e-6, warmup=8000, batch=1024, length=8192, steps=1_788_000),
    "3b": dict(peak=3e-4, floor=3e-6, warmup=8000, batch=1024, length=8192, steps=1_788_000),
    "8b": dict(peak=3e-4, floor=3e-6, warmup=8000, batch=1024, length=8192, steps=1_788_000),
    "70b": dict(peak=1.5e-4, floor=1.5e-6, warmup=8000, batch=1024, length=8192, steps=1_788_000),
    "405b": dict(peak=8e-5, floor=8e-7, warmup=8000, batch=2048, length=8192, steps=1_200_000),
    "2-7b": dict(peak=3e-4, floor=3e-5, warmup=2000, batch=1024, length=4096, steps=477_000),
    "2-13b": dict(peak=3e-4, floor=3e-5, warmup=2000, batch=1024, length=4096, steps=477_000),
    "2-70b": dict(peak=1.5e-4, floor=1.5e-5, warmup=2000, batch=1024, length=4096, steps=477_000),
}


def get_config(size: str = "1b") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-5,
        position="rope",
        feedforward="swiglu",
        bias=False,
        init_std=0.02,
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        config.model.tied = False
        return tiny(config)

    run, old = RUNS[size], size.startswith("2-")
    config.steps, config.batch = run["steps"], run["batch"]
    config.schedule.update(
        name="warmup_cosine", peak=run["peak"], warmup=run["warmup"], floor=run["floor"]
    )
    if old:
        config.optimizer.eps = 1e-5
    config.data.update(
        source="tfds:c4/en",
        # Of huggingface.co/meta-llama/Llama-2-7b (gated), or of Meta-Llama-3.1-8B (gated).
        tokenizer="llama2/tokenizer.model" if old else "llama3/tokenizer.json",
        length=run["length"],
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
