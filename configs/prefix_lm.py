r"""Prefix LM: a decoder that sees the beginning of a text from everywhere, and tells the rest.

    python -m bigmodel train --config configs/prefix_lm.py:124m --workdir gs://bucket/prefix-124m
    python -m bigmodel train --config configs/prefix_lm.py:tiny --workdir /tmp/prefix     # on CPU
    python -m bigmodel train --config configs/prefix_lm.py:tiny-prompts --workdir /tmp/prompts

Liu et al. 2018 (arXiv:1801.10198), Raffel et al. 2020 (arXiv:1910.10683), sections 3.2.1 and 3.3.1.
`124m` and `tiny` are of text (kind `prefix_text`): where the beginning of a document ends is drawn.
`tiny-prompts` is of pairs (kind `prompted_text`): what a function's docstring says, given its
signature; the same config on pairs of your own tunes a decoder to follow prompts, and with
data.prefix = False it does so causally.

Not as published: the shape is GPT-2's (Radford et al. 2019) with rotary positions, where theirs is
T5's decoder; rate, batch and steps are those of configs/gpt.py:124m.

Measured: `tiny`, 60 steps of 8 in 5 s on two busy CPU cores after 16 s of compiling, ends at 3.08
nats a byte that is to be told on validation; `tiny-prompts`, in 8 s, at 4.5 bits a byte.
Not measured here: time, utilisation and loss of 124m.
"""

from ml_collections import ConfigDict

import bigmodel

TINY: dict = dict(layers=2, width=64, heads=4, length=128, vocab=320)

SIZES: dict[str, dict] = {
    "tiny": TINY,
    "tiny-prompts": TINY | dict(length=256),
    "124m": dict(layers=12, width=768, heads=12, length=1024, vocab=50_257),
}


def get_config(size: str = "124m") -> ConfigDict:
    kind = "prompted_text" if size == "tiny-prompts" else "prefix_text"
    config = bigmodel.default_config("decoder", objective="next_token", data=kind)
    config.seed = 0
    config.model.update(position="rope", tied=True, **SIZES[size])
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    config.evals = dict(validation=dict(split="validation", every=0, batches=16))
    if size.startswith("tiny"):
        config.steps, config.batch = 60, 8
        config.model.dtype = "float32"
        config.data.update(source="python_stdlib", tokenizer="bytes", length=SIZES[size]["length"])
        config.data.update(dict(too_long="skip") if kind == "prompted_text" else {})
        config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=5, floor=1e-3)
        config.log.every = 10
        return config

    config.batch, config.steps = 512, int(300e9 / (512 * 1024))
    config.schedule.update(name="warmup_cosine", peak=6e-4, warmup=715, floor=6e-5)
    config.data.update(
        source="tfds:c4/en",
        tokenizer="gpt2/tokenizer.json",  # of huggingface.co/openai-community/gpt2
        length=1024,
    )
    config.mesh.update(fsdp=-1)
    config.evals.validation.update(source="tfds:c4/en", every=2000)
    return config
