r"""Images found by their names, and names by their images: two towers, by a contrastive loss.

    python experiments/real_tasks/retrieval.py emoji --data DIR

emoji: 1,405 images of 32 x 32 pixels with their Unicode names. Nobody has published a number; of
N pairs chance finds one in N. Many of the test's words stand in no name of training.

Own pairs: a .jsonl of lines {"image": path beside it, "text": text}, of which 98, 1 and 1 per cent
are the splits:

    python -m bigmodel train --config experiments/real_tasks/retrieval.py --workdir RUN \
        --config.data.source=jsonl:FILE --config.data.split=train \
        --config.evals.validation.source=jsonl:FILE --config.evals.validation.split=validation \
        --config.evals.test.source=jsonl:FILE --config.evals.test.split=test
"""

import hashlib
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

import bigmodel

PLACE = "runs/real_tasks/{}/data"


def get_config(task: str = "emoji") -> ConfigDict:
    config = bigmodel.default_config("two_towers", objective="contrastive", data="image_text")
    place = PLACE.format(task)
    config.model.update(
        image=32,
        channels=3,
        patch=8,
        pooling="mean",
        width=64,
        layers=3,
        heads=4,
        hidden=128,
        vocab=257,
        text_length=48,
        text_width=64,
        text_layers=2,
        text_heads=4,
        text_hidden=128,
        joint=64,
        dropout=0.1,
        dtype="float32",
    )
    config.data.update(
        source=f"jsonl:{place}/train.jsonl",
        split="all",
        tokenizer="bytes",
        text_length=48,
        too_long="cut",
        size=32,
        crop=(0.6, 1.0),
        flip=True,
    )
    config.batch = 128
    config.steps = 500
    config.optimizer.update(name="adamw", b1=0.9, b2=0.98, weight_decay=0.2, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=2e-3, warmup=50, floor=0.0)
    config.log.every = 50
    scores = ("recall_at_1", "recall_at_5", "recall_at_10")
    config.evals = {
        split: dict(source=f"jsonl:{place}/{split}.jsonl", split="all", every=every, scores=scores)
        for split, every in {"validation": 200, "test": 0}.items()
    }
    return config


def emoji(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """A PNG file for each emoji of one code point, and lists of them with their names.

    Those of several code points (tones of skin, hair, flags) have the words and most of the pixels
    of others, and would tell the answer.
    """
    from PIL import Image

    found = np.load(unpacked / "emoji32.npz")
    lines: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for index in np.flatnonzero(found["single"]):
        name = str(found["names"][index])
        Image.fromarray(found["images"][index]).save(into / f"{index}.png")
        lines[split_of(name)].append(json.dumps({"image": f"{index}.png", "text": name}))
    for split, of_split in lines.items():
        (into / f"{split}.jsonl").write_text("\n".join(of_split) + "\n")


def split_of(name: str) -> str:
    """Two in ten are the test, one in ten validates."""
    tenth = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return "test" if tenth < 2 else "validation" if tenth == 2 else "train"


if __name__ == "__main__":
    import task

    TASKS = {
        "emoji": task.Task(
            title="an emoji's name among those of 264, by its image",
            figure="test/image_to_text_recall_1",
            unit="%",
            archives=("emoji32.npz",),
            prepare=emoji,
            published=(task.Published(1 / 264, "chance", "one of 264"),),
            setting="contrastive loss, towers of 3 and 2 layers of width 64, texts as bytes, 500 "
            "steps of 128 of 1,004 pairs; emoji of one code point alone; the test is two in ten by "
            "a hash of their names",
        ),
    }
    task.main(__file__, TASKS)
