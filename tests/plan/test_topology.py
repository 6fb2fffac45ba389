"""Hardware by name: what there is, what there is not, and what is nearest."""

import math

import pytest

from bigmodel import config, costs
from bigmodel.plan import topology


@pytest.mark.parametrize(
    ("name", "slices", "chips", "devices", "chip"),
    [
        ("v5e:4x4", 1, 16, 16, "TPU v5e"),
        ("v5e:16x16", 4, 1024, 1024, "TPU v5e"),
        ("v6e:2x4", 1, 8, 8, "TPU v6e"),
        ("v5p:8x8x16", 1, 1024, 1024, "TPU v5p"),
        ("v5p:16x16x24", 1, 6144, 6144, "TPU v5p"),
        ("v5p:24x16x16", 1, 6144, 6144, "TPU v5p"),
        ("v5p:2x2x1", 2, 8, 8, "TPU v5p"),
        ("v4:4x4x4", 1, 64, 64, "TPU v4"),
        ("tpu7x:4x4x4", 2, 128, 256, "TPU7x"),  # two devices a chip
        ("gpu:h100:16x8", 1, 128, 128, "H100"),
        ("gpu:h200:1x8", 1, 8, 8, "H200"),
        ("cpu:8", 1, 8, 8, None),
        ("cpu:8", 2, 16, 16, None),
    ],
)
def test_a_name_says_what_there_is(name, slices, chips, devices, chip):
    found = topology.parse(name, slices)
    assert (found.chips, found.devices) == (chips, devices)
    assert (found.chip.name if found.chip else None) == chip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:2x2", ["no hardware 'v9'", "v4, v5e, v5p, v6e, tpu7x", "v5p:8x8x8", "cpu:8"]),
        ("v5:2x2", ["no hardware 'v5'", 'Did you mean "v5']),
        ("v5ee:2x2", ['Did you mean "v5e"?']),
        ("", ["no hardware ''"]),
        ("gpu:h10:1x8", ["no GPU 'h10'", "gpu:h100, gpu:h200", 'Did you mean "gpu:h100"?']),
        ("gpu", ["no GPU ''"]),
        ("gpu:h100", ["'' is not NxN"]),
        ("gpu:h100:8", ["'8' is not NxN"]),
        ("v5e:4x4x4", ["'4x4x4' is not NxN", "v5p:8x8x8"]),
        ("v5p:4x4", ["'4x4' is not NxNxN"]),
        ("v5p:4x4x0", ["'4x4x0' is not NxNxN"]),
        ("v5p:4x4x-4", ["is not NxNxN"]),
        ("v5p:axbxc", ["is not NxNxN"]),
        ("v5p", ["'' is not NxNxN"]),
        ("cpu", ["'' is not N;"]),
        ("cpu:eight", ["'eight' is not N;"]),
        ("v5p:3x3x3", ["no slice of 3x3x3", "known are 2x2x1", "8x8x16", "nearest is v5p:2x4x4"]),
        ("v5p:4x4x3", ["nearest is v5p:4x4x4"]),
        ("v5p:32x32x32", ["no slice of 32x32x32", "nearest is v5p:16x16x24"]),
        ("v5e:3x5", ["no slice of 3x5", "nearest is v5e:4x4"]),
        ("v5e:32x32", ["no slice of 32x32", "nearest is v5e:16x16"]),
        ("v6e:5x5", ["nearest is v6e:4x8"]),
    ],
)
def test_a_bad_name_is_refused_with_the_known_and_the_nearest(name, said):
    with pytest.raises(config.InputError) as error:
        topology.parse(name)
    for part in said:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "slices", "said"),
    [("v5p:4x4x4", 0, "--slices=0"), ("cpu:8", -1, "--slices=-1"), ("gpu:h100:2x8", 2, "of GPUs")],
)
def test_slices_are_counted_from_one(name, slices, said):
    with pytest.raises(config.InputError, match=said):
        topology.parse(name, slices)


@pytest.mark.parametrize("kind", costs.GENERATIONS)
def test_every_shape_that_is_offered_is_taken(kind):
    for shape in topology.shapes(kind):
        name = f"{kind}:{topology.text(shape)}"
        assert topology.parse(name).chips == math.prod(shape)
    most = topology.text(costs.GENERATIONS[kind].most)
    assert topology.parse(f"{kind}:{most}").shape == costs.GENERATIONS[kind].most
