"""Resizing of positions and patch kernels: what must stay as it was, and what it must be for."""

import numpy as np
import pytest

from bigmodel.adapt import resize
from bigmodel.models import vit

DRAWN = np.random.default_rng(0)


def normal(*shape):
    return DRAWN.normal(size=shape).astype(np.float32)


def ramp(side):
    """[side * side, 2]: across and down, from 0 to 1."""
    line = np.linspace(0, 1, side)
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(side * side, 2)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("method", resize.METHODS)
def test_the_same_size_is_the_same_table_bit_for_bit(method, before):
    table = normal(16 + before, 3)
    np.testing.assert_array_equal(resize.positions(table, 16 + before, method), table)


@pytest.mark.parametrize("sides", [(4, 7), (7, 4), (3, 12), (2, 5), (5, 1)], ids=str)
@pytest.mark.parametrize("method", resize.METHODS)
def test_what_is_linear_stays_linear(method, sides):
    old, new = sides
    made = resize.positions(ramp(old), new * new, method)
    expected = ramp(new) if new > 1 else np.full((1, 2), 0.5)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_larger_by_whole_steps_keeps_what_was_there():
    table = normal(9, 4)
    for method in resize.METHODS:
        made = resize.positions(table, 25, method).reshape(5, 5, 4)
        np.testing.assert_allclose(made[::2, ::2], table.reshape(3, 3, 4), atol=1e-6)


def test_a_class_token_keeps_its_row_or_is_left_out():
    table = normal(10, 4)
    made = resize.positions(table, 26)
    np.testing.assert_array_equal(made[0], table[0])
    np.testing.assert_array_equal(made[1:], resize.positions(table[1:], 25))
    np.testing.assert_array_equal(resize.positions(table, 9), table[1:])


def test_a_row_for_a_class_token_cannot_be_made_up():
    with pytest.raises(ValueError, match="from 9 rows to 17"):
        resize.positions(normal(9, 4), 17)
    with pytest.raises(ValueError, match="from 11 rows to 16"):
        resize.positions(normal(11, 4), 16)


def test_cubic_and_linear_differ_where_the_table_bends():
    table = (ramp(4) ** 2).astype(np.float32)
    cubic, linear = (resize.positions(table, 49, method) for method in ("bicubic", "bilinear"))
    inside = np.s_[2:5, 2:5]
    exact = (ramp(7) ** 2).reshape(7, 7, 2)[inside]
    off_by = [np.abs(made.reshape(7, 7, 2)[inside] - exact).max() for made in (cubic, linear)]
    assert off_by[0] < 1e-6 < 1e-3 < off_by[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_token_of_larger_patches_is_the_token_of_the_patches_as_they_were(channels):
    old, new, D = 4, 7, 5
    kernel, images = normal(old * old * channels, D), normal(2, 3 * old, 3 * old, channels)
    larger = np.stack([enlarged(image, old, new) for image in images])
    made = resize.patch_kernel(kernel, new * new * channels, channels)
    tokens = np.asarray(vit.patches(larger, new)) @ made
    np.testing.assert_allclose(tokens, np.asarray(vit.patches(images, old)) @ kernel, atol=2e-5)


def enlarged(image, old, new):
    """Each patch of an image resized by itself."""
    one = resize.resize_of_pixels(old, new)
    n = image.shape[0] // old
    cut = image.reshape(n, old, n, old, -1)
    return np.einsum("ik,jl,akblc->aibjc", one, one, cut).reshape(n * new, n * new, -1)


def test_a_kernel_of_the_same_size_is_the_same_bit_for_bit():
    kernel = normal(48, 5)
    np.testing.assert_array_equal(resize.patch_kernel(kernel, 48, 3), kernel)
    with pytest.raises(ValueError, match="from 48 rows to 50"):
        resize.patch_kernel(kernel, 50, 3)


@pytest.mark.parametrize(
    ("path", "found", "wanted", "can"),
    [
        ("positions", (17, 8), (26, 8), True),
        ("positions", (17, 8), (25, 8), True),
        ("positions", (16, 8), (26, 8), False),
        ("positions", (17, 8), (26, 9), False),
        ("text_positions", (16, 8), (25, 8), False),
        ("patches/product/kernel", (48, 8), (27, 8), True),
        ("patches/product/kernel", (48, 8), (28, 8), False),
        ("head/kernel", (8, 10), (8, 11), False),
    ],
)
def test_only_grids_of_images_can_be_resized(path, found, wanted, can):
    made = resize.resizer(path, found, wanted, 3)
    assert (made is not None) == can
    if made:
        assert made(np.zeros(found)).shape == wanted
