r"""The vision transformer on labelled images.

    python -m bigmodel train --config configs/vit.py:base --workdir gs://bucket/vit-base
    python -m bigmodel train --config configs/vit.py:tiny --workdir /tmp/vit     # seconds, on CPU

Architectures: Dosovitskiy et al. 2021 (arXiv:2010.11929), table 1, patches of 16 pixels (huge: 14).
Recipe: Beyer, Zhai and Kolesnikov 2022, "Better plain ViT baselines for ImageNet-1k"
(arXiv:2205.01580): mean pooling, RandAugment of 2 operations at magnitude 10, mixup 0.2, batches of
1,024, 90 epochs, weight decay 1e-4.

Not as published: positions are learned (theirs are fixed sines and cosines), and RandAugment's
ranges are those of data/augment.py.

Measured: `tiny`, 200 steps in 12 s on two busy CPU cores, 81.6 % of 179 held-out digits right. Not
measured here: time, utilisation and accuracy of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(image=8, channels=1, patch=2, classes=10, layers=2, width=64, heads=4),
    "small": dict(patch=16, layers=12, width=384, heads=6),
    "base": dict(patch=16, layers=12, width=768, heads=12),
    "large": dict(patch=16, layers=24, width=1024, heads=16),
    "huge": dict(patch=14, layers=32, width=1280, heads=16),
}

IMAGES = 1_281_167  # of ImageNet-1k


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("vit", objective="classify", data="images")
    config.seed = 0
    config.model.update(**SIZES[size])
    if size == "tiny":
        return tiny(config)

    config.model.pooling = "mean"
    config.batch = 1024
    config.steps = 90 * IMAGES // config.batch
    config.data.update(
        source="tfds:imagenet2012",
        size=224,
        crop=(0.05, 1.0),
        flip=True,
        randaugment=(2, 10),
        mixup=0.2,
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.999, weight_decay=1e-4, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=1e-3, warmup=10_000, floor=0.0)
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=5000))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits of 8 x 8 pixels, inside scikit-learn."""
    config.steps, config.batch = 200, 64
    config.model.dtype = "float32"
    config.data.update(source="digits", size=8, channels=1)
    config.optimizer.update(name="adamw", weight_decay=0.01, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=3e-3, warmup=20, floor=0.0)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
