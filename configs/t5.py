r"""T5 1.0 and 1.1 on C4 text: spans are taken out, and are to be told.

    python -m bigmodel train --config configs/t5.py:base --workdir gs://bucket/t5-base
    python -m bigmodel train --config configs/t5.py:tiny --workdir /tmp/t5     # seconds, on CPU

Raffel et al. 2020 (arXiv:1910.10683) and the config.json of google-t5/t5-small, -base, -large, -3b,
-11b and google/t5-v1_1-small, -base, -large, -xl, -xxl.

Training: section 3.7, "pre-train on 1 trillion tokens", a million steps of 2^11 rows of 512 tokens;
spans: section 3.1.4, figure 2; Adafactor at 1 / sqrt(max(step, 10^4)): section 3.1.2. Version 1.1
is pretrained without dropout. Tasks of pairs of texts are a config of their own: data="pairs",
schedule "constant" at 1e-3 (section 3.1.3), dropout 0.1.

Not as published: the first checkpoints saw tasks with labels in pretraining too; the rate climbs to
its peak in the first 10^4 steps, where it stands still; T5 also drops in the middle of feed-forward
layers, of cross attention's probabilities and after the last norm of each stack.
"""

from ml_collections import ConfigDict

import bigmodel

V1: dict = dict(feedforward="relu", tied=True, head_scale=True)
V1_1: dict = dict(feedforward="geglu", tied=False, head_scale=False)

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, hidden=128, vocab=384, **V1_1),
    "small": dict(layers=6, width=512, heads=8, head_dim=64, hidden=2048, **V1),
    "base": dict(layers=12, width=768, heads=12, head_dim=64, hidden=3072, **V1),
    "large": dict(layers=24, width=1024, heads=16, head_dim=64, hidden=4096, **V1),
    "3b": dict(layers=24, width=1024, heads=32, head_dim=128, hidden=16_384, **V1),
    "11b": dict(layers=24, width=1024, heads=128, head_dim=128, hidden=65_536, **V1),
    "1.1-small": dict(layers=8, width=512, heads=6, head_dim=64, hidden=1024, **V1_1),
    "1.1-base": dict(layers=12, width=768, heads=12, head_dim=64, hidden=2048, **V1_1),
    "1.1-large": dict(layers=24, width=1024, heads=16, head_dim=64, hidden=2816, **V1_1),
    "1.1-xl": dict(layers=24, width=2048, heads=32, head_dim=64, hidden=5120, **V1_1),
    "1.1-xxl": dict(layers=24, width=4096, heads=64, head_dim=64, hidden=10_240, **V1_1),
}


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("encoder_decoder", objective="next_token", data="spans")
    config.seed = 0
    config.model.update(
        norm="rms",
        norm_epsilon=1e-6,
        norm_placement="pre",
        position="none",
        relative_buckets=32,
        relative_distance=128,
        bias=False,
        attention_scale=1.0,
        embed_scale=False,
        embed_std=1.0,
    )
    if size == "tiny":
        config.model.update(SIZES[size])
        return tiny(config)

    config.model.update(vocab=32_128, **SIZES[size])
    config.model.dropout = 0.0 if size.startswith("1.1") else 0.1
    config.steps, config.batch = 1_000_000, 2048
    config.optimizer.update(name="adafactor", clip=0.0)
    config.schedule.update(name="inverse_sqrt", peak=1e-2, warmup=10_000)
    config.data.update(
        source="tfds:c4/en",
        tokenizer="t5-base/tokenizer.json",  # of huggingface.co/google-t5/t5-base
        source_length=512,
        length=114,
        first_sentinel=32_099,  # <extra_id_0>
    )
    config.model.remat = "none" if size.endswith(("small", "base")) else "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(
        validation=dict(source="tfds:c4/en", split="validation", every=5000, batches=20)
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 40, 16
    config.model.dtype = "float32"
    config.data.update(
        source="python_stdlib", tokenizer="bytes", source_length=96, length=24, sentinels=32
    )
    config.optimizer.update(name="adamw", weight_decay=0.0, clip=1.0)
    config.schedule.update(name="inverse_sqrt", peak=1e-2, warmup=10)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0, batches=16))
    return config
