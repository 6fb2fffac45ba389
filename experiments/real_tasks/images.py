r"""Classes of small images, by a vision transformer.

    python experiments/real_tasks/images.py fashion-mnist --data DIR

fashion-mnist: 70,000 grey images of 28 x 28 pixels in ten classes (Xiao, Rasul and Vollgraf 2017,
arXiv:1708.07747); the last 5,000 of training validate.

Own images: a folder with train, validation and test in it, each of a folder a class; other sizes
are brought to `data.size`, which is the model's `image`, a multiple of its `patch`:

    python -m bigmodel train --config experiments/real_tasks/images.py --workdir RUN \
        --config.data.source=images:FOLDER --config.model.classes=N \
        --config.data.channels=3 --config.model.channels=3
"""

import lzma
import pathlib

import numpy as np
from ml_collections import ConfigDict

import bigmodel

KINDS = ("images", "labels")
PLACE = "runs/real_tasks/{}/data"
FASHION = "github.com/zalandoresearch/fashion-mnist, README"
VALIDATION = 5_000  # the last ones of training


def get_config(task: str = "fashion-mnist") -> ConfigDict:
    config = bigmodel.default_config("vit", objective="classify", data="images")
    config.model.update(
        image=28,
        channels=1,
        patch=7,
        classes=10,
        pooling="mean",
        width=96,
        layers=4,
        heads=4,
        hidden=192,
        dtype="float32",
    )
    config.data.update(
        source=f"images:{PLACE.format(task)}", size=28, channels=1, crop=(0.8, 1.0), flip=True
    )
    config.batch = 128
    config.steps = 5000
    config.optimizer.update(name="adamw", weight_decay=0.05, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=2e-3, warmup=200, floor=0.0)
    config.log.every = 100
    config.evals = dict(
        validation=dict(split="validation", every=1000, scores=("accuracy",)),
        test=dict(split="test", scores=("accuracy", "f1_macro")),
    )
    return config


def fashion(unpacked: pathlib.Path, into: pathlib.Path) -> None:
    """A PNG file for each image, in a folder of its class, in one of its split."""
    from PIL import Image

    for split in ("train", "test"):
        pixels, labels = (read(unpacked / f"fashion_{split}_{what}.xz") for what in KINDS)
        pixels = pixels.reshape(-1, 28, 28)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            last = split == "train" and index >= len(labels) - VALIDATION
            folder = into / ("validation" if last else split) / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index:05}.png")


def read(path: pathlib.Path) -> np.ndarray:
    return np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)


if __name__ == "__main__":
    import task

    TASKS = {
        "fashion-mnist": task.Task(
            title="ten kinds of clothes (Fashion-MNIST)",
            figure="test/accuracy",
            unit="%",
            archives=tuple(
                f"fashion_{split}_{what}.xz" for split in ("train", "test") for what in KINDS
            ),
            prepare=fashion,
            published=(
                task.Published(0.876, "two convolutions, the least of those told", FASHION),
                task.Published(0.925, "two convolutions, the most of those told", FASHION),
                task.Published(0.949, "ResNet18", FASHION),
            ),
            setting="16 patches of 7 x 7 pixels, 4 layers of width 96, 5,000 steps of 128 (11.6 "
            "passes over 55,000; the last 5,000 of training are held out), crops and mirror images",
        ),
    }
    task.main(__file__, TASKS)
