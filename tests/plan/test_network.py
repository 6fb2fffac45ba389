"""Networks: which devices a collective joins, over which links, and for how long."""

import numpy as np
import pytest

from bigmodel import costs
from bigmodel.plan import network
from bigmodel.plan.program import Program
from tests.plan import programs

LINK, FAR, HOP = 1e9, 1e8, network.HOP_SECONDS  # bytes/s of programs.CHIP
V5E = programs.V5E


def collective(rest):
    line = f"  %c = f32[8]{{0}} all-gather(%x), channel_id=1, {rest}, dimensions={{0}}"
    whole = Program(f"ENTRY %main (x: f32[8]) -> f32[8] {{\n{line}\n}}\n")
    return whole.entry["c"]


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", [0, 1, 2, 3]),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", [0, 4]),
        ("replica_groups={}", [*range(8)]),
        ("replica_groups=[1,8]<=[8]", [*range(8)]),
        ("replica_groups=[4,2]<=[8]", [0, 1]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", [0, 1, 4, 5]),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [0, 1]),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}", [0, 2, 4, 6]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [0, 1, 4, 5]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", [0, 4]),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([8]) {'a'}", [0, 2, 4, 6]),
        # parts of an axis: 'a' is (major, minor), from where in it, how many
        ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4]),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", [0, 1, 2, 3]),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", [0, 2]),
    ],
)
def test_each_notation_of_groups_says_who_takes_part(written, group):
    assert network.group_of(collective(written), 8) == group


def test_pairs_of_a_permutation():
    one = collective("source_target_pairs={{0,1},{1,2},{2,0}}")
    assert network.pairs_of(one) == [(0, 1), (1, 2), (2, 0)]
    assert network.pairs_of(collective("replica_groups={{0,1}}")) == []


@pytest.mark.parametrize(
    ("members", "axes"),
    [
        ([0, 1, 2, 3], ("tensor",)),
        ([0, 4, 8, 12], ("fsdp",)),
        ([0, 16], ("data",)),
        ([0, 16, 4, 20], ("data", "fsdp")),
        ([*range(64)], ("data", "fsdp", "tensor")),
        ([5], ()),
        ([0, 5], ("fsdp", "tensor")),
    ],
)
def test_a_group_lies_along_axes(members, axes):
    assert programs.net(mesh={"data": 4, "fsdp": 4, "tensor": 4}).axes(members) == axes


@pytest.mark.parametrize(
    ("chip", "shape", "wraps"),
    [
        ("TPU v5e", (16, 16), (True, True)),
        ("TPU v5e", (8, 16), (False, True)),
        ("TPU v5e", (4, 4), (False, False)),
        ("TPU v6e", (16, 16), (True, True)),
        ("TPU v5p", (4, 4, 4), (True, True, True)),
        ("TPU v5p", (4, 8, 12), (True, True, True)),
        ("TPU v5p", (2, 4, 4), (False, False, False)),
        ("TPU v4", (2, 2, 1), (False, False, False)),
        ("TPU7x", (8, 8, 4), (True, True, True)),
    ],
)
def test_dimensions_that_close_to_rings(chip, shape, wraps):
    assert tuple(programs.net(shape, chip=costs.chip(chip)).wraps) == wraps


def along(devices, *dims):
    """The devices of the line, plane, ... along dimensions through the first."""
    first = devices.coords[0]
    rest = [d for d in range(devices.coords.shape[1]) if d not in dims]
    same = (devices.coords[:, rest] == first[rest]).all(1)
    return np.flatnonzero(same & (devices.slices == 0)).tolist()


# collective, shape, dimensions of the group, bytes in and out, bytes that go over how many links
# one way, hops
BY_HAND = [
    ("all-gather", (4, 4, 4), (0,), 1e6, 4e6, 3e6, 2, 2),  # a ring of 4: two ways
    ("all-gather", (4, 4, 4), (0, 1), 1e6, 16e6, 15e6, 4, 4),
    ("all-gather", (2, 4, 4), (2,), 1e6, 4e6, 3e6, 1, 3),  # a line
    ("all-gather", (2, 2, 1), (0,), 1e6, 2e6, 1e6, 1, 1),
    ("reduce-scatter", (4, 4, 4), (0,), 4e6, 1e6, 3e6, 2, 2),
    ("all-reduce", (4, 4, 4), (0,), 4e6, 4e6, 6e6, 2, 2),
    ("all-reduce", (4, 4, 4), (0, 1, 2), 64e6, 64e6, 126e6, 6, 6),
    ("all-to-all", (4, 4, 4), (0,), 4e6, 4e6, 2e6, 1, 2),  # half over 2 x 1/4 of a link each
    ("all-to-all", (4, 4, 8), (0, 2), 4e6, 4e6, 4e6, 1, 6),  # bound by the 8
    ("all-to-all", (2, 4, 4), (2,), 4e6, 4e6, 4e6, 1, 3),
    ("ragged-all-to-all", (4, 4, 4), (0,), 4e6, 4e6, 2e6, 1, 2),
]


