"""Recommenders of the next item: SASRec and BERT4Rec by configuration alone."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import attention, feedforward, stack
from bigmodel.layers.linear import Einsum, Table, gathered, looked_up, product_in_float32
from bigmodel.layers.parameter import parameter
from bigmodel.models import tower, transformer
from bigmodel.models.handle import Batch, Model, Outputs, Params

TABLE = ("vocab", "embed")


class Recommender(nn.Module):
    """Items of a history to hidden vectors and logits.  int [B, T] -> [B, T, D], float32 [B, T, V]

    SASRec (Kang and McAuley 2018, arXiv:1808.09781): causal, norms before. Otherwise than there,
    attention has a product out of it with a bias, as everywhere in the field. From the authors'
    code, not the paper: a norm after the last layer, embeddings times D^1/2, dropout of attention's
    probabilities. Not from it: its residuals add to what the norm gave, its keys and values are of
    what no norm has seen, and it drops between the two products of the feed-forward layer.

    BERT4Rec (Sun et al. 2019, arXiv:1904.06690): sees both sides, norms after, and a product before
    the items. From the authors' code, not the paper: norms of the embeddings and of that product.
    Not from it: its token types, which are all one there.

    Items are `tokens` from 1; 0 is padding, which nobody sees. Whatever else has an id (the mask
    of a cloze) comes after the items.

    Attributes:
        vocab: V, rows of the table of items: padding, items, and the mask of a cloze.
        width: D.
        layers: how many.
        heads: H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        length: the longest history; rows of the table of positions.
        causal: whether an item sees none after it.
        norm_placement: see `models.decoder.Decoder`; with "post" no norm follows the last layer.
        norm_epsilon: of all norms.
        feedforward: see `models.decoder.Decoder`.
        bias: whether products out of attention and in the feed-forward layer have one.
        qkv_bias: whether the products into q, k and v have one; None: as `bias`.
        embed_scale: whether items' embeddings are multiplied by D^1/2.
        embed_norm: whether embeddings are normalised.
        projection: whether hidden vectors go through a product, GELU and a norm before they are
            held against the items, and each item has a bias.
        dropout: rate on embeddings and on what each layer adds.
        attention_dropout: rate on attention's probabilities.
        init_std: standard deviation of kernels and tables; 0: kernels by fan-in, tables 0.02.
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

    vocab: int = 10_000
    width: int = 50
    layers: int = 2
    heads: int = 1
    hidden: int = 0
    length: int = 50
    causal: bool = True
    norm_placement: str = "pre"
    norm_epsilon: float = 1e-8
    feedforward: str = "relu"
    bias: bool = True
    qkv_bias: bool | None = None
    embed_scale: bool = False
    embed_norm: bool = False
    projection: bool = False
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
        tokens = batch["tokens"]
        shape = tower.shape_of(self)
        real = {"segments": (tokens > 0).astype(jnp.int32)}
        about = tower.about(real | batch, tokens)
        where = batch.get("positions", jnp.arange(tokens.shape[1])[None])
        key = (rngs or {}).get("dropout")

        x = self.embed(tokens, where)
        x = transformer.make_norm(shape)(name="embed_norm")(x) if self.embed_norm else x
        x = tower.dropped(shape, x, key, layer=self.layers, batch=about)
        x, _ = tower.run(self, shape, x, causal=self.causal, batch=about, key=key)
        if self.norm_placement != "post":
            x = transformer.make_norm(shape)(name="final_norm")(x)
        if self.projection:
            x = self.projected(x)
        return {"hidden": nn.with_logical_constraint(x, ("batch", "length", "act_embed"))}

    def embed(self, tokens: jax.Array, where: jax.Array) -> jax.Array:
        init = nn.initializers.normal(self.init_std or 0.02)
        dtypes = transformer.dtypes(self)
        x = Table(self.vocab, self.width, TABLE, init, **dtypes, name="embed")(tokens)
        if self.embed_scale:
            x = x * jnp.asarray(math.sqrt(self.width), x.dtype)
        axes = ("positions", "embed")
        return x + Table(self.length, self.width, axes, init, **dtypes, name="positions")(where)

    def projected(self, x: jax.Array) -> jax.Array:
        """norm(gelu(W x + b)), Sun et al. 2019, eq. 7; makes the items' biases too."""
        product = Einsum(
            equation="BTD,DE->BTE",
            shape=(self.width, self.width),
            axes=("embed", "norm"),
            initializer=transformer.initializers(tower.shape_of(self))[0],
            bias_axes=("norm",),
            **transformer.dtypes(self),
            name="projection",
        )
        x = feedforward.gelu(product(x))
        zeros = nn.initializers.zeros
        parameter(self, "item_bias", ("vocab",), zeros, (self.vocab,), self.param_dtype)
        return transformer.make_norm(tower.shape_of(self))(name="projection_norm")(x)


def make(**fields) -> Model:
    """The handle of a recommender with the fields of `Recommender`."""
    recommender = Recommender(**fields)
    dtype, V = jnp.dtype(recommender.dtype), recommender.vocab

    def init(rng: jax.Array, batch: Batch) -> Params:
        return recommender.init(rng, batch)["params"]

    def head(params: Params) -> Params:
        table = gathered(params["embed"]["table"].astype(dtype), TABLE)
        bias = {"item_bias": params["item_bias"]} if recommender.projection else {}
        return {"embed": {"table": table}, **bias}

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        table = params["embed"]["table"].astype(dtype)
        logits = product_in_float32("...D,VD->...V", hidden.astype(dtype), table)
        if recommender.projection:
            logits = logits + params["item_bias"].astype(jnp.float32)
        return logits

    def score(params: Params, hidden: jax.Array, tokens: jax.Array) -> jax.Array:
        items = looked_up(V, ("vocab", None), params["embed"]["table"].astype(dtype), tokens)
        like = dict(preferred_element_type=jnp.float32)
        logits = jnp.einsum("BTD,BTND->BTN", hidden.astype(dtype), items, **like)
        if recommender.projection:
            biases = params["item_bias"].astype(jnp.float32)[:, None]
            logits = logits + looked_up(V, ("vocab", None), biases, tokens)[..., 0]
        return logits

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        outputs = recommender.apply({"params": params}, batch, rngs)
        return outputs | {"logits": unembed(params, outputs["hidden"])}

    return Model(init=init, apply=apply, head=head, unembed=unembed, score=score)
