r"""Mistral 7B v0.1 on C4 text, next-token loss: every layer looks back through a window.

    python -m bigmodel train --config configs/mistral.py:7b --workdir gs://bucket/mistral-7b
    python -m bigmodel train --config configs/mistral.py:tiny --workdir /tmp/mistral  # seconds, CPU

Architecture: Jiang et al. 2023 (arXiv:2310.06825), table 1, and the config.json of
mistralai/Mistral-7B-v0.1. How it was trained was not published: schedule and batch are Llama 2
7B's (arXiv:2307.09288, section 2.2), the length is the paper's context of 8192. The data is not
theirs.

Measured: `tiny`, 40 steps in 5 s after 10 s of compiling on 2 CPU cores, ends at 4.5 bits a byte on
validation. Not measured here: time, utilisation and loss of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

V01 = dict(window=4096, vocab=32_000, length=32_768)
TINY = dict(window=32, vocab=320, length=128)

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, kv_heads=2, hidden=192, **TINY),
    "7b": dict(layers=32, width=4096, heads=32, kv_heads=8, hidden=14_336, **V01),
}


def get_config(size: str = "7b") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-5,
        position="rope",
        rope_theta=10_000.0,
        pattern=("local",),
        feedforward="swiglu",
        bias=False,
        tied=False,
        init_std=0.02,
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    config.steps, config.batch = 477_000, 512  # 4 million tokens a batch, 2 trillion in all
    config.schedule.update(name="warmup_cosine", peak=3e-4, warmup=2000, floor=3e-5)
    config.data.update(
        source="tfds:c4/en",
        tokenizer="mistral/tokenizer.model",  # of huggingface.co/mistralai/Mistral-7B-v0.1
        length=8192,
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
