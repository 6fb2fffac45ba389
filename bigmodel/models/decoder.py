"""The decoder-only transformer: GPT, Llama, Mistral, Qwen and Gemma by configuration alone."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import attention, block, dropout, placing, positions, stack
from bigmodel.layers import experts as expert_layers
from bigmodel.layers.linear import Table
from bigmodel.models import transformer, unembedding
from bigmodel.models.handle import Batch, Model, Outputs, Params


class Decoder(nn.Module):
    """Tokens to hidden vectors and logits.  int [B, T] -> [B, T, D], float32 [B, T, V]

    Radford et al. 2019 (GPT-2), Touvron et al. 2023 (Llama, arXiv:2302.13971), Jiang et al. 2023
    (Mistral, arXiv:2310.06825), Yang et al. 2025 (Qwen3, arXiv:2505.09388), Gemma Team 2024 and
    2025 (arXiv:2408.00118, arXiv:2503.19786).

    Causal, but for what a batch's `prefix` [B, T] marks: those tokens are seen from everywhere in
    their document (prefix LM: Liu et al. 2018, arXiv:1801.10198; Raffel et al. 2020,
    arXiv:1910.10683, section 3.2.1). With a cache a prefix sees no more than is given at once.

    Attributes:
        vocab: V, rows of the embedding table.
        width: D, of the residual stream.
        layers: how many.
        heads: H, of queries.
        kv_heads: K, of keys and values; 0: H. 1 is multi-query attention.
        head_dim: C; 0: D / H.
        kv_rank: 0, or of latent attention (layers/latent_attention.py) the width of keys and values
            before their heads; `head_dim` is then that of values and of what has no position.
        query_rank: the same of queries.
        rope_dim: what a head's query and key have besides, turned by the position.
        hidden: F, of the feed-forward layer; 0: 4 D.
        length: the longest sequence; rows of the table of learned positions.
        norm: "layer" or "rms".
        norm_epsilon: of all norms.
        norm_bias: whether a layer norm has a bias.
        norm_offset: 1 where a scale is stored as its distance from one (Gemma).
        norm_placement: "pre", "post" or "both" of each layer.
        qk_norm: "none", or "rms" or "layer" for each head's query and key.
        position: "learned", "rope", "sinusoidal" or "none".
        rope_theta: base of the rotary wavelengths.
        rope_factor: stretches them; see `positions.Rotary`.
        rope_scaling: how: "linear", "llama3", "ntk", "yarn"; "": "llama3" where there is a
            `rope_original_length`, or "linear".
        rope_original_length: 0, or the length before that; for "llama3" and "yarn".
        rope_attention_factor: see `positions.Rotary`.
        rope_low: see `positions.Rotary`.
        rope_high: see `positions.Rotary`.
        rope_local_theta: 0, or the base in "local" layers, which are never stretched (Gemma 3).
        pattern: kinds of layer, repeated over the depth: "global", and "local" under the window.
        window: 0, or how many keys a query of a "local" layer sees.
        feedforward: "swiglu", "geglu", "reglu", or an activation: "gelu", "gelu_tanh", "relu",
            "relu_squared", "silu".
        experts: 0, or how many experts the feed-forward layer is made of; see `layers.router` and
            `layers.experts` for all that follow.
        experts_per_token: how many of them a token goes through.
        expert_hidden: F of one; 0: `hidden`.
        shared_experts: how many all tokens go through.
        dense_layers: first layers that have none.
        router: "softmax" or "sigmoid".
        router_normalize: whether the weights of a token's experts sum to one.
        router_scale: of the weights.
        router_balance: whether a bias of the choice keeps the experts loaded evenly.
        expert_groups: 0, or of how many groups some are chosen first.
        expert_groups_per_token: how many of them.
        expert_capacity: 0: no token is dropped; else room for so many times an even share.
        bias: whether products out of attention and in the feed-forward layer have one.
        qkv_bias: whether the products into q, k and v have one; None: as `bias`.
        attention_scale: of the scores; 0: C^-1/2.
        attention_softcap: 0, or the bound of the scores.
        logit_softcap: 0, or the bound of the logits.
        embed_scale: whether embeddings are multiplied by D^1/2 (Gemma).
        tied: whether the logits use the embedding table.
        dropout: rate on embeddings and on what each layer adds.
        attention_dropout: rate on attention's probabilities.
        init_std: standard deviation of kernels and tables; 0: kernels D^-1/2-like by fan-in.
        init_residual: "same", or "scaled": kernels that add to the stream times (2 layers)^-1/2.
        dtype: of the arithmetic.
        param_dtype: of the parameters.
        remat: a name of stack.REMAT_POLICIES.
        remat_save: activations kept, for remat "names".
        remat_offload: activations kept in the host's memory, for remat "names".
        scan: whether layers run by scan or unrolled; None: as the platform is quicker.
        attend: the implementation of attention.
        compute_experts: what runs the experts.
        run: what runs the layers where `scan` does not say otherwise and there is no cache.
        einsum: what computes products with kernels; see `linear.Einsum`.
        attention: its name; "auto": the platform's.
        context_attention: "ring" or "all_to_all", where the mesh cuts the length.
    """

    vocab: int = 50_304
    width: int = 768
    layers: int = 12
    heads: int = 12
    kv_heads: int = 0
    head_dim: int = 0
    kv_rank: int = 0
    query_rank: int = 0
    rope_dim: int = 0
    hidden: int = 0
    length: int = 1024
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    norm_offset: float = 0.0
    norm_placement: str = "pre"
    qk_norm: str = "none"
    position: str = "learned"
    rope_theta: float = 10_000.0
    rope_factor: float = 1.0
    rope_scaling: str = ""
    rope_original_length: int = 0
    rope_attention_factor: float = 0.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_local_theta: float = 0.0
    pattern: tuple[str, ...] = ("global",)
    window: int = 0
    feedforward: str = "gelu_tanh"
    experts: int = 0
    experts_per_token: int = 2
    expert_hidden: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    router: str = "softmax"
    router_normalize: bool = True
    router_scale: float = 1.0
    router_balance: bool = False
    expert_groups: int = 0
    expert_groups_per_token: int = 0
    expert_capacity: float = 0.0
    bias: bool = True
    qkv_bias: bool | None = None
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embed_scale: bool = False
    tied: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    init_residual: str = "scaled"
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    remat_save: tuple[str, ...] = ()
    remat_offload: tuple[str, ...] = ()
    scan: bool | None = None
    attend: Callable = attention.reference
    compute_experts: Callable = expert_layers.dropless
    run: Callable = stack.scanned
    einsum: Callable = jnp.einsum
    attention: str = "auto"
    context_attention: str = "ring"

    @nn.compact
    def __call__(
        self, batch: Batch, rngs: dict | None = None, cache: dict | None = None
    ) -> Outputs:
        tokens = batch["tokens"]
        B, T = tokens.shape
        start = 0 if cache is None else cache["index"]
        where = batch.get("positions")
        where = jnp.broadcast_to(start + jnp.arange(T), (1, T)) if where is None else where
        segments = batch.get("segments")
        rows = batch.get("rows", jnp.arange(B))
        indices = batch.get("indices", jnp.arange(T)[None])
        key = (rngs or {}).get("dropout")
        if cache is not None:
            segments = jnp.ones_like(tokens) if segments is None else segments
            held = jax.lax.dynamic_update_slice(cache["segments"], segments, (0, start))
            cache = cache | {"segments": held}

        x = self.embed(batch, where)
        # One number past the last layer: the embedding's masks are no layer's.
        embed_keys = dropout.row_keys(key, self.layers, rows)
        x = dropout.dropout(x, embed_keys, rate=self.dropout, site=0, indices=indices)
        x = block.Block.constrain(x)

        angles = self.angles(where)
        side = {"rows": rows, "indices": indices, "segments": segments, "angles": angles}
        side["seen"] = self.seen(batch, cache, start)
        sums: dict = {}
        for name, first, end, dense in self.stacks():
            layer_block = transformer.make_block(self, dense=dense)
            # Of its parameters only the shapes of its inputs matter: one row, one token.
            of_token = jax.tree.map(lambda a: a[:1, :1], angles[self.pattern[0]])
            example = (x[:1, :1], None, of_token, None)
            params = stack.parameter(self, name, layer_block, end - first, *example)
            body = self.body(layer_block, key, first)
            run = stack.scanned if cache or name != "layers" else self.run
            x, cache, found = self.run_layers(run, body, params, x, side, cache, first)
            if found:  # losses as a mean over the layers, so that their price knows no depth
                mean = jax.tree.map(lambda loss, n=end - first: loss / n, found["losses"])
                sums = found | {"losses": mean}

        x = transformer.make_norm(self)(name="final_norm")(x)
        x = nn.with_logical_constraint(x, ("batch", "length", "act_embed"))
        if not self.tied:
            unembedding.untied_head(self)(x[:1, :1])  # makes its parameter; `unembed` reads it
        outputs: Outputs = {"hidden": x, **sums}
        if cache is not None:
            outputs["cache"] = cache | {"index": start + T}
        return outputs

    def stacks(self) -> list[tuple[str, int, int, bool]]:
        """(name of the parameters, first layer, end, whether dense) of each stack."""
        if not self.experts:
            return [("layers", 0, self.layers, True)]
        dense = [("dense_layers", 0, self.dense_layers, True)] if self.dense_layers else []
        return [*dense, ("layers", self.dense_layers, self.layers, False)]

    def body(self, layer_block: block.Block, key: jax.Array | None, first: int) -> stack.Body:
        """One layer of a stack whose first layer has that number in the model."""

        def of_layer(kind, params, layer, x, side, cache):
            layer = first + layer
            keys = dropout.row_keys(key, layer, side["rows"])
            window = self.window if kind == "local" else 0
            return layer_block.apply(
                *({"params": params}, x, side["segments"], side["angles"][kind], keys),
                **dict(indices=side["indices"], window=window, layer=layer, cache=cache),
                seen=side["seen"],
            )

        return of_layer

    def run_layers(self, run: stack.Runner, body: stack.Body, params, x, side, cache, first: int):
        """A stack by what runs it, where `scan` does not say otherwise."""
        if self.is_initializing():  # nobody reads what comes out: tracing the layers costs a start
            return x, cache, {}
        run = stack.unrolled if self.scan is False else run
        if cache is None:
            policy = (self.remat, self.remat_save, self.remat_offload)
            body = stack.remat(body, *policy, looped=run is not stack.unrolled)
        turn = first % len(self.pattern)
        return run(body, params, x, side, cache, self.pattern[turn:] + self.pattern[:turn])

    def seen(self, batch: Batch, cache: dict | None, start: jax.Array | int) -> dict:
        """Which keys are seen from everywhere: {"prefix": bool [B, S]}, or {} where none are."""
        if "prefix" not in batch:
            return {}
        prefix = batch["prefix"].astype(bool)
        if cache is not None:
            none = jnp.zeros(cache["segments"].shape, bool)
            prefix = jax.lax.dynamic_update_slice(none, prefix, (0, start))
        return {"prefix": prefix}

    def embed(self, batch: Batch, where: jax.Array) -> jax.Array:
        tokens = batch["tokens"]
        dtypes = dict(dtype=jnp.dtype(self.dtype), param_dtype=jnp.dtype(self.param_dtype))
        init = nn.initializers.normal(self.init_std or 0.02)
        x = Table(self.vocab, self.width, ("vocab", "embed"), init, **dtypes, name="embed")(tokens)
        if self.embed_scale:
            x = x * jnp.asarray(math.sqrt(self.width), x.dtype)
        if "patches" in batch:
            x = placing.placed(x, batch["patches"], batch["image_positions"])
        if self.position == "learned":
            axes = ("positions", "embed")
            x = x + Table(self.length, self.width, axes, init, **dtypes, name="positions")(where)
        if self.position == "sinusoidal":
            x = x + positions.sinusoids(where, self.width).astype(x.dtype)
        return x

    def angles(self, where: jax.Array) -> dict[str, tuple[jax.Array, jax.Array] | None]:
        """Rotary angles for each kind of layer, made once for the whole stack."""
        if self.position != "rope":
            return {"global": None, "local": None}
        head_dim = self.rope_dim or self.head_dim or self.width // self.heads
        stretch = (self.rope_factor, self.rope_original_length, self.rope_low, self.rope_high)
        how = (self.rope_scaling, self.rope_attention_factor)
        of_global = positions.Rotary(self.rope_theta, *stretch, *how).angles(where, head_dim)
        if not self.rope_local_theta:
            return {"global": of_global, "local": of_global}
        of_local = positions.Rotary(self.rope_local_theta).angles(where, head_dim)
        return {"global": of_global, "local": of_local}


def make(**fields) -> Model:
    """The handle of a decoder with the fields of `Decoder`."""
    decoder = Decoder(**fields)

    def init(rng: jax.Array, batch: Batch) -> Params:
        return decoder.init(rng, batch)["params"]

    def unembed(params: Params, hidden: jax.Array) -> jax.Array:
        logits = unembedding.logits(decoder, params, hidden)
        if decoder.logit_softcap:
            logits = decoder.logit_softcap * jnp.tanh(logits / decoder.logit_softcap)
        return logits

    def apply(params: Params, batch: Batch, rngs=None, cache=None) -> Outputs:
        outputs = decoder.apply({"params": params}, batch, rngs, cache)
        return outputs | {"logits": unembed(params, outputs["hidden"])}

    def new_cache(params: Params, batch: Batch, length: int) -> dict:
        B = batch["tokens"].shape[0]
        K = decoder.kv_heads or decoder.heads
        C = decoder.head_dim or decoder.width // decoder.heads
        axes = ("layers", "batch", None, "act_kv_heads", None)

        def empty(dim: int) -> jax.Array:
            zeros = jnp.zeros((decoder.layers, B, length, K, dim), decoder.dtype)
            return nn.with_logical_constraint(zeros, axes)

        segments = jnp.zeros((B, length), jnp.int32)
        key, value = empty(C + decoder.rope_dim), empty(C)
        return {"key": key, "value": value, "segments": segments, "index": jnp.int32(0)}

    head = functools.partial(unembedding.head, decoder)
    return Model(init=init, apply=apply, head=head, unembed=unembed, new_cache=new_cache)
