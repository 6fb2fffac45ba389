r"""A decoder told to answer: supervised fine-tuning on chats, loss on the answers alone.

    python -m bigmodel train --config configs/chat.py:tiny --workdir /tmp/chat     # seconds, on CPU
    python -m bigmodel train --config configs/chat.py:qwen2.5-0.5b-instruct --workdir runs/chat \
        --config.init_from=Qwen2.5-0.5B-Instruct --config.data.tokenizer=Qwen2.5-0.5B-Instruct \
        --config.data.source=jsonl:chats.jsonl

Supervised fine-tuning as in Ouyang et al. 2022 (arXiv:2203.02155), section 3.5.

`qwen2.5-0.5b-instruct` goes on from the folder Qwen/Qwen2.5-0.5B-Instruct of the Hugging Face Hub,
with the tokenizer and the chat template that lie in it. Rates, weight decay and clipping are those
of Qwen Team 2024 (arXiv:2412.15115), section 4.1; batch, length and steps are for small sets of
chats (theirs: more than a million, rows of 32,768 tokens).

`tiny` asks what functions of Python's standard library do, and answers with the first line of what
documents them. It begins from random weights: it learns how an answer looks, not what is so.

Measured: `tiny`, 60 steps in 8 s after 8 s of compiling on 2 CPU cores, ends at 3.0 nats a byte of
the answers of validation. Not measured here: the other size.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, kv_heads=2, hidden=192, vocab=320, length=256),
    "qwen2.5-0.5b-instruct": dict(layers=24, width=896, heads=14, kv_heads=2, hidden=4864)
    | dict(vocab=151_936, length=32_768, qkv_bias=True, norm_epsilon=1e-6),
}


def get_config(size: str = "tiny") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token", data="chats")
    config.seed = 0
    config.model.update(
        norm="rms",
        position="rope",
        rope_theta=1_000_000.0,
        feedforward="swiglu",
        bias=False,
        tied=True,
        init_std=0.02,
        **SIZES[size],
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    config.init_from = "Qwen2.5-0.5B-Instruct"
    config.steps, config.batch = 2000, 64
    config.schedule.update(name="warmup_cosine", peak=7e-6, warmup=60, floor=7e-7)
    config.data.update(
        source="jsonl:chats.jsonl",  # {"messages": [{"role": ..., "content": ...}, ...]}
        tokenizer="Qwen2.5-0.5B-Instruct",  # the folder, for its template as well
        length=4096,
        too_long="skip",
    )
    config.model.remat = "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=200))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 60, 8
    config.model.dtype = "float32"
    config.data.update(source="python_stdlib", tokenizer="bytes", length=256, too_long="skip")
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=5, floor=1e-3)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0, batches=8))
    return config
