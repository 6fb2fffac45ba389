"""Attention over a length that is cut over the mesh axis "context", under `jax.shard_map`.

`ring`: keys and values go round the devices, each of which joins what its own queries find in them
(Liu et al. 2023, Ring Attention, arXiv:2310.01889). Causal work is even on all of them because a
row is laid out in zig-zag (`zigzag`): of 2n chunks device r has the chunks r and 2n - 1 - r.

`all_to_all`: before attention each device gives up its part of the length for a part of the heads,
and afterwards the other way round (Jacobs et al. 2023, DeepSpeed Ulysses, arXiv:2309.14509).

Both have the contract of `layers.attention.reference`, in the order of the batch that is theirs.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from bigmodel.layers import attention, attention_parts
from bigmodel.layers.attention_parts import Parts, Seen
from bigmodel.sharding import rules

AXIS = "context"


def zigzag(length: int, parts: int) -> np.ndarray:
    """The order of a row of `length` tokens: `row[zigzag(...)]` is cut evenly into `parts`.

    4 devices, 8 chunks      device 0   1   2   3
                       chunks       0 7 1 6 2 5 3 4
    """
    chunks = np.arange(length).reshape(2 * parts, -1)
    pairs = [chunks[[r, 2 * parts - 1 - r]] for r in range(parts)]
    return np.concatenate(pairs).reshape(-1)


def in_order(batch: Mapping[str, Any], order: np.ndarray) -> dict[str, Any]:
    """A batch with its length in another order, each token with its own position and index."""
    T = len(order)
    row = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), batch["tokens"].shape)
    whole = {"positions": row, "indices": row, **batch}
    along = {name for name, x in whole.items() if x.ndim > 1 and x.shape[1] == T}
    return {name: x[:, order] if name in along else x for name, x in whole.items()}


def spread(x: jax.Array, devices: int) -> jax.Array:
    """Key or value heads repeated until `devices` divide them, each beside its own queries."""
    K = x.shape[2]
    return x if K % devices == 0 else jnp.repeat(x, math.lcm(K, devices) // K, axis=2)


def all_to_all(
    local: attention.Attend,
    mesh: Mesh,
    known: Mapping[str, Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """Attention of whole rows for some of the heads on each device.  [B, T, H, C] -> [B, T, H, C]

    Args:
        local: attention for one device.
        mesh: of the run.
        known: mesh axes of the logical axes "batch" and "act_heads".
        q: see `attention.reference`, also for all that follow.
    """

    def run(q, k, v, segments=None, kv_segments=None):
        exchange = functools.partial(jax.lax.all_to_all, axis_name=AXIS, tiled=True)
        q, k, v = (exchange(x, split_axis=2, concat_axis=1) for x in (q, k, v))
        if segments is not None:
            gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
            segments, kv_segments = gather(segments), gather(kv_segments)
        out = local(q, k, v, segments, kv_segments, **options)
        return exchange(out, split_axis=1, concat_axis=2)

    devices = rules.parts(mesh, known["act_heads"]) * mesh.shape[AXIS]
    return per_device(run, mesh, known, devices, q, k, v, segments, kv_segments)


def per_device(
    run: Callable[..., jax.Array],
    mesh: Mesh,
    known: Mapping[str, Any],
    devices: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None,
    kv_segments: jax.Array | None,
) -> jax.Array:
    """`run` under shard_map, for heads of keys and values that `devices` divide."""
    k, v = spread(k, devices), spread(v, devices)
    kv_segments = segments if kv_segments is None else kv_segments
    rows = PartitionSpec(known["batch"], known["length"])
    of_heads = PartitionSpec(known["batch"], known["length"], known["act_heads"], None)
    arrays, specs = [q, k, v], [of_heads] * 3
    if segments is not None and kv_segments is not None:
        arrays, specs = [*arrays, segments, kv_segments], [*specs, rows, rows]
    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=tuple(specs), out_specs=of_heads, check_vma=False
    )
    return mapped(*arrays)


def ring(
    parts: Parts,
    mesh: Mesh,
    known: Mapping[str, Any],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | None = None,
    kv_segments: jax.Array | None = None,
    *,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
    """Ring attention, causal rows in zig-zag.  [B, T, H, C] -> [B, T, H, C]

    Args:
        parts: attention to a part of the keys, plain or a kernel's.
        mesh: of the run.
        known: mesh axes of the logical axes "batch" and "act_heads".
        q: see `attention.reference`, also for all that follow.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    n = mesh.shape[AXIS]
    chunk = q.shape[1] // (2 * n if causal else n)
    run = functools.partial(around, Ring(parts, n, chunk, causal, window, scale, softcap))
    devices = rules.parts(mesh, known["act_heads"])
    return per_device(run, mesh, known, devices, q, k, v, segments, kv_segments)


