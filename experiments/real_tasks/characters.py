r"""Characters: Shakespeare's plays, and names. A decoder that tells the next one.

    python experiments/real_tasks/characters.py shakespeare --data DIR
    python experiments/real_tasks/characters.py names --data DIR

shakespeare: Karpathy's nanoGPT at its setting for a CPU: 4 layers of width 128, 64 characters a
row, 12 rows a step, 2,000 steps, no dropout; the last tenth of the text is for validation.
names: Karpathy's makemore: its transformer of 200K parameters, 4 layers of width 64, a name a row.

A character is a token: both data sets hold ASCII only, so that bytes are characters. The loss is
that of the whole validation split; theirs is a mean over random batches of it.
"""

import json
import pathlib
import random

from ml_collections import ConfigDict

import bigmodel

PLACE = "runs/real_tasks/{}/data"
NANOGPT = "github.com/karpathy/nanoGPT, README"
MAKEMORE = "github.com/karpathy/makemore, README"


def get_config(task: str = "shakespeare") -> ConfigDict:
    config = bigmodel.default_config("decoder", objective="next_token")
    config.seed = 1337
    config.model.update(
        vocab=257,
        norm="layer",
        position="learned",
        feedforward="gelu",
        bias=False,
        tied=True,
        dtype="float32",
        scan=False,
    )
    place = PLACE.format(task)
    config.data.update(
        source=f"jsonl:{place}/train.jsonl", split="all", tokenizer="bytes", deduplicate=False
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.99, weight_decay=0.1, clip=1.0)
    config.evals = dict(
        validation=dict(source=f"jsonl:{place}/validation.jsonl", split="all", every=500)
    )
    config.log.every = 100
    return {"shakespeare": shakespeare, "names": names}[task](config)


def shakespeare(config: ConfigDict) -> ConfigDict:
    config.steps, config.batch = 2000, 12
    config.model.update(layers=4, width=128, heads=4, hidden=512, dropout=0.0)
    config.data.length = 64
    config.schedule.update(name="warmup_cosine", peak=1e-3, warmup=100, floor=1e-4)
    return config


def names(config: ConfigDict) -> ConfigDict:
    config.steps, config.batch = 6000, 64
    config.model.update(layers=4, width=64, heads=4, hidden=256, dropout=0.1)
    config.data.update(length=16, packing="none")
    config.optimizer.update(name="muon", b1=None)
    config.schedule.update(name="warmup_cosine", peak=1e-2, warmup=100, floor=0.0)
    return config


def plays(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """One document for each side: the last tenth is held out."""
    text = (unpacked / "tinyshakespeare" / "input.txt").read_text()
    cut = int(len(text) * 0.9)
    write(into / "train.jsonl", [text[:cut]])
    write(into / "validation.jsonl", [text[cut:]])


def people(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """A document is a name; a thousand at random are held out, as there."""
    found = (unpacked / "names" / "names.txt").read_text().split()
    random.Random(3407).shuffle(found)
    write(into / "train.jsonl", found[1000:])
    write(into / "validation.jsonl", found[:1000])


def write(path: pathlib.Path, documents: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))


if __name__ == "__main__":
    import task

    TASKS = {
        "shakespeare": task.Task(
            title="characters of Shakespeare's plays",
            figure="validation/loss",
            unit="nats a character",
            archives=("tinyshakespeare.tar.xz",),
            prepare=plays,
            published=(
                task.Published(1.88, "the same setting, a mean over random batches", NANOGPT),
                task.Published(1.4697, "10.7M parameters, 55 times the characters, GPU", NANOGPT),
            ),
            setting="4 layers of width 128, 2,000 steps of 12 rows of 64, AdamW; all of the split",
        ),
        "names": task.Task(
            title="characters of names",
            figure="validation/loss",
            unit="nats a character",
            archives=("names.tar.xz",),
            prepare=people,
            published=(task.Published(1.92, "transformer of 200K parameters", MAKEMORE),),
            setting="4 layers of width 64, dropout 0.1, 6,000 steps of 64 names; Muon, not AdamW",
        ),
    }
    task.main(__file__, TASKS)
