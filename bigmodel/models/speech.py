"""Sound to text, token by token: Whisper's encoder of frames and its decoder."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, convolution, positions, stack
from bigmodel.layers.linear import Table
from bigmodel.models import cross_cache, tower, transformer, unembedding
from bigmodel.models.handle import Batch, Model, Outputs, Params


class Speech(nn.Module):
    """Frames of sound and the tokens before to hidden vectors and logits.

    float [B, A, M], int [B, T] -> [B, T, D], float32 [B, T, V]

    Whisper: Radford et al. 2022 (arXiv:2212.04356), section 2.2. A row is one sound; frames of
    segment 0 are padding that nobody hears. Whisper's own weights have heard the silence that fills
    up their 30 seconds: for them `audio_segments` is left out.

    Attributes:
        vocab: V.
        mels: M, numbers of a frame.
        frames: A of the rows that it is made for, even; the encoder's vectors are half as many.
        width: D, even.
        encoder_layers: of the encoder; 0: `layers`.
        layers: of the decoder.
        heads: H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        length: the longest text; rows of the table of its learned positions.
        norm_epsilon: of all norms.
        feedforward: see `models.decoder.Decoder`.
        dropout: rate on embeddings and on what each layer adds.
        attention_dropout: rate on self-attention's probabilities.
        init_std: standard deviation of kernels; 0: by fan-in.
        dtype: of the arithmetic.
        param_dtype: of the parameters.
        remat: a name of stack.REMAT_POLICIES.
        remat_save: activations kept, for remat "names".
        remat_offload: activations kept in the host's memory, for remat "names".
        scan: whether layers run by scan or unrolled; None: as the platform is quicker.
        attend: the implementation of attention.
        run: what runs the decoder's layers where `scan` does not say otherwise.
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
    """

    vocab: int = 51_865
    mels: int = 80
    frames: int = 3000
    width: int = 384
    encoder_layers: int = 0
    layers: int = 4
    heads: int = 6
    hidden: int = 0
    length: int = 448
    norm_epsilon: float = 1e-5
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

    tied = True  # what `unembedding` asks: the logits use the table, and nothing scales it

    @nn.compact
    def __call__(
        self, batch: Batch, rngs: dict | None = None, cache: dict | None = None
    ) -> Outputs:
        tokens = batch["tokens"]
        key = (rngs or {}).get("dropout")
        shape = layers_of(self)
        start = 0 if cache is None else cache["index"]
        about = tower.about(batch, tokens)
        outputs: Outputs = {}
        memory = None
        if cache is None:
            layers = self.encoder_layers or self.layers
            names = dict(name="encoder_layers", norm="encoder_norm")
            how: dict[str, Any] = dict(layers=layers, first=self.layers, **names)
            # A pipeline's stages are of the decoder.
            x, segments = encode(self, batch, key, run=stack.scanned, **how)
            outputs["memory"] = x
            memory = x, cross_cache.segments_of(x, segments, batch)
        else:
            about["segments"], cache = cross_cache.noted(cache, about["segments"], tokens)

        T = tokens.shape[1]
        x = self.embed(tokens, batch.get("positions", start + jnp.arange(T)[None]))
        # Numbers of masks: the decoder's layers, the encoder's, its input, the decoder's input.
        number = self.layers + (self.encoder_layers or self.layers) + 1
        x = tower.dropped(shape, x, key, layer=number, batch=about)
        seen: dict[str, Any] = dict(causal=True, cross=True, memory=memory, cache=cache)
        x, cache = tower.run(self, shape, x, batch=about, key=key, **seen)
        x = transformer.make_norm(shape)(name="final_norm")(x)
        outputs["hidden"] = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        if cache is not None:
            outputs["cache"] = cache | {"index": start + T}
        return outputs

    def embed(self, tokens: jax.Array, where: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.init_std or 0.02)

        def table(name: str, rows: int, axis: str) -> Table:
            axes = (axis, "embed")
            return Table(rows, self.width, axes, init, **transformer.dtypes(self), name=name)

        x = table("embed", self.vocab, "vocab")(tokens)
        return x + table("positions", self.length, "positions")(where)


def encode(
    of: Any,
    batch: Batch,
    key: jax.Array | None,
    *,
    name: str,
    norm: str,
    layers: int,
    first: int,
    run: Callable,
) -> tuple[jax.Array, jax.Array | None]:
    """What sound is to those who hear it, and which of it is sound.

    float [B, A, M] -> [B, A / 2, D], int32 [B, A / 2] or None

    The stem, fixed sines of positions, layers that see to both sides, and a norm.

    Args:
        of: the module in whose `__call__` this is; its fields are those of `Speech`.
        batch: "audio", and "audio_segments" int32 [B, A], 0 for padding; without it all is sound.
        key: of dropout; None: nothing is dropped.
        name: of the layers' parameters.
        norm: of the last norm's.
        layers: how many.
        first: number of the first layer among all that draw masks by this key.
        run: what runs the layers where `scan` does not say otherwise.
    """
    shape = layers_of(of, layers=layers, run=run)
    kernel, _ = transformer.initializers(shape)
    how = dict(initializer=kernel, einsum=of.einsum, **transformer.dtypes(of))
    segments = batch.get("audio_segments")
    sound = None if segments is None else segments > 0
    x = convolution.Stem(of.width, **how, name="stem")(batch["audio"], sound)
    # Window i is around frame 2 i: the last one may lie half outside of the sound.
    segments = None if segments is None else segments[:, ::2]
    of_rows = {"rows": batch["rows"]} if "rows" in batch else {}
    about = tower.about(of_rows, x) | {"segments": segments}
    where = positions.sinusoids(about["indices"], of.width, of.width // 2 - 1)
    x = x + where.astype(x.dtype)
    x = tower.dropped(shape, x, key, layer=first + layers, batch=about)
    x, _ = tower.run(of, shape, x, name=name, batch=about, key=key, first=first)
    return transformer.make_norm(shape)(name=norm)(x), segments


def layers_of(of: Any, **chosen: Any) -> tower.Shape:
    """Of both stacks. A bias of all keys would change no choice between them: they have none."""
    return tower.shape_of(of, key_bias=False, **chosen)


def make(**fields) -> Model:
    """The handle of a model of speech with the fields of `Speech`."""
    family = Speech(**fields)
    check(family)
    if family.encoder_layers < 0:
        raise config.InputError(
            f"model.encoder_layers = {family.encoder_layers}: must be at least 1, or 0 for as many "
            "as model.layers."
        )

    def init(rng: jax.Array, batch: Batch) -> Params:
        return family.init(rng, batch)["params"]

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        return unembedding.logits(family, params, hidden)

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        outputs = family.apply({"params": params}, batch, rngs, cache)
        return outputs | {"logits": unembed(params, outputs["hidden"])}

    def new_cache(params: Params, batch: Batch, length: int) -> dict:
        """Empty, but for what the decoder hears: the encoder runs here, once."""
        heard = {name: batch[name] for name in ("audio", "audio_segments") if name in batch}
        # Of one token: what the decoder makes of it nobody reads, and the compiler drops it.
        first = heard | {"tokens": jnp.zeros((batch["audio"].shape[0], 1), jnp.int32)}
        memory = family.apply({"params": params}, first)["memory"]
        segments = heard["audio_segments"][:, ::2] if "audio_segments" in heard else None
        return cross_cache.new(family, params, memory, segments, length)

    head = functools.partial(unembedding.head, family)
    example = sound_of(family) | {"tokens": jnp.zeros((1, 1), jnp.int32)}
    return Model(
        init=init, apply=apply, head=head, unembed=unembed, new_cache=new_cache, example=example
    )


def sound_of(of: Any) -> Batch:
    """The shortest sound, enough to make parameters."""
    return {"audio": jnp.zeros((1, 2, of.mels), jnp.float32)}


def check(of: Any) -> None:
    """Refuses fields that no model of sound can have."""
    if of.frames % 2 or of.frames < 2:
        raise config.InputError(
            f"model.frames = {of.frames}: two frames become one vector, so it must be even and at "
            "least 2."
        )
    if of.width % 2 or of.width < 4:
        raise config.InputError(
            f"model.width = {of.width}: half of a position are sines and half cosines, so it must "
            "be even and at least 4."
        )
