"""Two towers: images and texts as vectors of one space, where what belongs together is near."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention
from bigmodel.layers.linear import Einsum, Table
from bigmodel.layers.parameter import parameter
from bigmodel.models import tower, transformer, vit
from bigmodel.models.handle import Batch, Model, Outputs, Params

TEXT_POOLINGS = ("end", "last")
PROJECTIONS = ("both", "text")


class TwoTowers(nn.Module):
    """Images and texts, each to a vector of length one; and what their products are scaled by.

    float [B, H, W, C], int [B, T] -> [B, J] each, float32 [], [] or none

    CLIP: Radford et al. 2021 (arXiv:2103.00020), figure 3. SigLIP: Zhai et al. 2023
    (arXiv:2303.15343), section 3.2. A batch may lack one of the two; so does what comes out.

    Attributes:
        image: height and width of the images.
        channels: C.
        patch: height and width of a patch; divides `image`.
        patch_bias: whether the patches' product has a bias.
        pooling: of the image tower: "class", "mean" or "attention", see `models.vit.ViT`.
        first_norm: whether the image tower has a norm before its layers.
        width: D of the image tower.
        layers: of the image tower.
        heads: of the image tower.
        hidden: of its feed-forward layers; 0: 4 D.
        vocab: V.
        text_length: rows of the table of a text's positions.
        text_width: D of the text tower.
        text_layers: of the text tower.
        text_heads: of the text tower.
        text_hidden: of its feed-forward layers; 0: 4 D.
        text_causal: whether a token sees no later one.
        text_pooling: "end": of the last token that is no padding; "last": of the last position,
            and padding is read as any other token.
        joint: J.
        projections: into the joint space: "both" towers', without a bias; or the "text" tower's
            alone, with one, where the image tower's width is J.
        logit_scale: what the scale of the products starts from.
        logit_scale_max: the scale is held at or below it; 0: it has no bound.
        logit_bias: what is added to the products starts from it; None: nothing is.
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
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
    """

    image: int = 224
    channels: int = 3
    patch: int = 32
    patch_bias: bool = False
    pooling: str = "class"
    first_norm: bool = True
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    vocab: int = 49408
    text_length: int = 77
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_hidden: int = 0
    text_causal: bool = True
    text_pooling: str = "end"
    joint: int = 512
    projections: str = "both"
    logit_scale: float = 1 / 0.07  # Radford et al. 2021, section 2.5
    logit_scale_max: float = 100.0
    logit_bias: float | None = None
    norm_epsilon: float = 1e-5
    feedforward: str = "quick_gelu"
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
    einsum: Callable = jnp.einsum
    attention: str = "auto"

    @nn.compact
    def __call__(self, batch: Batch, rngs: dict | None = None) -> Outputs:
        key = (rngs or {}).get("dropout")
        embeddings = {}
        if "images" in batch:
            embeddings["image"] = unit(self.of_images(batch, key))
        if "tokens" in batch:
            embeddings["text"] = unit(self.of_texts(batch, key))
        scale = self.number("logit_scale", math.log(self.logit_scale))
        if self.logit_scale_max:
            scale = bounded(math.log(self.logit_scale_max), scale)
        outputs: Outputs = {"embeddings": embeddings, "logit_scale": jnp.exp(scale)}
        if self.logit_bias is not None:
            outputs["logit_bias"] = self.number("logit_bias", self.logit_bias)
        return outputs

    def of_images(self, batch: Batch, key: jax.Array | None) -> jax.Array:
        """[B, H, W, C] -> [B, J]"""
        shape = tower.shape_of(self)
        norm = transformer.make_norm(shape)
        x = vit.embed(self, batch["images"], bias=self.patch_bias)
        if self.first_norm:
            x = norm(name="first_norm")(x)
        about = tower.about({n: batch[n] for n in ("rows",) if n in batch}, x)
        # Masks of both towers are drawn by one key: no two of their layers have one number.
        x = tower.dropped(shape, x, key, layer=self.layers + self.text_layers, batch=about)
        x, _ = tower.run(self, shape, x, name="image_layers", batch=about, key=key)
        # A class token alone is read: its norm is that of one token, not of all.
        x = x[:, :1] if self.pooling == "class" else x
        x = vit.pool(self, shape, norm(name="image_norm")(x))
        return self.project(x, "image") if self.projections == "both" else x

    def of_texts(self, batch: Batch, key: jax.Array | None) -> jax.Array:
        """[B, T] -> [B, J]"""
        width, tokens = self.text_width, batch["tokens"]
        own = dict(width=width, layers=self.text_layers, heads=self.text_heads)
        shape = tower.shape_of(self, **own, hidden=self.text_hidden)
        init = nn.initializers.normal(0.02)
        axes, dtypes = ("vocab", "embed"), transformer.dtypes(self)
        x = Table(self.vocab, width, axes, init, **dtypes, name="tokens")(tokens)
        init, axes = nn.initializers.normal(0.01), ("positions", "embed")
        size = (self.text_length, width)
        table = parameter(self, "text_positions", axes, init, size, self.param_dtype)
        x = x + table[: tokens.shape[1]].astype(x.dtype)

        read = ("rows", "segments") if self.text_pooling == "end" else ("rows",)
        about = tower.about({n: batch[n] for n in read if n in batch}, x)
        x = tower.dropped(shape, x, key, layer=self.layers + self.text_layers + 1, batch=about)
        how: dict[str, Any] = dict(causal=self.text_causal, batch=about, key=key)
        x, _ = tower.run(self, shape, x, name="text_layers", first=self.layers, **how)
        x = transformer.make_norm(shape)(name="text_norm")(last(x, about["segments"]))
        return self.project(x[:, 0], "text")

    def project(self, x: jax.Array, name: str) -> jax.Array:
        """Into the joint space.  [B, D] -> [B, J]"""
        return Einsum(
            "BD,DJ->BJ",
            (x.shape[-1], self.joint),
            ("embed", "joint"),
            None,
            ("joint",) if self.projections == "text" else None,
            **transformer.dtypes(self),
            name=f"{name}_projection",
        )(x)

    def number(self, name: str, start: float) -> jax.Array:
        """A parameter that is one number, in float32."""
        init = nn.initializers.constant(start)
        return parameter(self, name, (), init, (), self.param_dtype).astype(jnp.float32)


def last(x: jax.Array, segments: jax.Array | None) -> jax.Array:
    """The last token of each row that is no padding; zeros of a row of it.  [B, T, D] -> [B, 1, D]

    A product, not a gather: that and its gradient stay on the device of the row.
    """
    if segments is None:
        return x[:, -1:]
    T = x.shape[1]
    ends = (jnp.arange(T) * (segments > 0)).max(1, keepdims=True)
    chosen = (jnp.arange(T) == ends) & (segments > 0)
    return jnp.einsum("BT,BTD->BD", chosen.astype(x.dtype), x)[:, None]


def unit(x: jax.Array) -> jax.Array:
    """x / |x|, computed in float32.  [B, J] -> [B, J]"""
    wide = x.astype(jnp.float32)
    square = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def bounded(most: float, x: jax.Array) -> jax.Array:
    """min(x, most); at the bound only a gradient passes that brings x down.

    That of a plain minimum is zero there, and x would stay for ever.
    """
    return jnp.minimum(x, most)


def bounded_backward(most: float, x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(x < most, grad, jnp.maximum(grad, 0)),)


bounded.defvjp(lambda most, x: (bounded(most, x), x), bounded_backward)


def make(**fields) -> Model:
    """The handle of two towers with the fields of `TwoTowers`."""
    towers = TwoTowers(**fields)
    check(towers)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return towers.init(rng, batch)["params"]

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        return towers.apply({"params": params}, batch, rngs)

    image = jnp.zeros((1, towers.image, towers.image, towers.channels), jnp.float32)
    tokens = jnp.zeros((1, towers.text_length), jnp.int32)
    return Model(init=init, apply=apply, example={"images": image, "tokens": tokens})


def check(towers: TwoTowers) -> None:
    """Refuses fields that no two towers can have."""
    vit.check(towers)
    for field, allowed in (("text_pooling", TEXT_POOLINGS), ("projections", PROJECTIONS)):
        value = getattr(towers, field)
        config.known(f"model.{field}", value, allowed)
    if towers.projections == "text" and towers.joint != towers.width:
        raise config.InputError(
            f"model.joint = {towers.joint}: with model.projections = 'text' images come out as "
            f"they are, so allowed is model.width = {towers.width}."
        )
    if towers.text_width % towers.text_heads:
        raise config.InputError(
            f"model.text_heads = {towers.text_heads} does not divide model.text_width = "
            f"{towers.text_width}."
        )
    if not 0 < towers.logit_scale <= (towers.logit_scale_max or math.inf):
        raise config.InputError(
            f"model.logit_scale = {towers.logit_scale}: must be above 0 and at most "
            f"model.logit_scale_max = {towers.logit_scale_max}."
        )
