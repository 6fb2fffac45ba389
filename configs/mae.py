r"""MAE, the masked autoencoder: a vision transformer pretrained on images without labels.

    python -m bigmodel train --config configs/mae.py:base --workdir gs://bucket/mae-base
    python -m bigmodel train --config configs/mae.py:tiny --workdir /tmp/mae     # seconds, on CPU

Architectures and recipe: He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"
(arXiv:2111.06377), section 4.1 and tables 1 and 8: three patches of four hidden, a decoder of 8
layers of width 512, AdamW with b2 0.95, batches of 4,096, rate 1.5e-4 for each 256 of them, 800
epochs with 40 of warm-up, random crops and flips alone.

Not as published: crops are those of data/augment.py; kernels start by fan-in, not Xavier's rule;
the encoder's positions start as the published ones and are trained (fixed there), the decoder's are
fixed and no parameter. Parameters: base has 111,806,976, of which 85,798,656 are the encoder's,
which has the names and shapes of configs/vit.py:base with a class token and no head; the published
111,907,840 (facebook/vit-mae-base) count the decoder's positions too (100,864).

Measured: `tiny`, 600 steps in 35 s on two busy CPU cores; squared error of hidden pixels (of -1 to
1) of 179 held-out digits 0.214, where the mean digit has 0.293. Not measured here: time,
utilisation and what fine-tuning gives, of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SIZES: dict[str, dict] = {
    "tiny": dict(
        **dict(image=8, channels=1, patch=2, layers=2, width=64, heads=4),
        **dict(decoder_width=32, decoder_layers=1, decoder_heads=4),
    ),
    "base": dict(patch=16, layers=12, width=768, heads=12),
    "large": dict(patch=16, layers=24, width=1024, heads=16),
    "huge": dict(patch=14, layers=32, width=1280, heads=16),
}

IMAGES = 1_281_167  # of ImageNet-1k


def get_config(size: str = "base") -> ConfigDict:
    config = bigmodel.default_config("masked_autoencoder", objective="masked_image", data="images")
    config.seed = 0
    config.model.update(mask_ratio=0.75, **SIZES[size])
    config.objective.update(normalize=True)
    if size == "tiny":
        return tiny(config)

    config.model.update(decoder_width=512, decoder_layers=8, decoder_heads=16)
    config.batch = 4096
    epoch = IMAGES // config.batch
    config.steps = 800 * epoch
    config.data.update(source="tfds:imagenet2012", size=224, crop=(0.2, 1.0), flip=True)
    config.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.05, clip=0.0)
    config.schedule.update(
        name="warmup_cosine", peak=1.5e-4 * config.batch / 256, warmup=40 * epoch, floor=0.0
    )
    config.model.remat = "none" if size == "base" else "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=5000))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits of 8 x 8 pixels, inside scikit-learn; of 16 patches 6 are seen."""
    config.steps, config.batch = 600, 64
    config.model.update(mask_ratio=0.6, dtype="float32")
    config.data.update(source="digits", size=8, channels=1)
    config.objective.normalize = False  # most patches are of one shade: nothing to normalise by
    config.optimizer.update(name="adamw", b2=0.95, weight_decay=0.05, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=3e-3, warmup=20, floor=0.0)
    config.log.every = 100
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
