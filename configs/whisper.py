r"""Whisper: text out of sound, by an encoder of log-mel frames and a decoder of tokens.

    python -m bigmodel train --config configs/whisper.py:whisper-small --workdir gs://bucket/whisper
    python -m bigmodel train --config configs/whisper.py:tiny --workdir /tmp/whisper     # on CPU
    python -m bigmodel generate --workdir /tmp/whisper --input audio=FILE.wav --temperature 0

Architectures: Radford et al. 2022 (arXiv:2212.04356), table 1. Sizes ending in .en have the
vocabulary of English alone; large-v3 hears 128 bands. Recipe: appendix F: 2^20 batches of 256,
AdamW with b2 0.98 and weight decay 0.1, kernels by fan-in, a rate that falls on a straight line
from that of its size; of large-v2 655,360 batches of 1,024, SpecAugment.

Not as published: their 680,000 hours are not public, nor are tasks and languages told by tokens at
the beginning of a text; a text is not told the one before; no stochastic depth and no BPE dropout.
Parameters are counted without the encoder's positions (1,500 vectors), which are fixed here, and
which the weights that were given out hold.

Measured: `tiny`, 800 steps in 100 s of CPU time: of validation 98.9 % of the tokens right; greedily
38 of 40 numbers of the test split, none of which is dialled in training, come out whole. Not
measured here: time, utilisation and error rates of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

# Radford et al. 2022, table 1, and the largest rates of appendix F.
WIDTHS: dict[str, dict] = {
    "tiny": dict(width=384, layers=4, heads=6),
    "base": dict(width=512, layers=6, heads=8),
    "small": dict(width=768, layers=12, heads=12),
    "medium": dict(width=1024, layers=24, heads=16),
    "large": dict(width=1280, layers=32, heads=20),
}
RATES = {"tiny": 1.5e-3, "base": 1e-3, "small": 5e-4, "medium": 2.5e-4, "large": 1.75e-4}

SIZES: dict[str, dict] = {
    "tiny": dict(width=64, layers=2, heads=4, vocab=264, mels=40, frames=176, length=8),
}
SIZES |= {f"whisper-{name}": dict(**size, vocab=51_865) for name, size in WIDTHS.items()}
SIZES |= {
    f"whisper-{name}.en": dict(**size, vocab=51_864)
    for name, size in WIDTHS.items()
    if name != "large"
}
SIZES |= {
    "whisper-large-v2": SIZES["whisper-large"],
    "whisper-large-v3": dict(**WIDTHS["large"], vocab=51_866, mels=128),
}


def get_config(size: str = "whisper-small") -> ConfigDict:
    config = bigmodel.default_config("speech", objective="next_token", data="speech")
    config.seed = 0
    config.model.update(**SIZES[size])
    config.optimizer.update(name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    name = size.removeprefix("whisper-").partition(".")[0]
    config.steps, config.batch = 2**20, 256
    config.schedule.update(name="warmup_linear", peak=RATES[name.partition("-")[0]], warmup=2048)
    config.data.update(
        source="audio:speech",  # a folder with train.jsonl and validation.jsonl
        tokenizer="whisper/tokenizer.json",  # of huggingface.co/openai/whisper-*
        length=448,
        frames=3000,
        mels=config.model.mels,
        pad="silence",  # as its weights have heard it
        too_long="skip",
        empty="skip",
        broken="skip",
    )
    if name in ("large-v2", "large-v3"):
        config.steps, config.batch, config.schedule.peak = 655_360, 1024, 2e-4
        config.data.update(time_masks=(1, 100), frequency_masks=(1, 27))
    config.model.remat = "none" if name in ("tiny", "base") else "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=5000))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits dialled by tone, which need no download: a text is the two to six of a sound."""
    config.steps, config.batch = 800, 32
    config.model.dtype = "float32"
    config.data.update(
        source="dtmf", tokenizer="bytes", length=8, frames=176, mels=40, rate=8000, pad="mask"
    )
    config.schedule.update(name="warmup_cosine", peak=1.5e-3, warmup=100, floor=1e-5)
    config.log.every = 100
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
