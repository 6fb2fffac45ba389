"""Experts on a mesh: each device has some of them, and tokens go to where theirs are.

Under `jax.shard_map` a device sorts its own tokens by expert and sends them over the mesh axis
"expert" (all-to-all), runs its own experts on what comes, and sends the results home. The contract
is that of `layers.experts.dropless` and `with_room`: same arguments, same result, other place.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from bigmodel import config
from bigmodel.layers import experts
from bigmodel.layers.experts import Compute, Kernels
from bigmodel.layers.router import Routes
from bigmodel.sharding import rules

AXIS = "expert"


def make(mesh: Mesh, table: rules.Rules, *, capacity: float) -> Compute:
    """What runs the experts of a mesh; `capacity` 0 is dropless."""
    known = dict(table)
    cut = tuple(axis for axis in rules.as_tuple(known["experts"]) if mesh.shape[axis] > 1)
    if cut not in ((), (AXIS,)):
        raise config.InputError(
            f"rules: logical axis 'experts' lies on {known['experts']!r}; tokens know how to go "
            f"over mesh axis {AXIS!r} alone, or None."
        )
    plain = experts.with_room if capacity else experts.dropless
    if mesh.size == 1:
        return plain
    if not cut:  # each device has all experts: its tokens stay
        return functools.partial(on_mesh, lambda *given, platform: plain(*given), mesh, known)
    return functools.partial(on_mesh, with_room if capacity else dropless, mesh, known)


def on_mesh(
    local: Any, mesh: Mesh, known: Mapping[str, Any], x: jax.Array, routes: Routes, kernels: Kernels
) -> jax.Array:
    """`local` on each device's own tokens and experts.  [B, T, D] -> [B, T, D]

    Args:
        local: (x, routes, kernels, platform=...) -> y, of a device.
        mesh: of the run.
        known: its rules.
        x: what goes in, cut as the rules say.
        routes: of its tokens.
        kernels: gathered over all axes but those of experts and hidden width.
    """
    rows, length = known["batch"], known["length"]
    fits = x.shape[0] % rules.parts(mesh, rows) == x.shape[1] % rules.parts(mesh, length) == 0
    if not fits:  # parameters are made, from one row
        plain = experts.with_room if kernels.room else experts.dropless
        return plain(x, routes, kernels)
    of_tokens = PartitionSpec(rows, length, None)
    up = PartitionSpec(known["experts"], None, known["mlp"])
    down = PartitionSpec(known["experts"], known["mlp"], None)
    hidden_axes = tuple(a for a in rules.as_tuple(known["mlp"]) if mesh.shape[a] > 1)
    platform = mesh.devices.flat[0].platform

    def run(x, chosen, weights, keep, gate, up, down):
        own = Routes(chosen, weights, keep, {}, {})
        own_kernels = kernels._replace(gate=gate, up=up, down=down)
        y = local(x, own, own_kernels, platform=platform)
        return jax.lax.psum(y, hidden_axes) if hidden_axes else y

    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(*[of_tokens] * 4, up, up, down),
        out_specs=of_tokens,
        check_vma=False,
    )
    given = (x, routes.chosen, routes.weights, routes.keep)
    return mapped(*given, kernels.gate, kernels.up, kernels.down)


def with_room(x: jax.Array, routes: Routes, kernels: Kernels, *, platform: str) -> jax.Array:
    """Each device's slots of all experts to those who have them, and back."""
    n = jax.lax.axis_size(AXIS)
    slots = experts.Slots.of(routes, kernels.gate.shape[0] * n, kernels.room)
    exchange = functools.partial(jax.lax.all_to_all, axis_name=AXIS, tiled=True)
    rows = exchange(slots.fill(x), split_axis=1, concat_axis=2)
    y = exchange(experts.of_slots(rows, kernels), split_axis=2, concat_axis=1)
    return experts.weighed(slots.back(y), routes)


def dropless(x: jax.Array, routes: Routes, kernels: Kernels, *, platform: str) -> jax.Array:
    """Each device's tokens, sorted by expert, to those who have them, and back.

    What a device may get is not known before: there is room for all tokens of all devices that
    share the experts, each as often as it can choose one of this device's.
    """
    (B, T, D), k = x.shape, routes.chosen.shape[-1]
    here, n, me = kernels.gate.shape[0], jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    expert = routes.chosen.reshape(-1)
    order = jnp.argsort(expert, stable=True)
    rows = x.reshape(B * T, D)[order // k]

    # Of each device's rows for each expert [n, E]: how many, where they begin, and where they go in
    # the rows of the expert's owner, which lie by expert and then by sender.
    counts = jax.lax.all_gather(jnp.bincount(expert, length=n * here).astype(jnp.int32), AXIS)
    begin = jnp.cumsum(counts, axis=1) - counts
    of_owner = counts.reshape(n, n, here)
    sizes = of_owner.sum(0)  # [owner, its expert]
    group = jnp.cumsum(sizes, axis=1) - sizes
    place = (group + jnp.cumsum(of_owner, axis=0) - of_owner).reshape(n, n * here)

    def own(table: jax.Array) -> jax.Array:
        """What a table says of this device's experts, [n, E / n] in one row."""
        return jax.lax.dynamic_slice_in_dim(table, me * here, here, axis=1).reshape(-1)

    move = functools.partial(ragged, emulated=platform == "cpu")
    room = n * B * T * min(k, here)
    came = move(rows, room, begin[me], counts[me], place[me], own(counts))
    with jax.named_scope(f"rows_{B * T * k}"):  # of `room` as many hold a token, on average
        y = experts.in_groups(came, sizes[me], kernels)
    y = move(y, B * T * k, own(place), own(counts), own(begin), counts[me])
    return experts.weighed(y[jnp.argsort(order)].reshape(B, T, k, D), routes)


def ragged(
    rows: jax.Array,
    room: int,
    begin: jax.Array,
    sizes: jax.Array,
    place: jax.Array,
    received: jax.Array,
    *,
    emulated: bool,
) -> jax.Array:
    """`jax.lax.ragged_all_to_all` into `room` rows of zeros, or on CPU, which has none, its result.

    Args:
        rows: [N, D], slices of which go to each device in turn, as many to each.
        room: rows of what comes out.
        begin: int [K], of each slice.
        sizes: int [K], of each slice.
        place: int [K], where each goes in the rows of the one who gets it.
        received: int [K], sizes of the slices that come.
        emulated: gathers all rows of all devices and takes those that would have come.
    """
    if not emulated:
        empty = jnp.zeros((room, rows.shape[1]), rows.dtype)
        return jax.lax.ragged_all_to_all(rows, empty, begin, sizes, place, received, axis_name=AXIS)
    n, me = jax.lax.axis_size(AXIS), jax.lax.axis_index(AXIS)
    everything = jax.lax.all_gather(rows, AXIS)
    tables = (jax.lax.all_gather(x, AXIS).reshape(n, n, -1)[:, me] for x in (begin, sizes, place))
    begin, sizes, place = (table.reshape(-1) for table in tables)  # of the slices that come
    behind = jnp.arange(room)[:, None] - place
    inside = (behind >= 0) & (behind < sizes)
    which = inside.argmax(1)
    row = begin[which] + jnp.take_along_axis(behind, which[:, None], axis=1)[:, 0]
    taken = everything[which // (len(sizes) // n), row]
    return jnp.where(inside.any(1)[:, None], taken, 0)
