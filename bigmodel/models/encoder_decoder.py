"""The encoder-decoder transformer: the Transformer of 2017, T5 1.0 and 1.1 by configuration."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config, trees
from bigmodel.layers import attention, positions, relative, stack
from bigmodel.layers.linear import Table
from bigmodel.models import cross_cache, tower, transformer, unembedding
from bigmodel.models.handle import Batch, Model, Outputs, Params

POSITIONS = ("sinusoidal", "none")


class EncoderDecoder(nn.Module):
    """Sources and the tokens before to hidden vectors and logits.

    int [B, S], int [B, T] -> [B, T, D], float32 [B, T, V]

    Vaswani et al. 2017 (arXiv:1706.03762), section 3; Raffel et al. 2020 (T5, arXiv:1910.10683),
    section 2.1; T5 1.1: Shazeer 2020 (arXiv:2002.05202).

    Attributes:
        vocab: V, rows of the embedding table, which both sides share.
        width: D.
        encoder_layers: of the encoder; 0: `layers`.
        layers: of the decoder.
        heads: H.
        head_dim: C; 0: D / H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        norm: "layer" or "rms".
        norm_epsilon: of all norms.
        norm_placement: "pre", "post" or "both" of each layer; with "post" no norm follows a stack.
        position: "sinusoidal", or "none".
        relative_buckets: 0, or of how many buckets of distances attention adds a learned bias to
            its scores; each stack has one table, of which all its layers have the bias.
        relative_distance: from which on all are in one bucket.
        feedforward: see `models.decoder.Decoder`.
        bias: whether products have one, and layer norms.
        attention_scale: of the scores; 0: C^-1/2. With another one the first queries are smaller
            or larger, so that the first scores are those of C^-1/2.
        embed_scale: whether embeddings are multiplied by D^1/2.
        embed_std: standard deviation of the table as it is made; 0: D^-1/2.
        tied: whether the logits use the embedding table.
        head_scale: whether the logits are multiplied by D^-1/2.
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

    vocab: int = 37_000
    width: int = 512
    encoder_layers: int = 0
    layers: int = 6
    heads: int = 8
    head_dim: int = 0
    hidden: int = 0
    norm: str = "layer"
    norm_epsilon: float = 1e-6
    norm_placement: str = "post"
    position: str = "sinusoidal"
    relative_buckets: int = 0
    relative_distance: int = 128
    feedforward: str = "relu"
    bias: bool = True
    attention_scale: float = 0.0
    embed_scale: bool = True
    embed_std: float = 0.0
    tied: bool = True
    head_scale: bool = False
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
    def __call__(
        self, batch: Batch, rngs: dict | None = None, cache: dict | None = None
    ) -> Outputs:
        tokens = batch["tokens"]
        key = (rngs or {}).get("dropout")
        shape = tower.shape_of(self, norm_bias=self.bias)
        start = 0 if cache is None else cache["index"]
        about = tower.about(batch, tokens)
        table = self.table()
        outputs: Outputs = {}
        memory = None
        if cache is None:
            outputs["memory"] = self.encode(table, batch, key)
            segments = cross_cache.segments_of(outputs["memory"], batch.get(SEGMENTS), batch)
            memory = outputs["memory"], segments
        else:
            about["segments"], cache = cross_cache.noted(cache, about["segments"], tokens)

        T = tokens.shape[1]
        x = self.embed(table(tokens), batch.get("positions", start + jnp.arange(T)[None]))
        x = tower.dropped(shape, x, key, layer=self.numbers[1], batch=about)
        S = T if cache is None else cache["key"].shape[2]
        how: dict[str, Any] = dict(
            causal=True, cross=True, memory=memory, cache=cache, batch=about, key=key
        )
        x, cache = tower.run(self, shape, x, seen=self.seen("relative", T, S, start), **how)
        x = self.normalised(shape, x, "final_norm")
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        if not self.tied:
            unembedding.untied_head(self)(x[:1, :1])  # makes its parameter; `unembed` reads it
        outputs["hidden"] = x
        if cache is not None:
            outputs["cache"] = cache | {"index": start + T}
        return outputs

    def encode(self, table: Table, batch: Batch, key: jax.Array | None) -> jax.Array:
        """What the decoder sees of the sources.  [B, S] -> [B, S, D]"""
        source = batch["source"]
        layers = self.encoder_layers or self.layers
        # A pipeline's stages are of the decoder: nothing but the end of an encoder is of use to it.
        shape = tower.shape_of(self, norm_bias=self.bias, layers=layers, run=stack.scanned)
        S = source.shape[1]
        of_rows = {name: batch[name] for name in ("rows", SEGMENTS) if name in batch}
        about = tower.about(of_rows, source, segments=SEGMENTS)
        x = self.embed(table(source), batch.get("source_positions", jnp.arange(S)[None]))
        x = tower.dropped(shape, x, key, layer=self.numbers[0], batch=about)
        seen = self.seen("encoder_relative", S, S, 0)
        how: dict[str, Any] = dict(name="encoder_layers", batch=about, key=key, first=self.layers)
        x, _ = tower.run(self, shape, x, seen=seen, **how)
        return self.normalised(shape, x, "encoder_norm")

    @property
    def numbers(self) -> tuple[int, int]:
        """Of the masks on embeddings, the encoder's and the decoder's: none that a layer has."""
        layers = self.layers + (self.encoder_layers or self.layers)
        return layers, layers + 1

    def table(self) -> Table:
        init = nn.initializers.normal(self.embed_std or self.width**-0.5)
        shape = (self.vocab, self.width, ("vocab", "embed"), init)
        return Table(*shape, **transformer.dtypes(self), name="embed")

    def embed(self, x: jax.Array, where: jax.Array) -> jax.Array:
        """What goes into a stack, out of the tokens' vectors."""
        if self.embed_scale:
            x = x * jnp.asarray(math.sqrt(self.width), x.dtype)
        if self.position == "sinusoidal":
            x = x + positions.sinusoids(where, self.width).astype(x.dtype)
        return x

    def seen(self, name: str, T: int, S: int, start: jax.Array | int) -> dict[str, jax.Array]:
        """The bias of a stack, where it has one. Within a document indices are as far apart as
        positions, so one bias is that of all rows."""
        if not self.relative_buckets:
            return {}
        bias = relative.RelativeBias(
            buckets=self.relative_buckets,
            distance=self.relative_distance,
            heads=self.heads,
            causal=name == "relative",
            initializer=nn.initializers.normal(self.width**-0.5),
            param_dtype=jnp.dtype(self.param_dtype),
            name=name,
        )
        return {"bias": bias(T, S, start)}

    def normalised(self, shape: tower.Shape, x: jax.Array, name: str) -> jax.Array:
        """After a stack, unless each of its layers ends with a norm."""
        return x if self.norm_placement == "post" else transformer.make_norm(shape)(name=name)(x)


