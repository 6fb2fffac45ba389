"""The vision-language decoder: what is seen of an image stands among the tokens of a text."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, feedforward
from bigmodel.layers.linear import Einsum
from bigmodel.models import decoder, tower, transformer, vit
from bigmodel.models.decoder import Decoder
from bigmodel.models.handle import Batch, Model, Outputs, Params

CONNECTORS = ("linear", "mlp")


class VisionLanguage(nn.Module):
    """Images and tokens to hidden vectors and logits of text: a decoder that is shown images.

    float [B, H, W, C], int [B, P], int [B, T] -> [B, T, D], float32 [B, T, V]

    LLaVA: Liu et al. 2023 (arXiv:2304.08485), section 4.1, and 1.5: Liu et al. 2023
    (arXiv:2310.03744). PaliGemma: Beyer et al. 2024 (arXiv:2407.07726), section 3.1.

    An image tower gives a vector a patch, a connector brings it to the decoder's width, and the
    vector of patch p takes the place of the token at `image_positions[p]`, after embeddings are
    scaled (`embed_scale`): as in PaliGemma, whose image features are not multiplied by D^1/2. Its
    batch marks image and prompt as `prefix`; LLaVA's has none, and is causal. A batch without
    images is one of text alone.

    Attributes:
        decoder: of the text.
        image: height and width of the images.
        channels: C.
        patch: height and width of a patch; divides `image`, P = (image / patch)^2.
        patch_bias: whether the patches' product has a bias.
        image_width: of the image tower.
        image_layers: those that are read: LLaVA reads 23 of CLIP's 24.
        image_heads: of them.
        image_hidden: of their feed-forward layers; 0: 4 image_width.
        image_feedforward: their activation, see `models.decoder.Decoder`.
        image_norm_epsilon: of the tower's layer norms.
        class_token: whether a token stands before the patches in the tower; it is not read.
        first_norm: whether a norm stands before its layers.
        last_norm: whether one stands after them.
        connector: "linear", one product (PaliGemma); or "mlp", two and GELU between (LLaVA 1.5).
    """

    decoder: Decoder
    image: int = 224
    channels: int = 3
    patch: int = 14
    patch_bias: bool = True
    image_width: int = 1152
    image_layers: int = 27
    image_heads: int = 16
    image_hidden: int = 4304
    image_feedforward: str = "gelu_tanh"
    image_norm_epsilon: float = 1e-6
    class_token: bool = False
    first_norm: bool = False
    last_norm: bool = True
    connector: str = "linear"

    @nn.compact
    def __call__(
        self, batch: Batch, rngs: dict | None = None, cache: dict | None = None
    ) -> Outputs:
        if "images" in batch:
            patches = ImageTower(**tower_fields(self), name="image")(batch, rngs)
            how = transformer.dtypes(self.decoder) | {"einsum": self.decoder.einsum}
            connector = Connector(self.connector, self.decoder.width, **how, name="connector")
            batch = batch | {"patches": connector(patches)}
        return self.decoder(batch, rngs, cache)


# What a config says of the family: the fields of its decoder, and its own.
FIELDS = dataclasses.make_dataclass(
    "VisionLanguage",
    [
        (field.name, field.type, field.default)
        for part in (Decoder, VisionLanguage)
        for field in dataclasses.fields(part)
        if field.name not in ("decoder", "parent", "name")
    ],
)


class Connector(nn.Module):
    """What an image tower tells, as vectors of a decoder.  [B, P, E] -> [B, P, D]

    Attributes:
        kind: a name of CONNECTORS.
        width: D.
        dtype: of the arithmetic.
        param_dtype: of the parameters.
        einsum: see `linear.Einsum`.
    """

    kind: str
    width: int
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        E, D = x.shape[-1], self.width
        if self.kind == "linear":
            product = self.product("BPE,ED->BPD", (E, D), ("patch", "embed"), ("norm",))
            return product(name="product")(x)
        up = self.product("BPE,EF->BPF", (E, D), ("patch", "mlp"), ("mlp",))
        down = self.product("BPF,FD->BPD", (D, D), ("mlp", "embed"), ("norm",))
        hidden = feedforward.gelu(up(name="up")(x))
        hidden = nn.with_logical_constraint(hidden, ("batch", None, "act_mlp"))
        return down(name="down")(hidden)

    def product(self, equation: str, shape: tuple, axes: tuple, bias_axes: tuple) -> Callable:
        how = dict(dtype=self.dtype, param_dtype=self.param_dtype, einsum=self.einsum)
        return functools.partial(Einsum, equation, shape, axes, None, bias_axes, **how)


class ImageTower(nn.Module):
    """Images to a vector a patch.  float [B, H, W, C] -> [B, P, E]

    Attributes:
        patch, patch_bias, class_token, first_norm, last_norm: see `VisionLanguage`.
        width: E.
        first: number of the first layer among all that draw masks by one key.
    """

    patch: int
    patch_bias: bool
    class_token: bool
    first_norm: bool
    last_norm: bool
    width: int
    layers: int
    heads: int
    hidden: int
    feedforward: str
    norm_epsilon: float
    first: int
    dropout: float
    attention_dropout: float
    dtype: str
    param_dtype: str
    remat: str
    remat_save: tuple[str, ...]
    remat_offload: tuple[str, ...]
    scan: bool | None
    attend: Callable = attention.reference
    einsum: Callable = jnp.einsum
    init_std: float = 0.0

    @property
    def pooling(self) -> str:
        """What `vit.embed` asks: "class" puts a token before the patches."""
        return "class" if self.class_token else "none"

    @nn.compact
    def __call__(self, batch: Batch, rngs: dict | None = None) -> jax.Array:
        shape, key = tower.shape_of(self), (rngs or {}).get("dropout")
        norm = transformer.make_norm(shape)
        x = vit.embed(self, batch["images"], bias=self.patch_bias)
        x = norm(name="first_norm")(x) if self.first_norm else x
        about = tower.about({n: batch[n] for n in ("rows",) if n in batch}, x)
        x = tower.dropped(shape, x, key, layer=self.first + self.layers, batch=about)
        how: dict[str, Any] = dict(name="image_layers", batch=about, key=key, first=self.first)
        x, _ = tower.run(self, shape, x, **how)
        x = x[:, 1:] if self.class_token else x
        return norm(name="last_norm")(x) if self.last_norm else x


SAME = (  # fields that the image tower has of the decoder
    *("dropout", "attention_dropout", "dtype", "param_dtype", "remat", "remat_save"),
    *("remat_offload", "scan", "attend", "einsum"),
)
OWN = ("patch", "patch_bias", "class_token", "first_norm", "last_norm")
NAMED = ("width", "layers", "heads", "hidden", "feedforward", "norm_epsilon")  # image_width, ...


def tower_fields(of: VisionLanguage) -> dict[str, Any]:
    fields = {name: getattr(of.decoder, name) for name in SAME}
    fields |= {name: getattr(of, name) for name in OWN}
    fields |= {name: getattr(of, f"image_{name}") for name in NAMED}
    # Masks on the decoder's embeddings have the number before.
    return fields | {"first": of.decoder.layers + 1}


def make(**fields) -> Model:
    """The handle of a vision-language decoder with the fields of `FIELDS`."""
    names = {field.name for field in dataclasses.fields(Decoder)}
    of_decoder = {name: value for name, value in fields.items() if name in names}
    own = {name: value for name, value in fields.items() if name not in names}
    family = VisionLanguage(Decoder(**of_decoder), **own)
    check(family)
    text = decoder.make(**of_decoder)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return family.init(rng, batch)["params"]

    def of_text(params: Params) -> Params:
        """The decoder's part of the parameters; a head is that already."""
        return params.get("decoder", params)

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        return text.unembed(of_text(params), hidden)

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        if "images" in batch:
            vit.check_images(family, batch["images"])
        outputs = family.apply({"params": params}, batch, rngs, cache)
        return outputs | {"logits": unembed(params, outputs["hidden"])}

    image = jnp.zeros((1, family.image, family.image, family.channels), jnp.float32)
    P = (family.image // family.patch) ** 2
    example = {
        "images": image,
        "image_positions": jnp.arange(P)[None],
        "tokens": jnp.zeros((1, P + 1), jnp.int32),
    }
    return Model(
        init=init,
        apply=apply,
        head=lambda params: text.head(of_text(params)),
        unembed=unembed,
        new_cache=lambda params, batch, length: text.new_cache(of_text(params), batch, length),
        example=example,
    )


def check(family: VisionLanguage) -> None:
    """Refuses fields that no vision-language decoder can have."""
    vit.check_patches(family)
    config.known("model.connector", family.connector, CONNECTORS)
    if family.image_width % family.image_heads:
        raise config.InputError(
            f"model.image_heads = {family.image_heads} does not divide model.image_width = "
            f"{family.image_width}."
        )
