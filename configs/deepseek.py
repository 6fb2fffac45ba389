r"""DeepSeek-V3 on C4 text, next-token loss: latent attention, and experts beside a shared one.

    python -m bigmodel train --config configs/deepseek.py:v3-4layers --workdir gs://bucket/v3
    python -m bigmodel train --config configs/deepseek.py:tiny --workdir /tmp/deepseek  # seconds

DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2 for model, optimizer and rates, and the config.json
of deepseek-ai/DeepSeek-V3-Base. Left out: the second token that it predicts besides (section 2.2),
the stretching of positions after pretraining, 8-bit products. `v3-4layers` has the first four
layers, three dense ones and one of experts, in full width: what to try layouts with. The data is
not theirs.

Not measured here: time, utilisation and loss.
"""

from ml_collections import ConfigDict

import bigmodel

V3 = dict(
    width=7168, heads=128, head_dim=128, rope_dim=64, query_rank=1536, kv_rank=512, hidden=18_432,
    experts=256, experts_per_token=8, expert_hidden=2048, expert_groups=8,
    expert_groups_per_token=4, dense_layers=3, vocab=129_280, length=4096,
)  # fmt: skip
TINY = dict(
    width=64, heads=4, head_dim=16, rope_dim=8, query_rank=32, kv_rank=24, hidden=192,
    experts=8, experts_per_token=2, expert_hidden=48, expert_groups=4,
    expert_groups_per_token=2, dense_layers=1, vocab=320, length=128,
)  # fmt: skip

SIZES: dict[str, dict] = {
    "tiny": dict(layers=3, **TINY),
    "v3-4layers": dict(layers=4, **V3),
    "v3": dict(layers=61, **V3),
}


def get_config(size: str = "v3-4layers") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-6,
        position="rope",
        rope_theta=10_000.0,
        feedforward="swiglu",
        shared_experts=1,
        router="sigmoid",
        router_scale=2.5,
        router_balance=True,
        bias=False,
        tied=False,
        init_std=0.006,
        **SIZES[size],
    )
    config.objective.balance_loss = 1e-4
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    config.steps, config.batch = 235_000, 15_360  # 14.8 trillion tokens
    config.schedule.update(
        name="warmup_stable_decay", peak=2.2e-4, warmup=2000, floor=2.2e-5, decay=0.32
    )
    config.data.update(
        source="tfds:c4/en",
        tokenizer="deepseek/tokenizer.json",  # of huggingface.co/deepseek-ai/DeepSeek-V3-Base
        length=4096,
    )
    config.model.remat = "full"
    config.mesh.update(fsdp=-1, expert=64)
    config.evals = dict(
        validation=dict(source="tfds:c4/en", split="validation", every=2000, batches=10)
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 40, 8
    config.model.dtype = "float32"
    config.model.init_std = 0.02
    config.data.update(source="python_stdlib", tokenizer="bytes", length=128)
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=5, floor=1e-3)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0, batches=16))
    return config
