"""By hand: what moves keys and tokens between devices, a ring of attention and experts.

To be called under `jax.shard_map`, on a device's own part; see by_hand.py.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigmodel.layers import attention_parts
from bigmodel.sharding import splash

PARTS = splash.Parts()


@jax.custom_vjp
def ring(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention, keys and values sent round (Liu et al. 2023, arXiv:2310.01889)."""
    return ring_forward(q, k, v)[0]


def visit(step: Any, pair: Any, nothing: Any) -> Any:
    """`pair`, told whether causal, of the keys that have come; of later keys `nothing`."""
    me = lax.axis_index("context")
    owner = (me - step) % lax.axis_size("context")
    which = jnp.where(owner == me, 1, jnp.where(owner < me, 2, 0))
    return lax.switch(which, [lambda: nothing, lambda: pair(True), lambda: pair(False)])


def send(arrays: Any) -> Any:
    n = lax.axis_size("context")
    to_next = [(r, (r + 1) % n) for r in range(n)]
    return jax.tree.map(lambda x: lax.ppermute(x, "context", to_next), arrays)


def seen(q: jax.Array, causal: bool) -> attention_parts.Seen:
    return attention_parts.Seen(0, causal, 0, q.shape[-1] ** -0.5, 0.0)


def ring_forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple:
    def see(step, part, kv):
        def pair(causal):
            return PARTS.forward(seen(q, causal), q, *kv, None, None)

        return attention_parts.join(part, visit(step, pair, attention_parts.nothing(q, v)))

    def turn(carry, step):
        part, kv = carry
        return (see(step, part, kv), send(kv)), None

    turns = jnp.arange(lax.axis_size("context") - 1)
    carry, _ = lax.scan(turn, (attention_parts.nothing(q, v), (k, v)), turns)
    out, lse = see(len(turns), *carry)
    out = out.astype(q.dtype)
    return out, (q, k, v, out, lse)


def ring_backward(kept: tuple, grad: jax.Array) -> tuple:
    q, k, v, out, lse = kept

    def see(step, dq, kv, dkv):
        def pair(causal):
            return PARTS.backward(seen(q, causal), q, *kv, None, None, out, lse, grad)

        total = (dq, *dkv)
        found = visit(step, pair, jax.tree.map(jnp.zeros_like, total))
        dq, *dkv = jax.tree.map(jnp.add, total, tuple(found))
        return dq, tuple(dkv)

    def turn(carry, step):
        dq, kv, dkv = carry
        dq, dkv = see(step, dq, kv, dkv)
        return (dq, send(kv), send(dkv)), None

    turns = jnp.arange(lax.axis_size("context") - 1)
    dq, dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
    carry, _ = lax.scan(turn, (dq, (k, v), (dk, dv)), turns)
    dq, dkv = see(len(turns), *carry)
    return dq.astype(q.dtype), *(x.astype(k.dtype) for x in send(dkv))


ring.defvjp(ring_forward, ring_backward)


def experts(fields: Any, params: Any, x: jax.Array) -> jax.Array:
    """Each token through its experts, which are on some device.  [B, T, D] -> [B, T, D]"""
    E, k = fields["experts"], fields["experts_per_token"]
    logits = jnp.einsum("BTD,DE->BTE", x.astype(jnp.float32), params["router"]["kernel"])
    weights, chosen = lax.top_k(jax.nn.softmax(logits), k)
    weights = weights / weights.sum(-1, keepdims=True)

    expert = chosen.reshape(-1)
    order = jnp.argsort(expert)
    rows = x.reshape(-1, x.shape[-1])[order // k]
    counts = lax.all_gather(jnp.bincount(expert, length=E).astype(jnp.int32), "expert")
    ways = Ways.of(counts)
    room = lax.axis_size("expert") * len(rows)  # all might come here
    y = through(params, ways.there(rows, room), ways.sizes)
    y = ways.back(y, len(rows))[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return jnp.einsum("BTkD,BTk->BTD", y.astype(jnp.float32), weights).astype(x.dtype)


def through(params: Any, rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """Groups of rows through the device's own experts."""

    def kernel(name, dim):
        local = params[name]["kernel"].astype(rows.dtype)
        return lax.all_gather(local, ("fsdp", "context"), axis=dim, tiled=True)

    gate = lax.ragged_dot(rows, kernel("gate", 1), sizes)
    up = lax.ragged_dot(rows, kernel("up", 1), sizes)
    return lax.ragged_dot(jax.nn.silu(gate) * up, kernel("down", 2), sizes)


class Ways(NamedTuple):
    """Where each device's rows for each expert lie, at home and at the expert's: [devices, E].

    Attributes:
        counts: how many.
        begin: at home, where rows lie by expert.
        place: at the expert's, where they lie by expert and then by where they came from.
        sizes: rows of the experts that are here.
    """

    counts: jax.Array
    begin: jax.Array
    place: jax.Array
    sizes: jax.Array

    @classmethod
    def of(cls, counts: jax.Array) -> "Ways":
        n, E = counts.shape
        of_expert = counts.sum(0).reshape(n, E // n)
        first = (jnp.cumsum(of_expert, axis=1) - of_expert).reshape(-1)
        place = first + jnp.cumsum(counts, axis=0) - counts
        begin = jnp.cumsum(counts, axis=1) - counts
        return cls(counts, begin, place, of_expert[lax.axis_index("expert")])

    def there(self, rows: jax.Array, room: int) -> jax.Array:
        """Rows to where their experts are."""
        tables = mine(self.begin), mine(self.counts), mine(self.place), here(self.counts)
        return exchange(rows, room, *tables)

    def back(self, rows: jax.Array, room: int) -> jax.Array:
        """And home."""
        tables = here(self.place), here(self.counts), here(self.begin), mine(self.counts)
        return exchange(rows, room, *tables)


def exchange(rows: jax.Array, room: int, *tables: jax.Array) -> jax.Array:
    empty = jnp.zeros((room, rows.shape[1]), rows.dtype)
    return lax.ragged_all_to_all(rows, empty, *tables, axis_name="expert")


def mine(table: jax.Array) -> jax.Array:
    """Of a table what it says of this device's rows."""
    return table[lax.axis_index("expert")]


def here(table: jax.Array) -> jax.Array:
    """Of a table what it says of this device's experts, by where rows come from."""
    E = table.shape[1] // table.shape[0]
    return lax.dynamic_slice_in_dim(table, lax.axis_index("expert") * E, E, axis=1).reshape(-1)
