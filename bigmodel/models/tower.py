"""A tower: a stack of transformer layers, run out of the fields of whatever family has one.

A family's module has those fields of `Shape` that its config should show, under the same names;
the rest stay at their defaults. `run` is called inside the module's own `__call__`, and makes the
stack's parameters there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import attention, block, dropout, stack
from bigmodel.models import transformer


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the layers of a tower are made of; see `models.decoder.Decoder` for each field."""

    width: int
    layers: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    hidden: int = 0
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    norm_bias: bool = True
    norm_offset: float = 0.0
    norm_placement: str = "pre"
    qk_norm: str = "none"
    feedforward: str = "gelu"
    bias: bool = True
    qkv_bias: bool | None = None
    key_bias: bool = True
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    init_residual: str = "same"
    dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    remat_save: tuple[str, ...] = ()
    remat_offload: tuple[str, ...] = ()
    scan: bool | None = None
    attend: Callable = attention.reference
    run: Callable = stack.scanned
    einsum: Callable = jnp.einsum
    kv_rank: int = 0  # of latent attention, which no tower has


def shape_of(family: Any, **chosen: Any) -> Shape:
    """The fields of `Shape` that a family's module has, and some chosen otherwise."""
    names = {field.name for field in dataclasses.fields(Shape)}
    own = {f.name: getattr(family, f.name) for f in dataclasses.fields(family) if f.name in names}
    return Shape(**{**own, **chosen})


def run(
    module: nn.Module,
    shape: Shape,
    x: jax.Array,
    *,
    name: str = "layers",
    causal: bool = False,
    batch: Mapping[str, jax.Array | None],
    key: jax.Array | None = None,
    first: int = 0,
    angles: tuple[jax.Array, jax.Array] | None = None,
    seen: Mapping[str, jax.Array] | None = None,
    memory: tuple[jax.Array, jax.Array | None] | None = None,
    cross: bool = False,
    cache: dict[str, jax.Array] | None = None,
    condition: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """x through the layers, and the cache after them.  [B, T, D] -> [B, T, D]

    Args:
        module: within whose `__call__` this is; its parameter `name` is the stack.
        shape: of the layers.
        x: what goes in.
        name: of the parameters, and the logical axis of their stack.
        causal: whether a token sees no later one.
        batch: "rows" [B], "segments" [B, T] or None, "indices" [B or 1, T] or None of x.
        key: of dropout; None: nothing is dropped.
        first: number of the first layer among all that draw masks by this key.
        angles: rotary, of the tokens.
        seen: "bias" and "prefix" of `attention.reference`.
        memory: another sequence that each layer sees besides [B, S, D], and its segments.
        cross: whether the layers see another sequence, in `memory` or in the cache.
        cache: see `layers.self_attention.extend`; of this stack.
        condition: what modulates every layer [B, D] (`layers.modulated`), or None.
    """
    layer_block: nn.Module = transformer.make_block(
        shape, causal=causal, cross=cross, key_bias=shape.key_bias
    )
    if condition is not None:
        layer_block = transformer.make_modulated_block(shape, causal=causal)
    seen = dict(seen or {})
    # Of its parameters only the shapes of its inputs matter: one row, one token.
    of_token = None if angles is None else jax.tree.map(lambda a: a[:1, :1], angles)
    token = x[:1, :1]
    more: dict[str, Any] = {"memory": (token, None)} if cross else {}
    more |= {} if condition is None else {"condition": condition[:1]}
    example = (token, None, of_token, None)
    params = stack.parameter(module, name, layer_block, shape.layers, *example, **more)
    if module.is_initializing():  # nobody reads what comes out
        return x, cache

    def of_layer(_, layer_params, layer, x, side, cache):
        keys = dropout.row_keys(key, first + layer, side["rows"])
        how = dict(indices=side["indices"], layer=layer, cache=cache, seen=side["seen"])
        if cross:
            how["memory"] = side["memory"]
        if condition is not None:
            how["condition"] = side["condition"]
        given = (x, side["segments"], side["angles"], keys)
        return layer_block.apply({"params": layer_params}, *given, **how)

    side: dict[str, Any] = {name: batch[name] for name in ("rows", "segments", "indices")}
    side |= {"angles": angles, "seen": seen, "memory": memory or (None, None)}
    side["condition"] = condition
    runner = stack.unrolled if shape.scan is False else shape.run
    body: stack.Body = of_layer
    if cache is None:
        policy = (shape.remat, shape.remat_save, shape.remat_offload)
        body = stack.remat(body, *policy, looped=runner is not stack.unrolled)
    elif shape.scan is not False:
        runner = stack.scanned
    x, cache, _ = runner(body, params, x, side, cache, ("global",))
    return x, cache


def dropped(
    shape: Shape, x: jax.Array, key: jax.Array | None, *, layer: int, batch: Mapping[str, Any]
) -> jax.Array:
    """Dropout of what goes into a tower; `layer` is a number that no layer has."""
    keys = dropout.row_keys(key, layer, batch["rows"])
    x = dropout.dropout(x, keys, rate=shape.dropout, site=0, indices=batch["indices"])
    return block.Block.constrain(x)


def about(batch: Mapping[str, jax.Array], like: jax.Array, *, segments: str = "segments") -> dict:
    """The arrays of a batch that say whose tokens they are, where it leaves some out.

    Args:
        batch: of the model.
        like: [B, T, ...], what they are about.
        segments: their name in the batch.
    """
    B, T = like.shape[:2]
    return {
        "rows": batch.get("rows", jnp.arange(B)),
        "segments": batch.get(segments),
        "indices": batch.get("indices", jnp.arange(T)[None]),
    }
