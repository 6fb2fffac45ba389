"""A layout's step as one writes it by hand under `jax.shard_map`: what bigmodel's is held against.

The same decoder, in the dtypes of the config, with its parameters where the rules have them: a
kernel is gathered over what cuts its width just before it is used, and the transpose of that
scatters the sum of its gradient (FSDP); products into and out of heads and hidden width are cut
over "tensor" (Megatron-LM, Shoeybi et al. 2019, arXiv:1909.08053, figure 3). Attention over a cut
length and experts are in by_hand_moves.py. The kernel of attention is the same on both sides.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from bigmodel import recipe as recipes
from bigmodel.sharding import rules, splash
from tests.sharding import by_hand_moves as moves

CHUNKS = 4  # of the logits: a quarter of them exists at one time
WIDTH = ("fsdp", "expert", "context")  # what cuts the width of kernels
TOKENS = ("data", "fsdp", "expert", "context")  # what cuts rows and their length


def gradient(recipe: recipes.Recipe, params: Any, batch: dict[str, jax.Array]) -> tuple:
    """(loss sum, gradients where the parameters are)."""
    places = rules.shardings(recipe.boxed_params, recipe.rules, recipe.mesh)
    specs = jax.tree.map(lambda place: place.spec, places)
    of_batch = PartitionSpec(("data", "fsdp", "expert"), "context")

    def local(params, tokens, targets):
        value = functools.partial(loss, recipe.fields)
        found, grads = jax.value_and_grad(value)(params, tokens, targets)
        summed = functools.partial(jax.tree.map, lambda grad: lax.psum(grad, TOKENS))
        layers = grads["layers"]
        layers |= {name: summed(layers[name]) for name in ("attention_norm", "feedforward_norm")}
        if "experts" in layers:
            layers["experts"] |= {"router": summed(layers["experts"]["router"])}
        return lax.psum(found, TOKENS), grads | {"final_norm": summed(grads["final_norm"])}

    mapped = jax.shard_map(
        local,
        mesh=recipe.mesh,
        in_specs=(specs, of_batch, of_batch),
        out_specs=(PartitionSpec(), specs),
        check_vma=False,
    )
    return mapped(params, batch["tokens"], batch["targets"])


def gathered(kernel: jax.Array, dim: int, axes: tuple[str, ...] = WIDTH) -> jax.Array:
    """Whole along a dimension, in bfloat16; the sum of its gradient is scattered."""
    return lax.all_gather(kernel.astype(jnp.bfloat16), axes, axis=dim, tiled=True)


@jax.custom_vjp
def copied(x: jax.Array) -> jax.Array:
    """x, whose gradient is summed over "tensor": Megatron's f."""
    return x


copied.defvjp(lambda x: (x, None), lambda _, grad: (lax.psum(grad, "tensor"),))


@jax.custom_vjp
def summed(x: jax.Array) -> jax.Array:
    """The sum of x over "tensor", whose gradient is copied: Megatron's g."""
    return lax.psum(x, "tensor")


summed.defvjp(lambda x: (lax.psum(x, "tensor"), None), lambda _, grad: (grad,))


def loss(fields: Any, params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
    """The loss sum of a device's own tokens."""
    x = looked_up(params["embed"]["table"], tokens)
    layer = jax.checkpoint(functools.partial(of_layer, fields), prevent_cse=False)
    x, _ = lax.scan(lambda x, p: (layer(x, p), None), x, params["layers"])
    x = norm(x, params["final_norm"]["scale"])
    return cross_entropy(params["head"]["kernel"], x, targets)


def of_layer(fields: Any, x: jax.Array, params: Any) -> jax.Array:
    """One layer, pre-norm."""
    h = norm(x, params["attention_norm"]["scale"])
    x = x + attention(params["attention"], h)
    h = norm(x, params["feedforward_norm"]["scale"])
    if "experts" in params:
        return x + moves.experts(fields, params["experts"], h)
    return x + feedforward(params["feedforward"], h)


def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)
    return (y * scale).astype(x.dtype)


def attention(params: Any, x: jax.Array) -> jax.Array:
    """Each device's own heads.  [B, T, D] -> [B, T, D]"""
    x = copied(x)
    q, k, v = (
        jnp.einsum("BTD,DHC->BTHC", x, gathered(params[name]["kernel"], 0))
        for name in ("query", "key", "value")
    )
    attend = moves.ring if lax.axis_size("context") > 1 else splash.splash
    out = attend(q, k, v)
    return summed(jnp.einsum("BTHC,HCD->BTD", out, gathered(params["out"]["kernel"], 2)))


def feedforward(params: Any, x: jax.Array) -> jax.Array:
    """Each device's own hidden width.  [B, T, D] -> [B, T, D]"""
    x = copied(x)
    gate = jnp.einsum("BTD,DF->BTF", x, gathered(params["gate"]["kernel"], 0))
    up = jnp.einsum("BTD,DF->BTF", x, gathered(params["up"]["kernel"], 0))
    down = gathered(params["down"]["kernel"], 1)
    return summed(jnp.einsum("BTF,FD->BTD", jax.nn.silu(gate) * up, down))


def of_vocabulary(ids: jax.Array, rows: int) -> jax.Array:
    """Ids within the device's own part of the vocabulary; others are outside of it."""
    return ids - lax.axis_index("tensor") * rows


def looked_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of a table that is cut along both; each token's row is on one device.  -> [B, T, D]"""
    table = gathered(table, 1)
    ids = of_vocabulary(tokens, table.shape[0])
    own = (ids >= 0) & (ids < table.shape[0])
    return summed(jnp.where(own[..., None], jnp.take(table, ids, axis=0, mode="clip"), 0))


@jax.custom_vjp
def cross_entropy(kernel: jax.Array, x: jax.Array, targets: jax.Array) -> jax.Array:
    """Its sum, in float32, chunk by chunk; the gradient is made while the logits are there."""
    return with_gradient(kernel, x, targets)[0]


def with_gradient(kernel: jax.Array, x: jax.Array, targets: jax.Array) -> tuple:
    head = gathered(kernel, 0)

    def step(carry, chunk):
        total, of_head = carry
        value, (head_grad, x_grad) = jax.value_and_grad(of_chunk, (0, 1))(head, *chunk)
        return (total + value, of_head + head_grad), x_grad

    def cut(array):
        chunks = array.reshape(array.shape[0], CHUNKS, -1, *array.shape[2:])
        return jnp.moveaxis(chunks, 1, 0)

    zeros = jnp.float32(0), jnp.zeros(head.shape, jnp.float32)
    (total, of_head), of_x = lax.scan(step, zeros, (cut(x), cut(targets)))
    of_head = lax.psum_scatter(of_head, WIDTH, scatter_dimension=0, tiled=True)
    return total, (of_head, jnp.moveaxis(of_x, 0, 1).reshape(x.shape), None)


def of_chunk(head: jax.Array, x: jax.Array, targets: jax.Array) -> jax.Array:
    logits = jnp.einsum("BTD,DV->BTV", copied(x), head, preferred_element_type=jnp.float32)
    top = lax.pmax(lax.stop_gradient(logits.max(-1, keepdims=True)), "tensor")
    log_z = jnp.log(summed(jnp.exp(logits - top).sum(-1))) + top[..., 0]
    hit = jnp.arange(logits.shape[-1]) == of_vocabulary(targets, logits.shape[-1])[..., None]
    return (log_z - summed(jnp.where(hit, logits, 0).sum(-1))).sum()


cross_entropy.defvjp(
    with_gradient,
    lambda grads, factor: tuple(g if g is None else (g * factor).astype(g.dtype) for g in grads),
)
