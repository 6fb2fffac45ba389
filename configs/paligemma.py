r"""PaliGemma: SigLIP's patches before the text of Gemma 2B, of which image and prompt are a prefix.

    python -m bigmodel train --config configs/paligemma.py:3b-224 \
        --workdir gs://bucket/paligemma --config.data.source=jsonl:/data/pairs.jsonl
    python -m bigmodel train --config configs/paligemma.py:tiny --workdir /tmp/paligemma  # on CPU
    python -m bigmodel generate --workdir /tmp/paligemma --input image=digit.png --prompt ""

Beyer et al. 2024 (arXiv:2407.07726), section 3.1; sizes of google/paligemma-3b-pt-224, -448, -896.
The image tower is SigLIP So400m/14 without its pooling (Alabdulmohsin et al. 2023,
arXiv:2305.13035), the decoder Gemma 2B (Gemma Team 2024, arXiv:2403.08295), its vocabulary with
1,024 places and 128 segments more.

All weights train, as in its pretraining and its transfers. Not as published: pretraining data
(WebLI) is not public; rate, decay, batch and steps are chosen here; and as weights from elsewhere
are not read yet, from nothing this is a model of that shape alone.

Measured: `tiny`, 600 steps of 32 in 65 s on two busy CPU cores, the compiler's time with it: of 64
held-out digits it names 80 % when it takes the likeliest text, and by 300 steps 34 %.
Not measured here: time, utilisation and scores of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

SO400M = dict(
    image_width=1152,
    image_layers=27,
    image_heads=16,
    image_hidden=4304,
)
GEMMA_2B = dict(
    vocab=257_216,
    width=2048,
    layers=18,
    heads=8,
    kv_heads=1,
    head_dim=256,
    hidden=16_384,
    length=8192,
)
TINY: dict = dict(vocab=264, width=64, layers=2, heads=4, kv_heads=2, hidden=128, length=64)
TINY |= dict(image=8, channels=1, patch=2, image_width=48, image_layers=2, image_heads=4)

SIZES: dict[str, dict] = {
    "tiny": TINY | dict(image_hidden=96),
    "3b-224": GEMMA_2B | SO400M | dict(image=224),
    "3b-448": GEMMA_2B | SO400M | dict(image=448),
    "3b-896": GEMMA_2B | SO400M | dict(image=896),
}


def get_config(size: str = "3b-224") -> ConfigDict:
    config = bigmodel.default_config(
        "vision_language", objective="next_token", data="prompted_images"
    )
    config.seed = 0
    config.model.update(
        connector="linear",
        patch=14,
        norm="rms",
        norm_epsilon=1e-6,
        norm_offset=1.0,
        position="rope",
        feedforward="geglu",
        bias=False,
        embed_scale=True,
        tied=True,
    )
    config.model.update(SIZES[size])
    if size == "tiny":
        return tiny(config)

    patches = (config.model.image // config.model.patch) ** 2
    config.batch, config.steps = 256, 22_000
    config.data.update(
        source="jsonl:pairs.jsonl",  # {"image": path beside it, "prompt": ..., "text": ...}
        tokenizer="paligemma/tokenizer.json",  # of google/paligemma-3b-pt-224 (gated)
        template="{image}{bos}{prompt}\n",
        prompt="caption en",
        prefix=True,
        patches=patches,
        length=patches + 128,
        size=config.model.image,
        too_long="cut",
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.999, weight_decay=1e-6, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=1e-5, warmup=1100, floor=0.0)
    config.model.remat = "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=1000, batches=20))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits of 8 x 8 pixels, inside scikit-learn, and their numbers in words."""
    config.steps, config.batch = 600, 32
    config.model.dtype = "float32"
    config.data.update(source="digits", size=8, channels=1, patches=16, length=64)
    config.optimizer.update(name="adamw", weight_decay=0.01, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=3e-3, warmup=20, floor=0.0)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
