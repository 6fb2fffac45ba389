"""ViT, CLIP and SigLIP: models that read images."""

from typing import Any

from bigmodel.convert.architecture import NO_NAME, Architecture, Fields
from bigmodel.convert.fields import Foreign, classes, named
from bigmodel.convert.rows import BIAS, LINEAR, OUT, Row, dense, led, norm, patches

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# (of ours, of theirs, form) in a layer of ViT, and in one of CLIP and SigLIP
OF_VIT = (
    ("attention/query", "attention.attention.query", LINEAR),
    ("attention/key", "attention.attention.key", LINEAR),
    ("attention/value", "attention.attention.value", LINEAR),
    ("attention/out", "attention.output.dense", OUT),
    ("feedforward/up", "intermediate.dense", LINEAR),
    ("feedforward/down", "output.dense", LINEAR),
)
OF_TOWERS = (
    ("attention/query", "self_attn.q_proj", LINEAR),
    ("attention/key", "self_attn.k_proj", LINEAR),
    ("attention/value", "self_attn.v_proj", LINEAR),
    ("attention/out", "self_attn.out_proj", OUT),
    ("feedforward/up", "mlp.fc1", LINEAR),
    ("feedforward/down", "mlp.fc2", LINEAR),
)


def vit_rows(fields: Fields) -> list[Row]:
    """The table of names of ViT."""
    own, layer = "vit.embeddings.", "vit.encoder.layer.{layer}."
    found = [
        Row("class_token", f"{own}cls_token", led(2)),
        Row("positions", f"{own}position_embeddings", led(1)),
        *dense("patches/product", f"{own}patch_embeddings.projection", patches(fields["channels"])),
    ]
    for ours, theirs, form in OF_VIT:
        found += dense(f"layers/{ours}", layer + theirs, form)
    found += norm("layers/attention_norm", f"{layer}layernorm_before")
    found += norm("layers/feedforward_norm", f"{layer}layernorm_after")
    found += norm("final_norm", "vit.layernorm")
    return found + (dense("head", "classifier") if fields["classes"] else [])


def vit(theirs: Foreign, **more: Any) -> dict[str, Any]:
    theirs.skip("attention_probs_dropout_prob", "hidden_dropout_prob", "encoder_stride")
    theirs.skip("pooler_act", "pooler_output_size")
    theirs.must("qkv_bias", [True], True)
    return {
        **pixels(theirs),
        **sizes(theirs),
        "pooling": "class",
        "norm_epsilon": theirs.take("layer_norm_eps", 1e-12),
        "feedforward": ACTIVATIONS[theirs.must("hidden_act", ACTIVATIONS, "gelu")],
        **more,
    }


def vit_config(fields: Fields) -> dict[str, Any]:
    own = {"num_labels": fields["classes"]} if fields["classes"] else {}
    return own | {
        **pixels_config(fields),
        **sizes_config(fields),
        "layer_norm_eps": fields["norm_epsilon"],
        "hidden_act": named(ACTIVATIONS, fields["feedforward"]),
        "qkv_bias": True,
    }


def pixels(theirs: Foreign) -> dict[str, Any]:
    return {
        "image": theirs.take("image_size", 224),
        "patch": theirs.take("patch_size", 16),
        "channels": theirs.take("num_channels", 3),
    }


def pixels_config(fields: Fields) -> dict[str, Any]:
    return {
        "image_size": fields["image"],
        "patch_size": fields["patch"],
        "num_channels": fields["channels"],
    }


SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
}


def sizes(theirs: Foreign, prefix: str = "") -> dict[str, Any]:
    """Of a tower, whose fields begin with a prefix."""
    return {prefix + ours: theirs.take(name) for ours, name in SIZES.items()}


def sizes_config(fields: Fields, prefix: str = "") -> dict[str, Any]:
    found = {name: fields[prefix + ours] for ours, name in SIZES.items()}
    found["intermediate_size"] = found["intermediate_size"] or 4 * found["hidden_size"]
    return found


def tower_rows(fields: Fields) -> list[Row]:
    """The table of names of CLIP and SigLIP."""
    own, text = "vision_model.", "text_model."
    form = patches(fields["channels"])
    found = [
        Row("positions", f"{own}embeddings.position_embedding.weight"),
        *dense(
            "patches/product", f"{own}embeddings.patch_embedding", form, bias=fields["patch_bias"]
        ),
        *norm("image_norm", f"{own}post_layernorm"),
        Row("tokens/table", f"{text}embeddings.token_embedding.weight"),
        Row("text_positions", f"{text}embeddings.position_embedding.weight"),
        *norm("text_norm", f"{text}final_layer_norm"),
    ]
    for side in ("image", "text"):
        stack = f"{own if side == 'image' else text}encoder.layers.{{layer}}."
        for ours, theirs, form in OF_TOWERS:
            found += dense(f"{side}_layers/{ours}", stack + theirs, form)
        found += norm(f"{side}_layers/attention_norm", f"{stack}layer_norm1")
        found += norm(f"{side}_layers/feedforward_norm", f"{stack}layer_norm2")
    if fields["first_norm"]:
        found += norm("first_norm", f"{own}pre_layrnorm")  # so it is written there
    if fields["pooling"] == "class":
        found.append(Row("class_token", f"{own}embeddings.class_embedding"))
    if fields["projections"] == "both":
        found += dense("image_projection", "visual_projection", bias=False)
        found += dense("text_projection", "text_projection", bias=False)
        return [*found, Row("logit_scale", "logit_scale")]
    found += [Row(name, name, led(1)) for name in ("logit_scale", "logit_bias")]
    return found + dense("text_projection", f"{text}head") + pooling_rows(f"{own}head.")


