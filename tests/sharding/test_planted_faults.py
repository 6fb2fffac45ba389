"""The law of layouts can fail: faults of the kind that layouts have, planted one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers import router
from bigmodel.sharding import context, experts, pipeline
from tests.sharding import layouts
from tests.sharding.layouts import LAYOUTS


def changed(function, change):
    """The function, with what it gives changed."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return change(function(*args, **kwargs))

    return wrapped


def dropped_psum(patch):
    patch.setattr(jax.lax, "psum", lambda x, axes: x)


def ring_in_the_wrong_direction(patch):
    def send(ring, arrays):
        back = [(r, (r - 1) % ring.devices) for r in range(ring.devices)]
        return jax.tree.map(lambda x: jax.lax.ppermute(x, context.AXIS, back), arrays)

    patch.setattr(context.Ring, "send", send)


def documents_that_stay_behind_their_keys(patch):
    send = context.Ring.send

    def without_segments(ring, arrays):
        if isinstance(arrays, tuple):  # on the way forward
            return (*send(ring, arrays[:2]), arrays[2])
        return send(ring, arrays)

    patch.setattr(context.Ring, "send", without_segments)


def gradients_that_do_not_come_home(patch):
    send = context.Ring.send

    def without_gradients(ring, arrays):
        of_two_pieces = len(jax.tree.leaves(arrays)) == 4  # of keys and values, two each
        return arrays if of_two_pieces else send(ring, arrays)

    patch.setattr(context.Ring, "send", without_gradients)


def rows_in_their_own_order(patch):
    patch.setattr(context, "zigzag", lambda length, parts: np.arange(length))


def positions_of_another_order(patch):
    in_order = context.in_order
    patch.setattr(
        context,
        "in_order",
        lambda batch, order: in_order(batch, order) | {"positions": batch["positions"]},
    )


def masks_of_another_order(patch):
    without = lambda found: {k: v for k, v in found.items() if k != "indices"}  # noqa: E731
    patch.setattr(context, "in_order", changed(context.in_order, without))


def room_that_is_not_asked_for(patch):
    patch.setattr(router, "ranks", changed(router.ranks, jnp.zeros_like))


def room_counted_in_the_order_of_the_mesh(patch):
    ranks = router.ranks
    patch.setattr(router, "ranks", lambda hits, chosen, indices: ranks(hits, chosen, None))


def rows_for_the_wrong_expert(patch):
    ragged = experts.ragged

    def shifted(rows, room, begin, sizes, place, received, *, emulated):
        begin = jnp.roll(begin, 1)
        return ragged(rows, room, begin, sizes, place, received, emulated=emulated)

    patch.setattr(experts, "ragged", shifted)


def a_microbatch_counted_twice(patch):
    twice = lambda parts: parts.at[-1].set(parts[0])  # noqa: E731
    patch.setattr(pipeline.Pipeline, "cut", changed(pipeline.Pipeline.cut, twice))


def a_bubble_that_counts(patch):
    patch.setattr(pipeline, "masked", lambda real, sums: sums)


def layers_in_the_order_of_the_disk(patch):
    patch.setattr(pipeline.Pipeline, "order", lambda self, layers: np.arange(layers))


# fault -> (family, layout) that must show it
FAULTS = {
    dropped_psum: ("experts", "fsdp4_tensor2"),
    ring_in_the_wrong_direction: ("dense", "fsdp2_ring4"),
    documents_that_stay_behind_their_keys: ("dense", "fsdp2_ring4"),
    gradients_that_do_not_come_home: ("dense", "fsdp2_ring4"),
    rows_in_their_own_order: ("dense", "fsdp2_ring4"),
    positions_of_another_order: ("dense", "fsdp2_ring4"),
    masks_of_another_order: ("dense", "fsdp2_ring4"),
    room_that_is_not_asked_for: ("experts_with_room", "data8"),
    room_counted_in_the_order_of_the_mesh: ("experts_with_room", "fsdp2_ring4"),
    rows_for_the_wrong_expert: ("experts", "expert8"),
    a_microbatch_counted_twice: ("dense", "stage2"),
    a_bubble_that_counts: ("experts", "stage2"),
    layers_in_the_order_of_the_disk: ("dense", "stage2_repeats2"),
}

# One here, one of each kind by `make test-families`, all of them by `make test-layouts`.
FIRST = a_microbatch_counted_twice
SECOND = (ring_in_the_wrong_direction, rows_for_the_wrong_expert)


def marks(fault):
    return [pytest.mark.families if fault in SECOND else pytest.mark.layouts] * (fault != FIRST)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=marks(f)) for f in FAULTS],
    ids=lambda fault: fault.__name__,
)
def test_the_law_catches(fault, monkeypatch):
    family, name = FAULTS[fault]
    wanted = layouts.reference(family)
    folder = layouts.saved_reference(family)
    fault(monkeypatch)
    jax.clear_caches()
    born = layouts.restored(folder, layouts.make(family, LAYOUTS[name]))
    found = layouts.find(family, LAYOUTS[name], born)
    off = layouts.differences(found, wanted)
    assert not max(off.values()) <= 1e-4, f"{name} with {fault.__name__} keeps the law"
