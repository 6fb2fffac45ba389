"""What the TPU compiler makes of layouts: moves, memory, kernels; no TPU is here.

`make test` compiles a few up to their schedule, `make test-tpu` all of them.
"""

import functools
import importlib.util

import pytest

from bigmodel.plan import compiling
from tests import tables
from tests.sharding import judged

needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)

ALLOWED = 1.05  # times what the hand-written step moves and holds
QUICK = ("fsdp8", "fsdp2_tensor4")

# layout -> what its program must hold: collectives, or names of custom calls
HELD = {
    "fsdp8": ("all-gather", "reduce-scatter", "splash_mha_fwd", "splash_mha_dkv"),
    "fsdp2_tensor4": ("all-gather", "all-reduce", "splash_mha_fwd"),
    "fsdp2_context4": ("collective-permute", "splash_mha_fwd", "splash_mha_dkv"),
    "fsdp2_all_to_all4": ("all-to-all", "splash_mha_fwd", "splash_mha_dkv"),
    "slices2_context4": ("collective-permute", "all-reduce", "splash_mha_fwd"),
    "fsdp2_expert4": ("ragged-all-to-all", "splash_mha_fwd"),
    "fsdp2_expert4_room": ("all-to-all", "splash_mha_fwd"),
    "slices2_expert2": ("ragged-all-to-all", "all-reduce", "splash_mha_fwd"),
}


@functools.cache
def compiled(layout, *sides):
    """What became of a layout's steps, compiled side by side."""
    asked = [judged.request(layout, side) for side in sides]
    found = dict(compiling.compile_all(asked, cached=False))
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return [judged.read(found[number]) for number in range(len(asked))]


@needs_libtpu
@pytest.mark.parametrize("layout", tables.rows(judged.BY_HAND, QUICK, pytest.mark.tpu))
def test_a_layout_moves_and_holds_no_more_than_its_step_by_hand(layout):
    ours, by_hand = compiled(layout, "ours", "by_hand")
    moves, most = sum(ours.moved.values()), ALLOWED * sum(by_hand.moved.values())
    assert moves <= most, f"MB moved: {ours.moved}, by hand {by_hand.moved}"
    held, most = ours.peak_bytes, ALLOWED * by_hand.peak_bytes
    assert held <= most, f"{held:,} bytes at the peak, by hand {by_hand.peak_bytes:,}"


@needs_libtpu
@pytest.mark.parametrize("layout", tables.rows(HELD, (*QUICK, "slices2_expert2"), pytest.mark.tpu))
def test_a_layout_compiles_with_its_kernels(layout):
    sides = ("ours", "by_hand") if layout in judged.BY_HAND else ("ours",)  # as the test above
    ours = compiled(layout, *sides)[0]
    missing = [name for name in HELD[layout] if name not in ours.moved and name not in ours.text]
    assert not missing, f"not in the program: {missing}; its collectives: {set(ours.moved)}"
