r"""GPT-2 and GPT-3 on C4 text, next-token loss.

    python -m bigmodel train --config configs/gpt.py:124m --workdir gs://bucket/gpt2-124m
    python -m bigmodel train --config configs/gpt.py:tiny --workdir /tmp/gpt     # seconds, on CPU

Architectures: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2,
and the config.json of openai-community/gpt2, -medium, -large, -xl; Brown et al. 2020 (GPT-3,
arXiv:2005.14165), table 2.1. GPT-2's rate and batch were never published: each size has those of
the GPT-3 of its size, table 2.1 and appendix B.

Not as published: the data (WebText and GPT-3's mixture are not public); dropout is 0 as one pass
over the text wants it (GPT-2's config.json says 0.1); every second layer of GPT-3 is locally banded
by a window that was not published, so all are dense here (--config.model.pattern='("global",
"local")' --config.model.window=256 shows such a pattern).

Measured: `tiny`, 40 steps in 5 s after 10 s of compiling on 2 CPU cores, ends at 5.5 bits a byte on
validation. Not measured here: time, utilisation and loss of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, length=128, vocab=320),
    "124m": dict(layers=12, width=768, heads=12, length=1024, vocab=50_257),
    "355m": dict(layers=24, width=1024, heads=16, length=1024, vocab=50_257),
    "774m": dict(layers=36, width=1280, heads=20, length=1024, vocab=50_257),
    "1.5b": dict(layers=48, width=1600, heads=25, length=1024, vocab=50_257),
    "175b": dict(layers=96, width=12_288, heads=96, length=2048, vocab=50_257),
}

# Learning rate and sequences a batch: GPT-3's table 2.1 (0.5, 1 and 3.2 million tokens).
RUNS = {
    "124m": dict(peak=6e-4, batch=512),
    "355m": dict(peak=3e-4, batch=512),
    "774m": dict(peak=2.5e-4, batch=512),
    "1.5b": dict(peak=2e-4, batch=1024),
    "175b": dict(peak=0.6e-4, batch=1536),
}


def get_config(size: str = "124m") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 0
    config.model.update(
        norm="layer",
        norm_epsilon=1e-5,
        position="learned",
        feedforward="gelu_tanh",
        bias=True,
        tied=True,
        init_std=0.02,
        init_residual="scaled",  # Radford et al. 2019, section 2.3
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    length, run = SIZES[size]["length"], RUNS[size]
    config.batch = run["batch"]
    config.steps = int(300e9 / (run["batch"] * length))  # 300 billion tokens, as GPT-3
    config.schedule.update(
        name="warmup_cosine",
        peak=run["peak"],
        warmup=int(375e6 / (run["batch"] * length)),
        floor=0.1 * run["peak"],
    )
    config.data.update(
        source="tfds:c4/en",
        tokenizer="gpt2/tokenizer.json",  # of huggingface.co/openai-community/gpt2
        length=length,
    )
    config.model.remat = "none" if size == "124m" else "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(
        validation=dict(source="tfds:c4/en", split="validation", every=2000, batches=20)
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
