"""What the TPU compiler makes of layouts: moves, memory, kernels; no TPU is here.

`make test` compiles a few up to their schedule, `make test-tpu` all of them.
"""

import functools

import pytest

from tests.sharding import judged, moved, schedule

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


def slow_but(quick, layouts):
    """Layouts as parameters: those that are not quick run in `make test-tpu`."""
    marks = {False: [pytest.mark.tpu], True: []}
    return [pytest.param(layout, marks=marks[layout in quick]) for layout in layouts]


@functools.cache
def compiled(layout, *sides):
    """The schedules of a layout's steps, made side by side."""
    started = [
        schedule.Compiling("tests.sharding.judged", dict(layout=layout, side=side))
        for side in sides
    ]
    try:
        return [one.result() for one in started]
    finally:
        for one in started:
            one.close()


@schedule.needs_libtpu
@pytest.mark.parametrize("layout", slow_but(QUICK, judged.BY_HAND))
def test_a_layout_moves_and_holds_no_more_than_its_step_by_hand(layout):
    ours, by_hand = compiled(layout, "ours", "by_hand")
    moves, wanted = (moved.by_kind(moved.collectives(one.text)) for one in (ours, by_hand))
    assert moves["all"] <= ALLOWED * wanted["all"], f"MB moved: {moves}, by hand {wanted}"
    held, most = ours.peak_bytes, ALLOWED * by_hand.peak_bytes
    assert held <= most, f"{held:,} bytes at the peak, by hand {by_hand.peak_bytes:,}"


@schedule.needs_libtpu
@pytest.mark.parametrize("layout", slow_but((*QUICK, "slices2_expert2"), HELD))
def test_a_layout_compiles_with_its_kernels(layout):
    sides = ("ours", "by_hand") if layout in judged.BY_HAND else ("ours",)  # as the test above
    text = compiled(layout, *sides)[0].text
    found = {one.kind for one in moved.collectives(text)}
    missing = [name for name in HELD[layout] if name not in found and name not in text]
    assert not missing, f"not in the program: {missing}; its collectives: {found}"
