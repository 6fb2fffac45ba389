"""The diffusion transformer: which way an image goes from noise to data."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, dropout, linear, modulated, positions, stack
from bigmodel.models import tower, transformer, vit
from bigmodel.models.handle import Batch, Model, Outputs, Params

FREQUENCIES = 256  # sines and cosines of a time, as published


class DiT(nn.Module):
    """Noisy images, how noisy they are and what they show, to the velocity of their pixels.

    float [B, H, W, C], float32 [B], int32 [B] -> float32 [B, H, W, C]

    Peebles and Xie 2023 (arXiv:2212.09748), section 3.2, with adaLN-Zero blocks. It tells a
    velocity alone, where that paper's tells noise and its variance.

    Attributes:
        image: height and width of the images, or of the latents that stand for them.
        channels: C.
        patch: height and width of a patch; divides `image`.
        classes: how many; class number `classes` is "none". 0: images of no class.
        class_dropout: share of the rows whose class is taken for "none" in training, so that the
            model can be guided (Ho and Salimans 2022, arXiv:2207.12598).
        width: D, a multiple of 4.
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

    image: int = 32
    channels: int = 4
    patch: int = 2
    classes: int = 1000
    class_dropout: float = 0.1
    width: int = 1152
    layers: int = 28
    heads: int = 16
    hidden: int = 0
    norm_epsilon: float = 1e-6
    feedforward: str = "gelu_tanh"
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
        vit.check_images(self, batch["images"])
        shape = tower.shape_of(self)
        how = (self.patch, self.width, self.param_dtype, self.dtype)
        x = vit.Embedding(*how, name="patches")(batch["images"])
        grid = self.image // self.patch
        x = x + positions.sinusoids_2d(grid, grid, self.width).astype(x.dtype)
        about = tower.about({n: batch[n] for n in ("rows",) if n in batch}, x)
        key = (rngs or {}).get("dropout")
        condition = self.time(batch["noise_time"])
        if self.classes:
            condition = condition + self.label(batch, about["rows"], key)
        x = tower.dropped(shape, x, key, layer=self.layers, batch=about)
        x, _ = tower.run(self, shape, x, batch=about, key=key, condition=condition)
        made = modulated.Modulation(2, einsum=self.einsum, **transformer.dtypes(self), name="final")
        x = modulated.modulated(x, *made(condition), epsilon=self.norm_epsilon)
        E = self.patch**2 * self.channels
        velocity = linear.Einsum(
            "BPD,DE->BPE",
            (self.width, E),
            ("embed", "patch"),
            nn.initializers.zeros,
            ("patch",),
            **transformer.dtypes(self),
            einsum=linear.product_in_float32,
            name="velocity",
        )
        return {"velocity": vit.unpatchify(velocity(x), self.patch, self.image)}

    def time(self, time: jax.Array) -> jax.Array:
        """A time of 0 to 1 as a condition.  float32 [B] -> [B, D]

        Its thousandfold is what the published models count, so the wavelengths are theirs.
        """
        waves = positions.sinusoids(1000 * time, FREQUENCIES)
        up = self.product("BE,EF->BF", FREQUENCIES, ("frequencies", "mlp"), ("mlp",), "time_up")
        down = self.product("BF,FD->BD", self.width, ("mlp", "embed"), ("norm",), "time_down")
        return down(nn.silu(up(waves)))

    def product(
        self, equation: str, inputs: int, axes: tuple[str, str], bias: tuple[str], name: str
    ) -> linear.Einsum:
        return linear.Einsum(
            equation,
            (inputs, self.width),
            axes,
            nn.initializers.normal(0.02),  # as published
            bias,
            **transformer.dtypes(self),
            einsum=self.einsum,
            name=name,
        )

    def label(self, batch: Batch, rows: jax.Array, key: jax.Array | None) -> jax.Array:
        """A class as a condition, and with a key that of some rows dropped.  [B, D]"""
        labels = batch.get("labels", jnp.full(rows.shape, self.classes))
        if labels.ndim != 1:
            raise config.InputError(
                f"labels are shares of classes {labels.shape}, as of mixed images; model.name = "
                f"'dit' draws images of one class; set data.mixup and data.cutmix to 0."
            )
        keys = dropout.row_keys(key, self.layers + 1, rows)
        if keys is not None:
            dropped = jax.vmap(lambda key: jax.random.bernoulli(key, self.class_dropout))(keys)
            labels = jnp.where(dropped, self.classes, labels)
        table = linear.Table(
            self.classes + 1,
            self.width,
            ("classes", "embed"),
            nn.initializers.normal(0.02),  # as published
            **transformer.dtypes(self),
            name="classes_table",
        )
        return table(labels[:, None])[:, 0]


def make(**fields) -> Model:
    """The handle of a diffusion transformer with the fields of `DiT`."""
    dit = DiT(**fields)
    vit.check_patches(dit)
    if dit.width % 4:
        raise config.InputError(
            f"model.width = {dit.width}: a place is sines and cosines of its row and column; "
            f"allowed are multiples of 4."
        )
    if not 0 <= dit.class_dropout <= 1:
        raise config.InputError(f"model.class_dropout = {dit.class_dropout}: a rate is in [0, 1].")

    def init(rng: jax.Array, batch: Batch) -> Params:
        return dit.init(rng, batch)["params"]

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        return dit.apply({"params": params}, batch, rngs)

    example = {
        "images": jnp.zeros((1, dit.image, dit.image, dit.channels), jnp.float32),
        "noise_time": jnp.zeros((1,), jnp.float32),
        "labels": jnp.zeros((1,), jnp.int32),
    }
    return Model(init=init, apply=apply, example=example)
