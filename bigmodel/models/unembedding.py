"""From hidden vectors to logits: through the embedding table, or a head of its own.

Each function takes a family's module, and reads its fields `tied`, `width`, `vocab` and the dtypes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bigmodel.layers.linear import Einsum, gathered, product_in_float32
from bigmodel.models import transformer
from bigmodel.models.handle import Params

TABLE, KERNEL = ("vocab", "embed"), ("embed", "vocab")


def untied_head(of: Any) -> Einsum:
    """Makes the head's parameter, within the module's `__call__`; `logits` reads it."""
    return Einsum(
        equation="BTD,DV->BTV",
        shape=(of.width, of.vocab),
        axes=KERNEL,
        initializer=transformer.initializers(of)[0],
        **transformer.dtypes(of),
        name="head",
    )


def head(of: Any, params: Params) -> Params:
    """The part of the parameters that `logits` reads, as `models.handle.Model.head` says."""
    dtype = jnp.dtype(of.dtype)
    if of.tied:
        return {"embed": {"table": gathered(params["embed"]["table"].astype(dtype), TABLE)}}
    return {"head": {"kernel": gathered(params["head"]["kernel"].astype(dtype), KERNEL)}}


def logits(of: Any, params: Params, hidden: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., V]"""
    dtype = jnp.dtype(of.dtype)
    hidden = hidden.astype(dtype)
    if of.tied:
        table = params["embed"]["table"].astype(dtype)
        return product_in_float32("...D,VD->...V", hidden, table)
    kernel = params["head"]["kernel"].astype(dtype)
    return product_in_float32("...D,DV->...V", hidden, kernel)
