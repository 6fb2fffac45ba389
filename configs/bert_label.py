r"""BERT told to label words: a class for each.

    python -m bigmodel train --config configs/bert_label.py:tiny --workdir /tmp/words
    python -m bigmodel train --config configs/bert_label.py:base --workdir runs/conll

Devlin et al. 2019 (arXiv:1810.04805), section 5.3; parameters as Hugging Face counts
BertForTokenClassification with nine labels.

Not as published: runs begin from random weights, not from a pretrained encoder; a word is seen in
its sentence, not in its document.

`tiny` tells of what kind each token of a line of Python's standard library is.

Measured: `tiny`, 60 steps in 6 s on 2 busy CPU cores, ends at 68 % of the tokens of validation told
right. Not measured here: all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(width=64, layers=2, heads=4, length=128, vocab=320, token_classes=6),
    "base": dict(width=768, layers=12, heads=12, length=512, vocab=28_996, token_classes=9),
}


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("encoder", objective="label_tokens", data="labelled_tokens")
    config.seed = 0
    config.model.update(masked_head=False, pooler=False, dropout=0.1, attention_dropout=0.1)
    config.model.update(**SIZES[size])
    config.optimizer.update(name="adamw", b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)
    if size == "tiny":
        return tiny(config)

    config.batch, config.steps = 32, 1317  # 3 epochs of 14,041 sentences
    config.schedule.update(name="warmup_linear", peak=5e-5, warmup=132)
    config.data.update(
        source="conll:conll2003/eng.train",  # a word and its label a line, sentences apart
        split="all",
        tokenizer="bert-base-cased/tokenizer.json",
        length=256,
        unfit="cut",
    )
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(source="conll:conll2003/eng.testa", split="all", every=200))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """The smallest run of the same form, on data that needs no download."""
    config.steps, config.batch = 60, 16
    config.model.update(dtype="float32", dropout=0.0, attention_dropout=0.0, init_std=0.1)
    config.data.update(source="python_stdlib", tokenizer="bytes", length=128, unfit="cut")
    config.schedule.update(name="warmup_linear", peak=5e-3, warmup=5)
    config.log.every = 10
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
