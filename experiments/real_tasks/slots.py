r"""Slots: what each word of a request stands for. A small encoder that tells a class of each word.

    python experiments/real_tasks/slots.py snips-slots --data DIR

SNIPS (Coucke et al. 2018, arXiv:1805.10190) as Goo et al. 2018 split it: 13,084 sentences to train
on, 700 for validation and 700 for the test; 39 slots, as tags O, B-X and I-X. The score is that of
CoNLL-2003: F1 of whole slots. Nothing is pretrained: the tokenizer, 4,000 word pieces, and the
encoder are made from the training sentences alone.

Measured: F1 89.64 on the test and 89.03 on validation (published 88.8), 1,200 steps in 22 minutes
of 2 shared CPU cores; nothing was tuned.

Sentences of one's own take the same recipe. Of a file with a word and its tag a line, an empty line
after each sentence, 98, 1 and 1 per cent are trained on, for validation and for the test;
`model.token_classes` is how many tags there are, or more:

    python -m bigmodel data train-tokenizer --config experiments/real_tasks/slots.py:own \
        --config.data.source=conll:FILE --kind wordpiece --size 4000 --out tokenizer.json
    python -m bigmodel train --config experiments/real_tasks/slots.py:own --workdir DIR \
        --config.data.source=conll:FILE --config.model.token_classes=80
"""

import pathlib

from ml_collections import ConfigDict

import bigmodel
from bigmodel.data import train_tokenizer

PLACE = "runs/real_tasks/{}/data"
TOKENS, LENGTH = 4000, 44
SCORES = ("span_f1", "span_precision", "span_recall")


def get_config(task: str = "snips-slots") -> ConfigDict:
    config = bigmodel.default_config("encoder", objective="label_tokens", data="labelled_tokens")
    config.seed = 0
    config.steps, config.batch = 1200, 64
    config.model.update(
        vocab=TOKENS,
        layers=2,
        width=128,
        heads=4,
        length=LENGTH,
        token_types=0,
        norm_placement="pre",
        pooler=False,
        masked_head=False,
        token_classes=72,
        dropout=0.2,
        attention_dropout=0.1,
        dtype="float32",
        scan=False,
    )
    config.data.update(length=LENGTH, unfit="cut")
    config.optimizer.update(name="muon", weight_decay=0.1, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=30, floor=0.0)
    config.log.every = 50
    if task == "own":
        config.data.tokenizer = "tokenizer.json"
        config.evals = dict(
            validation=dict(split="validation", every=400, scores=SCORES),
            test=dict(split="test", scores=SCORES),
        )
        return config

    place = PLACE.format(task)
    config.data.update(
        source=f"conll:{place}/train.conll", split="all", tokenizer=f"{place}/tokenizer.json"
    )
    config.evals = {
        name: dict(source=f"conll:{place}/{name}.conll", split="all", every=every, scores=SCORES)
        for name, every in (("validation", 400), ("test", 0))
    }
    return config


def sentences(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """Words on a line of one file and their tags on that of another: now a word a line."""
    for name, folder in (("train", "train"), ("validation", "valid"), ("test", "test")):
        texts, tags = (
            [line.split() for line in (unpacked / "snips" / folder / file).read_text().splitlines()]
            for file in ("seq.in", "seq.out")
        )
        with (into / f"{name}.conll").open("w") as file:
            for words, told in zip(texts, tags, strict=True):
                file.writelines(f"{w} {t}\n" for w, t in zip(words, told, strict=True))
                file.write("\n")
        if name == "train":
            seen, path = [" ".join(words) for words in texts], into / "tokenizer.json"
            train_tokenizer.train(seen, path, algorithm="wordpiece", size=TOKENS)


if __name__ == "__main__":
    import task

    TASKS = {
        "snips-slots": task.Task(
            title="slots (SNIPS)",
            figure="test/span_f1",
            unit="%",
            archives=("snips.tar.xz",),
            prepare=sentences,
            published=(
                task.Published(
                    0.888, "Slot-Gated, from scratch, intent told too", "Goo et al. 2018"
                ),
            ),
            setting="2 layers of width 128, 1,200 steps of 64, Muon; F1 of whole slots",
        ),
    }
    task.main(__file__, TASKS)
