r"""Mixtral on C4 text, next-token loss: each token goes through two of eight experts.

    python -m bigmodel train --config configs/mixtral.py:8x7b --workdir gs://bucket/mixtral-8x7b
    python -m bigmodel train --config configs/mixtral.py:tiny --workdir /tmp/mixtral  # seconds, CPU

Architecture: Jiang et al. 2024 (arXiv:2401.04088), table 1, and the config.json files of
mistralai/Mixtral-8x7B-v0.1 and 8x22B-v0.1; the price of an uneven load is `router_aux_loss_coef`
there. How it was trained was not published: schedule and batch are Llama 2 7B's (arXiv:2307.09288,
section 2.2). The data is not theirs.

Not measured here: time, utilisation and loss.
"""

from ml_collections import ConfigDict

import bigmodel

LARGE = dict(kv_heads=8, head_dim=128, vocab=32_000)
TINY = dict(kv_heads=2, vocab=320, length=128)

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, hidden=96, **TINY),
    "8x7b": dict(layers=32, width=4096, heads=32, hidden=14_336, length=32_768, **LARGE),
    "8x22b": dict(layers=56, width=6144, heads=48, hidden=16_384, length=65_536, **LARGE),
}


def get_config(size: str = "8x7b") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-5,
        position="rope",
        rope_theta=1_000_000.0,
        feedforward="swiglu",
        experts=8,
        experts_per_token=2,
        bias=False,
        tied=False,
        init_std=0.02,
        **SIZES[size],
    )
    config.objective.balance_loss = 0.02 if size == "8x7b" else 0.001
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    config.steps, config.batch = 477_000, 1024  # 4 million tokens a batch, 2 trillion in all
    config.schedule.update(name="warmup_cosine", peak=3e-4, warmup=2000, floor=3e-5)
    config.data.update(
        source="tfds:c4/en",
        tokenizer="mistral/tokenizer.model",  # of huggingface.co/mistralai/Mixtral-8x7B-v0.1
        length=4096,
    )
    config.model.remat = "full"
    config.mesh.update(fsdp=-1, expert=8)
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
