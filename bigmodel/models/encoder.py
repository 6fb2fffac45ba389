"""The encoder: BERT and RoBERTa by configuration alone."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.layers import attention, dropout, feedforward, stack
from bigmodel.layers.linear import Einsum, Table, gathered, product_in_float32
from bigmodel.layers.parameter import parameter
from bigmodel.models import tower, transformer
from bigmodel.models.handle import Batch, Model, Outputs, Params

PLACEMENTS = ("post", "pre")
POOLINGS = ("first", "mean")


class Encoder(nn.Module):
    """Tokens to hidden vectors, one pooled, and logits.  int [B, T] -> [B, T, D], [B, D]

    Devlin et al. 2019 (BERT, arXiv:1810.04805), section 3; Liu et al. 2019 (RoBERTa,
    arXiv:1907.11692). The embedding is norm(token + position + token type). Logits of masked
    tokens are made by the handle's `unembed`: W_embed norm(act(W h + b)) + c.

    Attributes:
        vocab: V, rows of the embedding table.
        width: D.
        layers: how many.
        heads: H.
        hidden: F, of the feed-forward layer; 0: 4 D.
        length: the longest sequence.
        position_offset: rows of the table of learned positions before the one of position 0; 2 in
            RoBERTa, whose positions are numbered on from the id of padding.
        token_types: rows of their table; with one all tokens have that one; 0: no table.
        norm_placement: "post" or "pre" of each layer; with "pre" a norm follows the last one.
        norm_epsilon: of all norms.
        feedforward: see `models.decoder.Decoder`.
        masked_head: whether there is what predicts masked tokens.
        masked_activation: of it, a name of `feedforward.ACTIVATIONS`.
        pooler: whether there is one vector of a row: tanh(W h + b), [B, D].
        pooling: what its h is: of the "first" token, as in BERT, or the "mean" of all tokens.
        next_sentence: whether the pooled vector is told apart in two: does B follow A, or not.
        classes: N of a row, from the pooled vector, or how many numbers; 0: none.
        token_classes: N of each token; 0: none.
        dropout: rate on embeddings, on what each layer adds, and before logits of classes.
        attention_dropout: rate on attention's probabilities.
        init_std: standard deviation of kernels and tables.
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

    vocab: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 0
    length: int = 512
    position_offset: int = 0
    token_types: int = 2
    norm_placement: str = "post"
    norm_epsilon: float = 1e-12
    feedforward: str = "gelu"
    masked_head: bool = True
    masked_activation: str = "gelu"
    pooler: bool = True
    pooling: str = "first"
    next_sentence: bool = False
    classes: int = 0
    token_classes: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.0
    init_std: float = 0.02
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
        """hidden, embeddings/pooled, sentence_logits [B, 2], class_logits, token_logits [B, T, N].

        Pooled is the first token of a row, or the mean of its first document: of documents packed
        behind it there is no such vector.
        """
        shape = tower.shape_of(self)
        about = tower.about(batch, batch["tokens"])
        key = (rngs or {}).get("dropout")
        x = self.embed(batch)
        x = tower.dropped(shape, x, key, layer=self.layers, batch=about)
        x, _ = tower.run(self, shape, x, batch=about, key=key)
        if self.norm_placement == "pre":
            x = transformer.make_norm(shape)(name="final_norm")(x)
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        if self.masked_head:
            MaskedHead(self.vocab, shape, name="masked")()
        outputs: Outputs = {"hidden": x}
        # Numbers past the last layer: these masks are no layer's.
        if self.pooler:
            h = x[:, 0] if self.pooling == "first" else mean(x, about["segments"])
            pooled = jnp.tanh(self.dense("BD,DE->BE", (self.width, "norm"), "pooler")(h))
            outputs["embeddings"] = {"pooled": pooled}
            keys = dropout.row_keys(key, self.layers + 1, about["rows"])
            pooled = dropout.dropout(pooled[:, None], keys, rate=self.dropout, site=0)[:, 0]
            for name, classes in (("sentence", 2 * self.next_sentence), ("class", self.classes)):
                if classes:
                    head = self.dense("BD,DN->BN", (classes, "classes"), f"{name}_head")
                    outputs[f"{name}_logits"] = head(pooled).astype(jnp.float32)
        if self.token_classes:
            x = tower.dropped(shape, x, key, layer=self.layers + 2, batch=about)
            head = self.dense("BTD,DN->BTN", (self.token_classes, "classes"), "token_head")
            outputs["token_logits"] = head(x).astype(jnp.float32)
        return outputs

    def embed(self, batch: Batch) -> jax.Array:
        tokens = batch["tokens"]
        init = nn.initializers.normal(self.init_std)
        dtypes = transformer.dtypes(self)

        def table(rows: int, axis: str, name: str) -> Table:
            return Table(rows, self.width, (axis, "embed"), init, **dtypes, name=name)

        where = batch.get("positions", jnp.arange(tokens.shape[1])[None])
        x = table(self.vocab, "vocab", "embed")(tokens)
        rows = self.length + self.position_offset
        x = x + table(rows, "positions", "positions")(where + self.position_offset)
        if self.token_types:
            types = batch.get("token_types", jnp.zeros((1, 1), jnp.int32))
            types = types if self.token_types > 1 else jnp.zeros((1, 1), jnp.int32)
            x = x + table(self.token_types, "token_types", "token_types")(types)
        return transformer.make_norm(tower.shape_of(self))(name="embed_norm")(x)

    def dense(self, equation: str, out: tuple[int, str], name: str) -> Einsum:
        """A product with a bias, out of the width into so many numbers of an axis."""
        init = transformer.initializers(tower.shape_of(self))[0]
        how = transformer.dtypes(self)
        return Einsum(
            equation, (self.width, out[0]), ("embed", out[1]), init, (out[1],), **how, name=name
        )


