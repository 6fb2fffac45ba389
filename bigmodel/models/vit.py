"""The vision transformer: images as sequences of patches."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, stack
from bigmodel.layers.linear import Einsum
from bigmodel.layers.parameter import parameter
from bigmodel.layers.pooling import AttentionPooling
from bigmodel.models import tower, transformer
from bigmodel.models.handle import Batch, Model, Outputs, Params

POOLINGS = ("class", "mean", "attention")


class ViT(nn.Module):
    """Images to patches' hidden vectors, one pooled, and logits of classes.

    float [B, H, W, C] -> [B, T, D], [B, D], float32 [B, N]

    Dosovitskiy et al. 2021 (arXiv:2010.11929), section 3.1; attention pooling: Zhai et al. 2022
    (arXiv:2106.04560), section 2.2.

    Attributes:
        image: height and width of the images.
        channels: C.
        patch: height and width of a patch; divides `image`.
        classes: N; 0: no head.
        pooling: "class", of a token that is put in front; "mean"; or "attention".
        width: D.
        layers: how many.
        heads: H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        norm_epsilon: of all norms.
        feedforward: see `models.decoder.Decoder`.
        dropout: rate on embeddings and on what each layer adds.
        attention_dropout: rate on attention's probabilities.
        init_std: standard deviation of kernels; 0: by fan-in.
        dtype: of the arithmetic.
        param_dtype: of the parameters.
        remat: a name of stack.REMAT_POLICIES.
        remat_save: activations kept, for remat "names".
        remat_offload: activations kept in the host's memory, for remat "names".
        scan: whether layers run by scan or unrolled; None: as the platform is quicker.
        attend: the implementation of attention.
        run: what runs the layers where `scan` does not say otherwise.
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
    """

    image: int = 224
    channels: int = 3
    patch: int = 16
    classes: int = 1000
    pooling: str = "class"
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    norm_epsilon: float = 1e-6
    feedforward: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.0
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    remat_save: tuple[str, ...] = ()
    remat_offload: tuple[str, ...] = ()
    scan: bool | None = None
    attend: Callable = attention.reference
    run: Callable = stack.scanned
    einsum: Callable = jnp.einsum
    attention: str = "auto"

    @nn.compact
    def __call__(self, batch: Batch, rngs: dict | None = None) -> Outputs:
        shape = tower.shape_of(self)
        x = embed(self, batch["images"])
        about = tower.about({n: batch[n] for n in ("rows",) if n in batch}, x)
        key = (rngs or {}).get("dropout")
        x = tower.dropped(shape, x, key, layer=self.layers, batch=about)
        x, _ = tower.run(self, shape, x, batch=about, key=key)
        x = transformer.make_norm(shape)(name="final_norm")(x)
        pooled = pool(self, shape, x)
        outputs: Outputs = {"hidden": x, "embeddings": {"pooled": pooled}}
        if self.classes:
            head = Einsum(
                "BD,DN->BN",
                (self.width, self.classes),
                ("embed", "classes"),
                nn.initializers.zeros,  # Dosovitskiy et al. 2021, appendix B.1.1
                ("classes",),
                **transformer.dtypes(self),
                name="head",
            )
            outputs["class_logits"] = head(pooled).astype(jnp.float32)
        return outputs


def embed(
    of: Any,
    images: jax.Array,
    initializer: Callable[..., jax.Array] | None = None,
    *,
    bias: bool = True,
) -> jax.Array:
    """Patches, a class token before them if that is what is pooled, and their positions.

    float [B, H, W, C] -> [B, T, D]

    Args:
        of: the module in whose `__call__` this is; its fields are those of `ViT`.
        images: as large as its fields say.
        initializer: of the positions; None: a normal distribution.
        bias: whether the patches' product has one.
    """
    x = Embedding(of.patch, of.width, of.param_dtype, of.dtype, bias, name="patches")(images)
    if of.pooling == "class":
        zeros = nn.initializers.zeros
        token = parameter(of, "class_token", ("norm",), zeros, (of.width,), of.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, of.width))
        x = jnp.concatenate([token, x], axis=1)
    init, axes = initializer or nn.initializers.normal(0.02), ("positions", "embed")
    table = parameter(of, "positions", axes, init, x.shape[1:], of.param_dtype)
    return x + table.astype(x.dtype)


def pool(of: Any, shape: tower.Shape, x: jax.Array) -> jax.Array:
    """[B, T, D] -> [B, D], as `of.pooling` says; of the layers' shape where that is attention."""
    if of.pooling == "class":
        return x[:, 0]
    if of.pooling == "mean":
        return x.mean(1)
    return AttentionPooling(
        attention=transformer.make_cross_attention(shape),
        norm=transformer.make_norm(shape),
        feedforward=transformer.make_feedforward(shape),
        param_dtype=jnp.dtype(of.param_dtype),
        name="pooling",
    )(x)


class Embedding(nn.Module):
    """Each patch's pixels times a kernel, row by row.  [B, H, W, C] -> [B, P, D]

    Attributes:
        patch: height and width of a patch.
        width: D.
        param_dtype: of the parameters.
        dtype: of the arithmetic.
        bias: whether there is one.
    """

    patch: int
    width: int
    param_dtype: str
    dtype: str
    bias: bool = True

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = patches(images, self.patch)
        return Einsum(
            "BPE,ED->BPD",
            (x.shape[-1], self.width),
            ("patch", "embed"),
            None,
            ("norm",) if self.bias else None,
            jnp.dtype(self.dtype),
            jnp.dtype(self.param_dtype),
            name="product",
        )(x)


def patches(images: jax.Array, size: int) -> jax.Array:
    """Squares of pixels, row by row; in one: row, column, channel.  [B, H, W, C] -> [B, P, E]"""
    B, H, W, C = images.shape
    cut = images.reshape(B, H // size, size, W // size, size, C).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(B, -1, size * size * C)


def unpatchify(patches: jax.Array, size: int, height: int) -> jax.Array:
    """The inverse of `patches`, for images of so many pixels.  [B, P, E] -> [B, H, W, C]"""
    B, P, E = patches.shape
    rows = height // size
    cut = patches.reshape(B, rows, P // rows, size, size, E // size**2)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(B, height, P // rows * size, -1)


def check(of: Any) -> None:
    """Refuses fields that no image can have."""
    config.known("model.pooling", of.pooling, POOLINGS)
    check_patches(of)


def check_patches(of: Any) -> None:
    """Patches of a model of images must fill them."""
    if of.image % of.patch:
        raise config.InputError(
            f"model.patch = {of.patch} does not divide model.image = {of.image}."
        )


def check_images(of: Any, images: jax.Array) -> None:
    """Images must be as large as a model of images says they are."""
    wanted = (of.image, of.image, of.channels)
    if images.shape[1:] != wanted:
        raise config.InputError(
            f"images are {' x '.join(map(str, images.shape[1:]))}, and model.image x model.image x "
            f"model.channels is {' x '.join(map(str, wanted))}; they must be alike."
        )


def make(**fields) -> Model:
    """The handle of a vision transformer with the fields of `ViT`."""
    vit = ViT(**fields)
    check(vit)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return vit.init(rng, batch)["params"]

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        return vit.apply({"params": params}, batch, rngs)

    image = jnp.zeros((1, vit.image, vit.image, vit.channels), jnp.float32)
    return Model(init=init, apply=apply, example={"images": image})