class Ring(NamedTuple):
    """What a ring is made of, and who sees whom in it.

    Attributes:
        parts: attention to a part of the keys.
        devices: n, along the axis "context".
        chunk: tokens in a chunk of the row.
        causal: whether a query sees no later key; then rows are in zig-zag.
        window: 0, or how many keys a query sees.
        scale: of the scores.
        softcap: 0, or their bound.
    """

    parts: Parts
    devices: int
    chunk: int
    causal: bool
    window: int
    scale: float
    softcap: float

    @property
    def pieces(self) -> range:
        """Chunks of the row that each device has."""
        return range(2 if self.causal else 1)

    def number(self, device: jax.Array, piece: int) -> jax.Array:
        """Which chunk of the row it is."""
        return 2 * self.devices - 1 - device if piece else device

    def visit(self, step, i: int, j: int, pair: Callable[[Seen], Any], otherwise: Any) -> Any:
        """What my piece i sees at a step in piece j of the keys that have come: `pair(seen)`.

        `otherwise` is what comes of pieces that do not see each other: nothing is computed then.
        Who sees whom depends on how many chunks the queries are behind the keys, and that on the
        device; each case is compiled, and one of them runs.
        """
        me = jax.lax.axis_index(AXIS)
        owner = (me - step) % self.devices
        behind = self.number(me, i) - self.number(owner, j)
        if not self.causal and not self.window:
            return pair(self.seen(1))
        if not self.window:  # the same chunk, or any before it
            cases, which = [0, 1], jnp.where(behind < 0, 0, 1 + jnp.minimum(behind, 1))
        else:
            most = (self.window - 2) // self.chunk + 1  # chunks that a window reaches into
            cases = list(range(0 if self.causal else -most, most + 1))
            inside = (behind >= cases[0]) & (behind <= cases[-1])
            which = jnp.where(inside, 1 + behind - cases[0], 0)
        branches = [functools.partial(pair, self.seen(case)) for case in cases]
        return jax.lax.switch(which, [lambda: otherwise, *branches])

    def seen(self, behind: int) -> Seen:
        """Who sees whom between queries and keys that are so many chunks apart."""
        causal = self.causal and behind == 0
        return Seen(behind * self.chunk, causal, self.window, self.scale, self.softcap)

    def piece(self, arrays: Any, i: int) -> Any:
        """Of arrays [B, T / n, ...] the piece i."""
        return jax.tree.map(lambda x: x[:, i * self.chunk : (i + 1) * self.chunk], arrays)

    def send(self, arrays: Any) -> Any:
        """To the next device of the ring."""
        to_next = [(r, (r + 1) % self.devices) for r in range(self.devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, to_next), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def around(ring: Ring, q, k, v, segments=None, kv_segments=None) -> jax.Array:
    """Attention of a device's own queries [B, T / n, H, C] to the keys of all devices."""
    return forward(ring, q, k, v, segments, kv_segments)[0]


def forward(ring: Ring, q, k, v, segments, kv_segments):
    """The output, and what the gradient needs."""

    def see(step, part, kv):
        """The part, and what is in the keys and values that have come."""
        found = []
        for i in ring.pieces:
            mine, segments_i = ring.piece((q, segments), i)
            of_piece = ring.piece(part, i)
            for j in ring.pieces:
                keys, values, segments_j = ring.piece(kv, j)
                arrays = (mine, keys, values, segments_i, segments_j)

                def joined(seen, arrays=arrays, before=of_piece):
                    return attention_parts.join(before, ring.parts.forward(seen, *arrays))

                of_piece = ring.visit(step, i, j, joined, of_piece)
            found.append(of_piece)
        return whole(found)

    def step(carry, number):
        part, kv = carry
        onward = ring.send(kv)  # on its way while this device computes
        return (see(number, part, kv), onward), None

    carry = attention_parts.nothing(q, v), (k, v, kv_segments)
    carry, _ = jax.lax.scan(step, carry, jnp.arange(ring.devices - 1))
    out, lse = see(ring.devices - 1, *carry)
    out, lse = (checkpoint_name(x, "attention") for x in (out.astype(q.dtype), lse))
    return out, (q, k, v, segments, kv_segments, out, lse)


def backward(ring: Ring, kept, grad):
    """Gradients of q, k and v; those of k and v go round with them and come home."""
    q, k, v, segments, kv_segments, out, lse = kept
    own = (q, segments, out, lse, grad)

    def see(step, of_q, kv, of_kv):
        of_q, of_kv = list(of_q), list(of_kv)
        for i in ring.pieces:
            mine, segments_i, *rest = ring.piece(own, i)
            for j in ring.pieces:
                keys, values, segments_j = kv[j]
                arrays = (mine, keys, values, segments_i, segments_j, *rest)
                before = (of_q[i], *of_kv[j])

                def added(seen, arrays=arrays, before=before):
                    return tuple(map(jnp.add, before, ring.parts.backward(seen, *arrays)))

                of_q[i], *of_kv[j] = ring.visit(step, i, j, added, before)  # in place
        return of_q, of_kv

    def step(carry, number):
        of_q, kv, of_kv = carry
        onward = ring.send(kv)
        of_q, of_kv = see(number, of_q, kv, of_kv)
        return (of_q, onward, ring.send(of_kv)), None

    # Gradients stay in pieces until the end: put together at each step they would be there twice.
    zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)]
    of_q, *of_kv = ([ring.piece(x, i) for i in ring.pieces] for x in zeros)
    kv = [ring.piece((k, v, kv_segments), j) for j in ring.pieces]
    carry = of_q, kv, list(map(list, zip(*of_kv, strict=True)))
    carry, _ = jax.lax.scan(step, carry, jnp.arange(ring.devices - 1))
    of_q, of_kv = see(ring.devices - 1, *carry)
    dq, (dk, dv) = jnp.concatenate(of_q, axis=1), whole(ring.send(of_kv))
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None


around.defvjp(forward, backward)


def whole(pieces: list[tuple]) -> tuple:
    """Tuples of arrays, one for each piece of the length, as one tuple."""
    return tuple(jnp.concatenate(each, axis=1) for each in zip(*pieces, strict=True))