@pytest.mark.parametrize(
    ("kind", "shape", "dims", "given", "made", "moved", "links", "hops"), BY_HAND
)
def test_a_collective_takes_the_seconds_computed_by_hand(
    kind, shape, dims, given, made, moved, links, hops
):
    devices = programs.net(shape)
    found = devices.seconds(kind, given, made, along(devices, *dims))
    assert found == pytest.approx(moved / links / LINK + hops * HOP)


def test_a_plane_closes_at_sixteen():
    small, large = programs.net((8, 8), chip=V5E), programs.net((16, 16), chip=V5E)
    speeds = [devices.links(along(devices, 0)) for devices in (small, large)]
    assert speeds == [(V5E.link_bandwidth, 7), (2 * V5E.link_bandwidth, 8)]
    part = [d for d in along(large, 0) if large.coords[d][0] < 8]  # of the ring a line
    assert large.links(part) == (V5E.link_bandwidth, 7)


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "all-to-all", "reduce-scatter"])
def test_one_device_needs_no_time(kind):
    assert programs.net().seconds(kind, 1e9, 1e9, [3]) == 0.0


@pytest.mark.parametrize(
    ("kind", "given", "made", "inside", "moved"),
    [
        # Of 2 x 4 devices each slice has 4 that share what the other one gives.
        ("all-gather", 1e6, 8e6, 4, 8e6 / 2 / 4),
        ("reduce-scatter", 8e6, 1e6, 4, 8e6 / 2 / 4),
        ("all-reduce", 8e6, 8e6, 4, 2 * 8e6 / 2 / 4),
        ("all-to-all", 8e6, 8e6, 4, 8e6 / 2),  # each device sends half of its own
        ("all-reduce", 8e6, 8e6, 1, 2 * 8e6 / 2),
        ("all-to-all", 8e6, 8e6, 1, 8e6 / 2),
    ],
)
def test_between_slices_the_slower_network_decides(kind, given, made, inside, moved):
    devices = programs.net((4, 4, 4), slices=2)
    line = along(devices, 0)[:inside]
    found = devices.seconds(kind, given, made, [*line, *(64 + device for device in line)])
    assert found == pytest.approx(moved / FAR + (2 * HOP if inside > 1 else 0))
    assert devices.crosses([0, 64])
    assert not devices.crosses(line)
    assert devices.lanes([0, 64], []) == {"DCN"}


def test_two_devices_of_a_chip_share_its_links():
    one, two = programs.net(), programs.net(per_chip=2)
    assert (one.per_chip, two.per_chip) == (1, 2)
    here = [d for d in range(128) if d % 2 == 0 and d // 2 in along(one, 0)]
    both = sorted([*here, *(d + 1 for d in here)])
    assert two.links(here)[0] == one.links(along(one, 0))[0] / 2
    assert two.links(both)[0] == one.links(along(one, 0))[0]
    within = two.seconds("all-reduce", 6e6, 6e6, [0, 1])
    assert within == pytest.approx(6e6 / 6 / LINK + HOP)
    exchanged = [
        n.seconds("all-to-all", 4e6, 4e6, g) for n, g in ((one, along(one, 0)), (two, here))
    ]
    assert exchanged[1] - 2 * HOP == pytest.approx(2 * (exchanged[0] - 2 * HOP))


@pytest.mark.parametrize(
    ("pairs", "lanes"),
    [
        ([(0, 16), (16, 32), (32, 48), (48, 0)], {(0, 1)}),  # around a ring, one way
        ([(0, 1), (1, 2), (2, 3), (3, 0)], {(2, 1)}),
        ([(1, 0), (2, 1), (3, 2), (0, 3)], {(2, -1)}),
        ([(0, 1), (1, 0)], {(2, 1), (2, -1)}),
        ([(0, 0)], {"ICI"}),
    ],
)
def test_a_permutation_goes_one_way(pairs, lanes):
    assert programs.net().lanes([], pairs) == lanes


def test_a_permutation_takes_its_bytes_over_one_link():
    near, far = programs.net(), programs.net(slices=2)
    assert near.sent(1e6, [(0, 1)]) == pytest.approx(1e6 / LINK + HOP)
    assert far.sent(1e6, [(0, 64), (64, 0)]) == pytest.approx(1e6 / FAR)
    assert far.lanes([], [(0, 64)]) == {"DCN"}


def test_hosts_of_gpus_are_slices_without_a_torus():
    chip = costs.chip("H100")
    meta = dict(
        coords=[[]] * 16,
        slice_of=[0] * 8 + [1] * 8,
        mesh={"fsdp": 16},
        networks=["NVLink", "InfiniBand"],
    )
    devices = network.Network.of(meta, chip)
    assert devices.per_chip == 1
    assert not len(devices.wraps)
    near = devices.seconds("all-gather", 1e6, 8e6, [*range(8)])
    rate = network.RING_SHARE * chip.link_bandwidth
    assert near == pytest.approx(7e6 / rate + network.NEAR_SECONDS)
    assert devices.lanes([*range(8)], []) == {"NVLink"}
    far = devices.seconds("all-gather", 1e6, 16e6, [*range(16)])
    assert far == pytest.approx(8e6 / 8 / chip.slice_bandwidth + network.FAR_SECONDS, rel=0.5)
    assert devices.lanes([*range(16)], []) == {"InfiniBand"}
