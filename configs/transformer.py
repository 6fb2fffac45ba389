r"""The Transformer of 2017 on pairs of sentences: translation.

    python -m bigmodel train --config configs/transformer.py:base --workdir gs://bucket/wmt-en-de
    python -m bigmodel train --config configs/transformer.py:tiny --workdir /tmp/transformer
    python -m bigmodel generate --workdir /tmp/transformer --input source=FILE \
        --num_beams 4 --length_penalty 0.6

Vaswani et al. 2017 (arXiv:1706.03762): table 3 for the sizes, section 5 for the training of both,
section 6.1 for the beam. base and big say what the paper does of English to German: 4.5 million
pairs, a shared vocabulary of 37,000 tokens, batches of about 25,000 source and as many target
tokens.

Not as published: pairs are packed in rows of 256, none of which sees another, and a batch is 112 of
those rows (some 25,000 tokens where nine in ten places are filled), while theirs was filled by
pairs of about one length; `big` has one dropout for both directions; weights are not averaged over
the last checkpoints (ema is what comes near).

`tiny` learns to say what a function of Python's standard library does from its signature.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(layers=2, width=64, heads=4, vocab=320, dropout=0.0),
    "base": dict(layers=6, width=512, heads=8, vocab=37_000, dropout=0.1),
    "big": dict(layers=6, width=1024, heads=16, vocab=37_000, dropout=0.3),
}

STEPS = {"base": 100_000, "big": 300_000}


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("encoder_decoder", objective="next_token", data="pairs")
    config.seed = 0
    config.model.update(
        norm="layer",
        norm_placement="post",
        position="sinusoidal",
        feedforward="relu",
        bias=True,
        tied=True,
        embed_scale=True,
        **SIZES[size],
    )
    config.objective.label_smoothing = 0.1
    config.optimizer.update(name="adam", b1=0.9, b2=0.98, eps=1e-9, clip=0.0)
    if size == "tiny":
        return tiny(config)

    config.steps, config.batch = STEPS[size], 112
    config.schedule.update(
        name="inverse_sqrt",
        peak=(SIZES[size]["width"] * 4000) ** -0.5,  # eq. 3
        warmup=4000,
    )
    config.data.update(
        source="lines:wmt14/train.en,wmt14/train.de",
        split="all",
        tokenizer="wmt14/tokenizer.json",
        source_length=256,
        length=256,
        packing="best_fit",
        too_long="skip",
        empty="skip",
    )
    config.mesh.update(fsdp=-1)
    config.evals = dict(
        validation=dict(
            source="lines:wmt14/newstest2013.en,wmt14/newstest2013.de",
            split="all",
            every=2000,
        )
    )
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 40, 16
    config.model.dtype = "float32"
    config.objective.label_smoothing = 0.0
    config.optimizer.clip = 1.0
    config.data.update(
        source="python_stdlib",
        tokenizer="bytes",
        source_length=64,
        length=64,
        too_long="cut",
        empty="skip",
    )
    config.schedule.update(name="inverse_sqrt", peak=3e-3, warmup=10)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0, batches=16))
    return config
