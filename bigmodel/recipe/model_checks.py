"""Fields of a model held against each other and against the length of its rows."""

from collections.abc import Mapping
from typing import Any

from bigmodel import config
from bigmodel.data import kinds
from bigmodel.layers import feedforward, positions, stack
from bigmodel.recipe.checks import at_least, divisors
from bigmodel.sharding import kernels

COUNTS = (
    *("vocab", "width", "layers", "heads", "length", "image", "channels", "patch"),
    *("text_width", "text_layers", "text_heads", "text_length", "joint", "mels"),
    *("image_width", "image_layers", "image_heads"),
)
SIZES = (
    *("kv_heads", "head_dim", "hidden", "window", "rope_original_length", "init_std"),
    *("norm_epsilon", "rope_local_theta", "attention_softcap", "logit_softcap"),
    *("kv_rank", "query_rank", "rope_dim", "experts", "expert_hidden", "shared_experts"),
    *("dense_layers", "expert_groups", "expert_groups_per_token", "expert_capacity"),
)


def model(name: str, fields: Mapping[str, Any], *, length: int) -> None:
    """Checks the fields of a family's model; what only it knows, its own `make` refuses.

    Args:
        name: of the family.
        fields: the model's.
        length: tokens of a row.
    """
    for field in COUNTS:
        at_least(1, f"model.{field}", fields.get(field, 1))
    for field in SIZES:
        at_least(0, f"model.{field}", fields.get(field, 0))
    if "heads" in fields:
        heads(fields)
    learned = fields.get("position", "learned") == "learned"
    if learned and length > fields.get("length", length):
        raise config.InputError(
            f"data.length = {length} is longer than model.length = {fields['length']}, the number "
            f"of learned positions; allowed are 1 to {fields['length']}."
        )
    for field in ("dropout", "attention_dropout"):
        if not 0 <= fields.get(field, 0.0) < 1:
            raise config.InputError(f"model.{field} = {fields[field]}: a rate is in [0, 1).")
    if fields.get("attention_dropout") and fields["attention"] in kernels.PLATFORMS:
        raise config.InputError(
            f"model.attention_dropout = {fields['attention_dropout']}: the kernel "
            f"{fields['attention']!r} cannot drop probabilities; model.attention allowed are "
            f"{', '.join(kernels.PLAIN)}."
        )
    for field in ("remat_save", "remat_offload"):
        for activation in fields.get(field, ()):
            config.known(f"model.{field}", activation, stack.ACTIVATIONS)
    if name in ("decoder", "vision_language"):
        decoder(fields)


