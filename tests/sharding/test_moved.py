"""Laws of counting what a program moves, on a program small enough to count by hand."""

import pytest

from tests import runs
from tests.sharding import moved

# Two turns of an outer loop; in each a windowed einsum of two trips (bound 4, step 2) sends twice,
# and one gather is started, carried on and ended by fusions that share its chain.
PROGRAM = (runs.ROOT / "tests" / "golden" / "scheduled.txt").read_text()

FOUND = {(one.kind, one.operand_bytes): one for one in moved.collectives(PROGRAM)}


@pytest.mark.parametrize(
    ("kind", "operand_bytes", "devices", "times"),
    [
        ("all-gather", 64, 8, 2),  # its fusions are one, in each of two layers
        ("collective-permute", 64, 2, 4),  # two layers of two trips
        ("all-reduce", 256 + 32, 4, 1),
        ("reduce-scatter", 256, 8, 1),  # an all-reduce of which a part is kept
        ("ragged-all-to-all", 64, 4, 1),  # of its operands only the rows move
    ],
)
def test_a_collective_counts_by_its_operands_and_its_trips(kind, operand_bytes, devices, times):
    one = FOUND[kind, operand_bytes]
    assert (one.devices, one.times) == (devices, times)
    assert one.bytes == operand_bytes * times


def test_all_are_added_up():
    totals = moved.by_kind(moved.collectives(PROGRAM))
    permutes = 2 * 4 * 64  # of a start and its done, and of one that is neither
    assert totals["collective-permute"] == permutes / 1e6
    assert totals["all"] == pytest.approx((128 + permutes + 288 + 256 + 64) / 1e6)


def test_a_loop_around_it_makes_it_more():
    twice = moved.by_kind(moved.collectives(PROGRAM))["all"]
    often = PROGRAM.replace("%layers = s32[] constant(2)", "%layers = s32[] constant(3)")
    assert moved.by_kind(moved.collectives(often))["all"] > twice