SEGMENTS = "source_segments"


def make(**fields) -> Model:
    """The handle of an encoder-decoder with the fields of `EncoderDecoder`."""
    family = EncoderDecoder(**fields)
    check(family)
    dtype = jnp.dtype(family.dtype)
    C = family.head_dim or family.width // family.heads

    def init(rng: jax.Array, batch: Batch) -> Params:
        made = family.init(rng, batch)["params"]
        if not family.attention_scale:
            return made
        share = C**-0.5 / family.attention_scale

        def one(path: str, leaf: jax.Array) -> jax.Array:
            return (leaf * share).astype(leaf.dtype) if "/query/kernel" in path else leaf

        return trees.map_with_path(one, made)

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        hidden = hidden.astype(dtype)
        if family.head_scale:
            hidden = hidden * jnp.asarray(family.width**-0.5, dtype)
        return unembedding.logits(family, params, hidden)

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        outputs = family.apply({"params": params}, batch, rngs, cache)
        return outputs | {"logits": unembed(params, outputs["hidden"])}

    def new_cache(params: Params, batch: Batch, length: int) -> dict:
        """Empty, but for what the decoder sees of the sources: the encoder runs here, once."""
        B = batch["source"].shape[0]
        # Of one token: what the decoder makes of it nobody reads, and the compiler drops it.
        of_source = {n: batch[n] for n in ("source", SEGMENTS, "source_positions") if n in batch}
        first = of_source | {"tokens": jnp.zeros((B, 1), jnp.int32)}
        memory = family.apply({"params": params}, first)["memory"]
        return cross_cache.new(family, params, memory, batch.get(SEGMENTS), length)

    head = functools.partial(unembedding.head, family)
    one = jnp.zeros((1, 1), jnp.int32)
    example = {"source": one, "tokens": one}
    return Model(
        init=init, apply=apply, head=head, unembed=unembed, new_cache=new_cache, example=example
    )


def check(family: EncoderDecoder) -> None:
    """Refuses what only this family cannot be."""
    if family.position not in POSITIONS:
        raise config.InputError(
            f"model.position = {family.position!r}: allowed are {', '.join(POSITIONS)} (with "
            f"model.relative_buckets besides).{config.nearest(family.position, POSITIONS)}"
        )
    if family.encoder_layers < 0:
        raise config.InputError(
            f"model.encoder_layers = {family.encoder_layers}: must be at least 1, or 0 for as many "
            "as model.layers."
        )
    buckets, distance = family.relative_buckets, family.relative_distance
    if buckets and (buckets < 4 or buckets % 4 or distance <= buckets // 2):
        raise config.InputError(
            f"model.relative_buckets = {buckets}, model.relative_distance = {distance}: buckets "
            "are 0 or a multiple of 4 (a quarter is of single distances, to each side), and the "
            f"distance is beyond the {buckets // 2} single ones of the decoder."
        )