def rows(fields: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """What the data says of its rows must be what the model takes."""
    for check in (images, sounds, texts, prompts):
        check(fields, data)


def images(fields: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The data's images must be as the model wants them."""
    for field, of_data in (("image", "size"), ("channels", "channels")):
        if field in fields and of_data in data and fields[field] != data[of_data]:
            raise config.InputError(
                f"data.{of_data} = {data[of_data]}: the model takes images of model.{field} = "
                f"{fields[field]}; the two must be equal."
            )


def sounds(fields: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The data's sounds must be as the model wants them."""
    for field in ("frames", "mels"):
        if field in fields and field in data and fields[field] != data[field]:
            raise config.InputError(
                f"data.{field} = {data[field]}: the model takes sounds of model.{field} = "
                f"{fields[field]}; the two must be equal."
            )


def prompts(fields: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """A model that is shown images in a text must find them in the data's rows."""
    shown = "connector" in fields
    if data["kind"] in kinds.KINDS and shown != (data["kind"] == "prompted_images"):
        law = "is shown images in a text" if shown else "is not shown the images of a text"
        raise config.InputError(
            f"data.kind = {data['kind']!r}: the model {law}; the family 'vision_language' goes "
            "with the kind 'prompted_images', and no other with either."
        )
    if not shown or "patches" not in data or fields["image"] % fields["patch"]:
        return
    P = (fields["image"] // fields["patch"]) ** 2
    if data["patches"] != P:
        raise config.InputError(
            f"data.patches = {data['patches']}: the model makes {P} of an image, (model.image / "
            f"model.patch)^2 = ({fields['image']} / {fields['patch']})^2; the two must be equal."
        )


def texts(fields: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The data's texts must not be longer than the model's table of their positions."""
    if "text_length" in fields and data.get("text_length", 0) > fields["text_length"]:
        raise config.InputError(
            f"data.text_length = {data['text_length']} is longer than model.text_length = "
            f"{fields['text_length']}, the number of learned positions; allowed are 2 to "
            f"{fields['text_length']}."
        )


def heads(fields: Mapping[str, Any]) -> None:
    """Checks that heads come apart evenly."""
    width, H = fields["width"], fields["heads"]
    K, C = fields.get("kv_heads") or H, fields.get("head_dim")
    if not C and width % H:
        raise config.InputError(
            f"model.heads = {H} does not divide model.width = {width}; allowed are "
            f"{divisors(width)}" + (", or set model.head_dim." if "head_dim" in fields else ".")
        )
    if H % K:
        raise config.InputError(
            f"model.kv_heads = {K} does not divide model.heads = {H}; allowed are {divisors(H)}."
        )
    if fields.get("position") == "rope" and (C or width // H) % 2:
        raise config.InputError(
            f"model.head_dim = {C or width // H}: rotary positions turn pairs, so it must be even."
        )


def decoder(fields: Mapping[str, Any]) -> None:
    """Checks what only a decoder has."""
    for name in ("rope_theta", "rope_factor"):
        if not fields[name] > 0:
            raise config.InputError(f"model.{name} = {fields[name]}: must be above 0.")
    rotary(fields)
    for kind in fields["pattern"] or ("",):
        config.known("model.pattern", kind, ("global", "local"))
    if "local" in fields["pattern"] and fields["window"] < 1:
        raise config.InputError(
            f"model.window = {fields['window']}: local layers (model.pattern) need at least 1."
        )
    latent(fields)
    experts(fields)


def rotary(fields: Mapping[str, Any]) -> None:
    """Checks how wavelengths are stretched."""
    config.known("model.rope_scaling", fields["rope_scaling"], ("", *positions.SCALINGS))
    stretch = positions.Rotary(
        original_length=fields["rope_original_length"], scaling=fields["rope_scaling"]
    )
    of_parts = stretch.kind in ("llama3", "yarn")
    if of_parts != bool(fields["rope_original_length"]):
        raise config.InputError(
            f"model.rope_scaling = {fields['rope_scaling']!r}, model.rope_original_length = "
            f"{fields['rope_original_length']}: 'llama3' and 'yarn' need the length that was "
            "pretrained at, and 'linear' and 'ntk' read none."
        )
    if of_parts and not 0 < fields["rope_low"] < fields["rope_high"]:
        raise config.InputError(
            f"model.rope_low = {fields['rope_low']}, model.rope_high = {fields['rope_high']}: must "
            "be above 0, and the first below the second."
        )


def latent(fields: Mapping[str, Any]) -> None:
    """Checks the fields of latent attention against each other."""
    if not fields["kv_rank"]:
        return
    for name in ("query_rank", "rope_dim", "head_dim"):
        if fields[name] < 1:
            raise config.InputError(
                f"model.{name} = {fields[name]}: latent attention (model.kv_rank = "
                f"{fields['kv_rank']}) needs at least 1."
            )
    wanted = {"position": "rope", "qk_norm": "none", "attention_softcap": 0.0, "kv_heads": 0}
    for name, value in wanted.items():
        if fields[name] != value:
            raise config.InputError(
                f"model.{name} = {fields[name]!r}: with latent attention (model.kv_rank = "
                f"{fields['kv_rank']}) allowed is only {value!r}."
            )
    if fields["rope_dim"] % 2 or fields["attention_dropout"]:
        raise config.InputError(
            f"model.rope_dim = {fields['rope_dim']}, model.attention_dropout = "
            f"{fields['attention_dropout']}: latent attention turns pairs and drops no "
            f"probabilities; allowed are even numbers, and 0."
        )


def experts(fields: Mapping[str, Any]) -> None:
    """Checks the fields of a mixture of experts against each other."""
    E, k = fields["experts"], fields["experts_per_token"]
    if not E:
        return
    if not 1 <= k <= E:
        raise config.InputError(
            f"model.experts_per_token = {k}: allowed are 1 to model.experts = {E}."
        )
    if fields["feedforward"] not in feedforward.GATES:
        raise config.InputError(
            f"model.feedforward = {fields['feedforward']!r}: experts (model.experts = {E}) are "
            f"gated; allowed are {', '.join(feedforward.GATES)}."
        )
    if not 0 <= fields["dense_layers"] < fields["layers"]:
        raise config.InputError(
            f"model.dense_layers = {fields['dense_layers']}: allowed are 0 to "
            f"{fields['layers'] - 1}, fewer than model.layers."
        )
    groups, chosen = fields["expert_groups"], fields["expert_groups_per_token"]
    if groups and E % groups:
        raise config.InputError(
            f"model.expert_groups = {groups} does not divide model.experts = {E}; allowed are "
            f"{divisors(E)}."
        )
    if (groups and not 1 <= chosen <= groups) or (groups and chosen * (E // groups) < k):
        raise config.InputError(
            f"model.expert_groups_per_token = {chosen}: of {groups} groups of {E // groups} "
            f"experts so many must hold the {k} of a token; allowed are "
            f"{-(-k // (E // groups))} to {groups}."
        )


def pipeline(fields: Mapping[str, Any], *, stages: int, microbatches: int, repeats: int) -> None:
    """Layers must come apart evenly over the stages, in whole patterns, and have work for all."""
    dense = fields["dense_layers"] if fields.get("experts") else 0
    layers = fields["layers"] - dense
    runs, period = stages * repeats, len(fields.get("pattern", ("global",)))
    if layers % (runs * period):
        each = f"mesh.stage x pipeline.repeats = {stages} x {repeats}"
        pattern = f" in patterns of {period} (model.pattern)" if period > 1 else ""
        below = fields["layers"] - layers % (runs * period)
        above = below + runs * period
        near = f"{below} or {above}" if below > dense else str(above)
        raise config.InputError(
            f"model.layers = {fields['layers']}: the {layers} that go through the pipeline do not "
            f"divide over {each}{pattern}; {near} would."
        )
    if repeats > 1 and microbatches < stages:
        raise config.InputError(
            f"pipeline.microbatches = {microbatches}: with pipeline.repeats = {repeats} there must "
            f"be one for each stage at least; allowed are {stages} and more."
        )
