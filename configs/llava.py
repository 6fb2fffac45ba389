r"""LLaVA 1.5: CLIP's patches through two products into Vicuna, for instructions about images.

    python -m bigmodel train --config configs/llava.py:1.5-7b \
        --workdir gs://bucket/llava --config.data.source=jsonl:/data/instructions.jsonl
    python -m bigmodel train --config configs/llava.py:tiny --workdir /tmp/llava     # on CPU

Liu et al. 2023 (arXiv:2304.08485; 1.5: arXiv:2310.03744), and the config.json of
llava-hf/llava-1.5-7b-hf and -13b-hf. Of CLIP ViT-L/14 at 336 pixels the layer before the last is
read, so 23 layers are here and no norm after them: 12,598,272 parameters of the published files do
nothing. All is causal, and only answers count in the loss. Rate, batch and steps are those of the
second stage of 1.5: an epoch of 665 thousand rows.

Not as published: an image is cut to the square in its middle, where theirs is padded to a square; a
row has one turn of a conversation; the image tower trains too (theirs stands still), and
everything begins from nothing, where theirs began from CLIP's and Vicuna's weights.

Measured: `tiny`, 300 steps of 32 in 60 s on two busy CPU cores, the compiler's time with it: of 64
held-out digits it names 64 % when it takes the likeliest text.
Not measured here: time, utilisation and scores of all other sizes.
"""

from ml_collections import ConfigDict

import bigmodel

CLIP_L = dict(image=336, patch=14, image_width=1024, image_layers=23, image_heads=16)
TINY: dict = dict(vocab=264, width=64, layers=2, heads=4, hidden=128, length=96)
TINY |= dict(image=8, channels=1, patch=2, image_width=48, image_layers=2, image_heads=4)

SIZES: dict[str, dict] = {
    "tiny": TINY,
    "1.5-7b": CLIP_L
    | dict(vocab=32_064, width=4096, layers=32, heads=32, hidden=11_008, length=4096),
    "1.5-13b": CLIP_L
    | dict(vocab=32_064, width=5120, layers=40, heads=40, hidden=13_824, length=4096),
}


def get_config(size: str = "1.5-7b") -> ConfigDict:
    config = bigmodel.default_config(
        "vision_language", objective="next_token", data="prompted_images"
    )
    config.seed = 0
    config.model.update(
        connector="mlp",
        patch_bias=False,
        image_hidden=0,
        image_feedforward="quick_gelu",
        image_norm_epsilon=1e-5,
        class_token=True,
        first_norm=True,
        last_norm=False,
        norm="rms",
        norm_epsilon=1e-5,
        position="rope",
        feedforward="swiglu",
        bias=False,
        tied=False,
    )
    config.model.update(SIZES[size])
    config.data.update(template="USER: {image}\n{prompt} ASSISTANT:", prefix=False)
    if size == "tiny":
        return tiny(config)

    config.batch, config.steps = 128, 5197
    config.data.update(
        source="jsonl:instructions.jsonl",  # {"image": path beside it, "prompt": ..., "text": ...}
        tokenizer="llava/tokenizer.json",  # of huggingface.co/llava-hf/llava-1.5-7b-hf
        patches=576,
        length=2048,
        size=336,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        too_long="cut",
    )
    config.optimizer.update(name="adamw", b1=0.9, b2=0.999, weight_decay=0.0, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=2e-5, warmup=156, floor=0.0)
    config.model.remat = "full"
    config.mesh.update(fsdp=-1)
    config.evals = dict(validation=dict(split="validation", every=1000, batches=20))
    return config


def tiny(config: ConfigDict) -> ConfigDict:
    """Digits of 8 x 8 pixels, inside scikit-learn, and their numbers in words."""
    config.steps, config.batch = 300, 32
    config.model.dtype = "float32"
    config.data.update(source="digits", prompt="Which digit is it?", length=96)
    config.data.update(size=8, channels=1, patches=16)
    config.optimizer.update(name="adamw", weight_decay=0.01, clip=1.0)
    config.schedule.update(name="warmup_cosine", peak=3e-3, warmup=20, floor=0.0)
    config.log.every = 50
    config.evals = dict(validation=dict(split="validation", every=0))
    return config