def pooling_rows(theirs: str) -> list[Row]:
    """Of attention pooling; torch keeps its three products in one."""
    found = [Row("pooling/query", f"{theirs}probe", led(1))]
    for n, name in enumerate(("query", "key", "value")):
        ours, whole = f"pooling/attention/{name}", f"{theirs}attention.in_proj_"
        found.append(Row(f"{ours}/kernel", f"{whole}weight", LINEAR, (n, 3)))
        found.append(Row(f"{ours}/bias", f"{whole}bias", BIAS, (n, 3)))
    found += dense("pooling/attention/out", f"{theirs}attention.out_proj", OUT)
    found += norm("pooling/norm", f"{theirs}layernorm")
    for ours, name in (("up", "fc1"), ("down", "fc2")):
        found += dense(f"pooling/feedforward/{ours}", f"{theirs}mlp.{name}")
    return found


BASE = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)


def towers(
    theirs: Foreign, act: str, epsilon: float, usual_image: Fields, usual_text: Fields
) -> tuple[dict[str, Any], Foreign, Foreign]:
    """What CLIP and SigLIP say alike, and their sections; what these leave out is as usual."""
    theirs.skip("text_config_dict", "vision_config_dict", "logit_scale_init_value")
    image = theirs.section("vision_config", {**BASE, **usual_image})
    text = theirs.section("text_config", {**BASE, **usual_text})
    found = pixels(image) | sizes(image) | sizes(text, "text_")
    found |= {
        "vocab": text.take("vocab_size"),
        "text_length": text.take("max_position_embeddings"),
        "feedforward": ACTIVATIONS[image.must("hidden_act", ACTIVATIONS, act)],
        "norm_epsilon": image.take("layer_norm_eps", epsilon),
    }
    text.must("hidden_act", [image.take("hidden_act", act)], act)
    text.must("layer_norm_eps", [found["norm_epsilon"]], epsilon)
    for section in (image, text):
        section.skip("attention_dropout", "dropout", "tie_word_embeddings")  # without a head
    return found, image, text


def towers_config(fields: Fields, kind: str) -> dict[str, Any]:
    """And back."""
    alike = {
        "hidden_act": named(ACTIVATIONS, fields["feedforward"]),
        "layer_norm_eps": fields["norm_epsilon"],
    }
    image = alike | pixels_config(fields) | sizes_config(fields)
    text = alike | sizes_config(fields, "text_")
    text |= {"vocab_size": fields["vocab"], "max_position_embeddings": fields["text_length"]}
    return {
        "vision_config": image | {"model_type": f"{kind}_vision_model"},
        "text_config": text | {"model_type": f"{kind}_text_model"},
    }


def clip(theirs: Foreign) -> dict[str, Any]:
    small = dict(hidden_size=512, num_attention_heads=8, intermediate_size=2048)
    words = dict(vocab_size=49_408, max_position_embeddings=77)
    found, image, text = towers(theirs, "quick_gelu", 1e-5, dict(patch_size=32), small | words)
    for section in (image, text):
        section.skip("projection_dim")  # that of the whole counts
        section.finish()
    return found | {"joint": theirs.take("projection_dim", 512)}


def clip_config(fields: Fields) -> dict[str, Any]:
    return towers_config(fields, "clip") | {"projection_dim": fields["joint"]}


SIGLIP: dict[str, Any] = dict(patch_bias=True, first_norm=False, pooling="attention")
SIGLIP |= dict(text_causal=False, text_pooling="last", projections="text", logit_scale=10.0)
SIGLIP |= dict(logit_bias=-10.0, logit_scale_max=0.0)


def siglip(theirs: Foreign) -> dict[str, Any]:
    words = dict(vocab_size=32_000, max_position_embeddings=64)
    found, image, text = towers(theirs, "gelu_pytorch_tanh", 1e-6, {}, words)
    image.must("vision_use_head", [True], True)
    text.must("projection_size", [found["width"]], found["width"])
    for section in (image, text):
        section.finish()
    return found | SIGLIP | {"joint": found["width"]}


def siglip_config(fields: Fields) -> dict[str, Any]:
    found = towers_config(fields, "siglip")
    found["text_config"]["projection_size"] = fields["joint"]
    return found


def of_images(fields: Fields) -> dict[str, Any]:
    """The fields of the data that must fit a model of images."""
    texts = {"text_length": fields["text_length"]} if "text_length" in fields else {}
    return {"size": fields["image"], "channels": fields["channels"], **texts}


def classifier(make: Any, *, bare: bool = False) -> Architecture:
    return Architecture(
        *("vit", "vit", make, vit_config, vit_rows, "classify", "images", of_images),
        prefix="vit.",
        bare=bare,
        unread=NO_NAME,
        dropped=r"(^|\.)pooler\.dense\.",
    )


def two_towers(kind: str, fields: Any, config: Any, objective: str) -> Architecture:
    return Architecture(
        *(kind, "two_towers", fields, config, tower_rows, objective, "image_text", of_images),
        unread=r"position_ids$",
    )


ARCHITECTURES = {
    "ViTForImageClassification": classifier(lambda t: vit(t, classes=classes(t))),
    "ViTModel": classifier(lambda t: vit(t, classes=0), bare=True),
    "CLIPModel": two_towers("clip", clip, clip_config, "contrastive"),
    "SiglipModel": two_towers("siglip", siglip, siglip_config, "sigmoid_contrastive"),
}