def mean(x: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Of the first document's tokens, all of them where no segments are said.  [B, T, D] -> [B, D]

    A row of padding alone gives zeros.
    """
    if segments is None:
        return x.mean(1)
    own = (segments == 1).astype(jnp.float32)
    summed = jnp.einsum("BT,BTD->BD", own, x.astype(jnp.float32))
    return (summed / jnp.maximum(own.sum(1), 1)[:, None]).astype(x.dtype)


class MaskedHead(nn.Module):
    """Parameters of what predicts masked tokens, but for the embedding table; see `make`.

    Attributes:
        vocab: V.
        shape: of the tower below it.
    """

    vocab: int
    shape: tower.Shape

    @nn.compact
    def __call__(self) -> None:
        D, dtype = self.shape.width, self.shape.param_dtype
        kernel = transformer.initializers(self.shape)[0] or nn.initializers.lecun_normal()
        zeros = nn.initializers.zeros
        parameter(self, "kernel", ("embed", "norm"), kernel, (D, D), dtype)
        parameter(self, "bias", ("norm",), zeros, (D,), dtype)
        parameter(self, "vocab_bias", ("vocab",), zeros, (self.vocab,), dtype)
        transformer.make_norm(self.shape)(name="norm")(jnp.zeros((1, D)))


def make(**fields) -> Model:
    """The handle of an encoder with the fields of `Encoder`."""
    encoder = Encoder(**fields)
    check(encoder)
    dtype = jnp.dtype(encoder.dtype)
    activation = feedforward.ACTIVATIONS[encoder.masked_activation]
    norm = transformer.make_norm(tower.shape_of(encoder))(parent=None)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return encoder.init(rng, batch)["params"]

    def head(params: Params) -> Params:
        masked = jax.tree.map(lambda x: x.astype(dtype), dict(params["masked"]))
        masked["kernel"] = gathered(masked["kernel"], ("embed", "norm"))
        table = gathered(params["embed"]["table"].astype(dtype), ("vocab", "embed"))
        return {"masked": masked, "embed": {"table": table}}

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        masked, table = params["masked"], params["embed"]["table"]
        kernel, bias = (masked[name].astype(dtype) for name in ("kernel", "bias"))
        x = activation(jnp.einsum("...D,DE->...E", hidden.astype(dtype), kernel) + bias)
        x = norm.apply({"params": masked["norm"]}, x)
        logits = product_in_float32("...D,VD->...V", x, table.astype(dtype))
        return logits + masked["vocab_bias"].astype(jnp.float32)

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        outputs = encoder.apply({"params": params}, batch, rngs)
        if encoder.masked_head:
            outputs["logits"] = unembed(params, outputs["hidden"])
        return outputs

    return Model(
        init=init,
        apply=apply,
        head=head if encoder.masked_head else no_masked_head,
        unembed=unembed if encoder.masked_head else no_masked_head,
    )


def no_masked_head(*_: Any) -> Any:
    raise config.InputError(
        "model.masked_head = False: nothing tells the masked tokens that the objective asks for; "
        "allowed here is True."
    )


def check(encoder: Encoder) -> None:
    """Refuses fields that do not go together."""
    config.known("model.norm_placement", encoder.norm_placement, PLACEMENTS)
    config.known("model.pooling", encoder.pooling, POOLINGS)
    config.known("model.masked_activation", encoder.masked_activation, feedforward.ACTIVATIONS)
    for name in ("token_types", "position_offset", "classes", "token_classes"):
        if getattr(encoder, name) < 0:
            raise config.InputError(f"model.{name} = {getattr(encoder, name)}: at least 0.")
    for name in ("next_sentence", "classes"):
        if getattr(encoder, name) and not encoder.pooler:
            raise config.InputError(
                f"model.{name} = {getattr(encoder, name)} is told from the pooled vector, and "
                "model.pooler = False; allowed is True."
            )
