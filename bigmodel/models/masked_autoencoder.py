"""The masked autoencoder: a vision transformer learns from images by what they hide."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, dropout, linear, positions, stack
from bigmodel.layers.parameter import parameter
from bigmodel.models import tower, transformer, vit
from bigmodel.models.handle import Batch, Model, Outputs, Params

POOLINGS = ("class", "mean")  # of the transformer that takes the encoder over


class MaskedAutoencoder(nn.Module):
    """Most patches hidden; an encoder sees the rest, a small decoder tells those that it did not.

    float [B, H, W, C] -> float32 [B, P, E] reconstructed, [B, P, E] true, [B, P] 1 where hidden

    He et al. 2022 (arXiv:2111.06377), section 3. What is hidden is drawn for each row: by the key
    "dropout", and without one (evaluation) always the same for a row's number.

    The encoder's parameters have the names of `vit.ViT`'s. Its positions start as fixed sines and
    cosines and are trained, as they are where a ViT goes on from them.

    Attributes:
        image: height and width of the images.
        channels: C.
        patch: height and width of a patch; divides `image`.
        mask_ratio: share of the patches that are hidden.
        pooling: of the ViT that the encoder becomes: "class" has a token for it, "mean" has none.
        width: D, of the encoder; a multiple of 4.
        layers: how many the encoder has.
        heads: H, of the encoder.
        hidden: F, of the encoder's feed-forward layer; 0: 4 D.
        decoder_width: of the decoder; a multiple of 4.
        decoder_layers: how many it has.
        decoder_heads: of its attention.
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
        run: what runs the encoder's layers where `scan` does not say otherwise.
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
    """

    image: int = 224
    channels: int = 3
    patch: int = 16
    mask_ratio: float = 0.75
    pooling: str = "class"
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
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
        images, key = batch["images"], (rngs or {}).get("dropout")
        vit.check_images(self, images)
        rows = batch.get("rows", jnp.arange(images.shape[0]))
        order = self.order(rows, key)
        x = self.encode(images, order[:, : self.visible], rows, key)
        # Where in `order` a patch is: the hidden ones come last.
        places = jnp.argsort(order, axis=-1)
        return {
            "reconstructed": self.decode(x, places, rows, key),
            "patches": vit.patches(images.astype(jnp.float32), self.patch),
            "masked": (places >= self.visible).astype(jnp.float32),
        }

    def order(self, rows: jax.Array, key: jax.Array | None) -> jax.Array:
        """The patches of each row, those that the encoder sees first.  int32 [B, P]"""
        number = self.layers + self.decoder_layers + 1  # no layer's
        keys = dropout.row_keys(jax.random.key(0) if key is None else key, number, rows)
        return jax.vmap(lambda key: jax.random.permutation(key, self.length))(keys)

    def encode(
        self, images: jax.Array, seen: jax.Array, rows: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """A class token, if there is one, and the patches that are seen.  -> [B, T, D]"""
        shape = tower.shape_of(self)
        x = vit.embed(self, images, self.initial_positions)
        x = jnp.concatenate([x[:, : self.extra], chosen(x[:, self.extra :], seen)], axis=1)
        about = tower.about({"rows": rows}, x)
        x = tower.dropped(shape, x, key, layer=self.layers, batch=about)
        x, _ = tower.run(self, shape, x, batch=about, key=key)
        return transformer.make_norm(shape)(name="final_norm")(x)

    def decode(
        self, x: jax.Array, places: jax.Array, rows: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """All patches' pixels out of those that were seen.  [B, T, D] -> float32 [B, P, E]"""
        D, grid = self.decoder_width, self.image // self.patch
        shape = tower.shape_of(
            self,
            width=D,
            layers=self.decoder_layers,
            heads=self.decoder_heads,
            hidden=0,
            run=stack.scanned,  # a pipeline has the encoder's layers
        )
        how = dict(einsum=self.einsum, **transformer.dtypes(self))
        axes = ("embed", "mlp")
        into = linear.Einsum(
            "BTD,DF->BTF", (self.width, D), axes, None, ("mlp",), **how, name="decoder_embedding"
        )
        x = into(x)
        init = nn.initializers.normal(0.02)
        token = parameter(self, "mask_token", ("norm",), init, (D,), self.param_dtype)
        hidden = (x.shape[0], self.length - self.visible, D)
        x_class, x = x[:, : self.extra], x[:, self.extra :]
        x = jnp.concatenate([x, jnp.broadcast_to(token.astype(x.dtype), hidden)], axis=1)
        x = chosen(x, places) + positions.sinusoids_2d(grid, grid, D).astype(x.dtype)
        x = jnp.concatenate([x_class, x], axis=1)
        about, first = tower.about({"rows": rows}, x), self.layers + 1
        x, _ = tower.run(self, shape, x, name="decoder_layers", batch=about, key=key, first=first)
        x = transformer.make_norm(shape)(name="decoder_norm")(x)[:, self.extra :]
        E = self.patch**2 * self.channels
        how["einsum"] = linear.product_in_float32
        out = linear.Einsum(
            "BPD,DE->BPE", (D, E), ("embed", "patch"), None, ("patch",), **how, name="pixels"
        )
        return out(x)

    def initial_positions(self, key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
        """Of the patches sines and cosines, of a class token zero."""
        grid = self.image // self.patch
        table = positions.sinusoids_2d(grid, grid, self.width).astype(dtype)
        return jnp.pad(table, ((self.extra, 0), (0, 0)))

    @property
    def length(self) -> int:
        """P: patches of an image."""
        return (self.image // self.patch) ** 2

    @property
    def extra(self) -> int:
        """Tokens before the patches."""
        return int(self.pooling == "class")

    @property
    def visible(self) -> int:
        """Patches that the encoder sees."""
        return round(self.length * (1 - self.mask_ratio))


def chosen(x: jax.Array, places: jax.Array) -> jax.Array:
    """Of each row the tokens at some places.  [B, T, D], int [B, S] -> [B, S, D]"""
    return jnp.take_along_axis(x, places[..., None], axis=1)


def make(**fields) -> Model:
    """The handle of a masked autoencoder with the fields of `MaskedAutoencoder`."""
    made = MaskedAutoencoder(**fields)
    vit.check_patches(made)
    config.known("model.pooling", made.pooling, POOLINGS)
    for field in ("width", "decoder_width"):
        if getattr(made, field) % 4:
            raise config.InputError(
                f"model.{field} = {getattr(made, field)}: a place is sines and cosines of its row "
                f"and column; allowed are multiples of 4."
            )
    if made.decoder_layers < 1 or made.decoder_heads < 1 or made.decoder_width % made.decoder_heads:
        raise config.InputError(
            f"model.decoder_layers = {made.decoder_layers}, model.decoder_heads = "
            f"{made.decoder_heads}: must be at least 1, and the heads divide model.decoder_width "
            f"= {made.decoder_width}."
        )
    if not 1 <= made.visible < made.length:
        raise config.InputError(
            f"model.mask_ratio = {made.mask_ratio}: of {made.length} patches some must be hidden "
            f"and some seen; allowed are shares in (0, 1) that leave at least one."
        )

    def init(rng: jax.Array, batch: Batch) -> Params:
        return made.init(rng, batch)["params"]

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        return made.apply({"params": params}, batch, rngs)

    image = jnp.zeros((1, made.image, made.image, made.channels), jnp.float32)
    return Model(init=init, apply=apply, example={"images": image})
