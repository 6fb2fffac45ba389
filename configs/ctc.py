r"""Text out of sound by CTC: Whisper's encoder, and at each moment a token or the blank.

    python -m bigmodel train --config configs/ctc.py:base --workdir gs://bucket/ctc \
        --config.data.source=audio:/data/speech
    python -m bigmodel train --config configs/ctc.py:tiny --workdir /tmp/ctc        # on CPU
    python -m bigmodel generate --workdir /tmp/ctc --input audio=FILE.wav [--num_beams 8]

The loss: Graves et al. 2006 (doi:10.1145/1143844.1143891). The encoders are those of Whisper's
sizes (Radford et al. 2022, arXiv:2212.04356, table 1), the recipe is this project's own: there is
no published model of this form. Tokens are bytes; the last row of the vocabulary, 264 of them so
that meshes divide it, is the blank.

A vector is 20 ms of sound. Its texts may have as many tokens as it has vectors, less those between
two that are equal: bytes of ordinary speech (some 15 a second) have room.

Measured: `tiny`, 300 steps in 50 s of CPU time, the compiler's counted: all 732 digits of the test
split, whose numbers are not dialled in training, in rows whose likeliest alignment is wholly right.
Not measured here: time, utilisation and error rates of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(width=64, layers=2, heads=4, vocab=264, mels=40, frames=176),
    "base": dict(width=512, layers=6, heads=8, vocab=264),
    "small": dict(width=768, layers=12, heads=12, vocab=264),
    "medium": dict(width=1024, layers=24, heads=16, vocab=264),
}
RATES = {"base": 1e-3, "small": 5e-4, "medium": 2.5e-4}


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("speech_encoder", objective="ctc", data="speech")
    config.seed = 0
    config.model.update(**SIZES[size])
    config.optimizer.update(name="adamw", b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.1, clip=1.0)
    if size == "tiny":
        return tiny(config)

    config.steps, config.batch = 100_000, 256
    config.model.dropout = 0.1
    config.schedule.update(name="warmup_cosine", peak=RATES[size], warmup=10_000, floor=1e-6)
    config.data.update(
        source="audio:speech",  # a folder with train.jsonl and validation.jsonl
        tokenizer="bytes",
        end=False,
        length=1024,
        frames=3000,
        mels=80,
        time_masks=(2, 100),
        frequency_masks=(2, 27),
        too_long="skip",
        empty="skip",
    )
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=2000))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits dialled by tone, which need no download: a text is the two to six of a sound."""
    config.steps, config.batch = 300, 32
    config.model.dtype = "float32"
    config.data.update(
        source="dtmf", tokenizer="bytes", end=False, length=8, frames=176, mels=40, rate=8000
    )
    config.schedule.update(name="warmup_cosine", peak=3e-3, warmup=30, floor=1e-5)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
