"""Rotary angles and sinusoids against what the papers state."""

import math

import numpy as np
import pytest

from bigmodel.layers import positions

C = 16
WHERE = np.array([[0, 1, 5, 900]])


def turned(vector, at, rotary):
    angles = rotary.angles(np.array([[at]]), C)
    return np.asarray(positions.rotate(vector.reshape(1, 1, 1, C), angles)).ravel()


@pytest.mark.parametrize("rotary", [positions.Rotary(), positions.Rotary(500.0, 8.0, 32)], ids=str)
def test_a_product_of_turned_vectors_depends_on_their_distance_alone(rotary):
    q, k = np.random.default_rng(0).normal(size=(2, C)).astype(np.float32)
    products = [turned(q, at + 7, rotary) @ turned(k, at, rotary) for at in (0, 3, 50)]
    np.testing.assert_allclose(products, products[0], rtol=1e-3)
    assert abs(turned(q, 8, rotary) @ turned(k, 0, rotary) - products[0]) > 1e-3


def test_turning_is_multiplication_by_a_complex_number():
    """RoFormer (arXiv:2104.09864), eq. 34: pair i of C/2 turns by position * theta^(-2i/C)."""
    x = np.random.default_rng(0).normal(size=(1, 4, 2, C)).astype(np.float32)
    found = positions.rotate(x, positions.Rotary(theta=100.0).angles(WHERE, C))
    pairs = x[..., : C // 2] + 1j * x[..., C // 2 :]
    turn = WHERE[..., None, None] * 100.0 ** (-2 * np.arange(C // 2) / C)
    wanted = pairs * np.exp(1j * turn)
    np.testing.assert_allclose(found[..., : C // 2], wanted.real, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[..., C // 2 :], wanted.imag, rtol=1e-3, atol=1e-4)


def test_position_zero_does_not_turn():
    x = np.random.default_rng(0).normal(size=C).astype(np.float32)
    np.testing.assert_array_equal(turned(x, 0, positions.Rotary()), x)


def test_a_factor_makes_all_wavelengths_longer():
    plain, longer = (positions.Rotary(factor=factor).frequencies(C) for factor in (1.0, 4.0))
    np.testing.assert_allclose(longer * 4, plain)


def test_llama_3_1_stretches_long_wavelengths_keeps_short_ones_and_blends_between():
    """The rule as published with Llama 3.1: factor 8, low 1, high 4, original length 8192."""
    found = positions.Rotary(500_000.0, 8.0, 8192, 1.0, 4.0).frequencies(128)
    kinds = set()
    for i, frequency in enumerate(found):
        plain = 500_000.0 ** (-2 * i / 128)
        wavelength = 2 * math.pi / plain
        if wavelength < 8192 / 4:
            kind, wanted = "kept", plain
        elif wavelength > 8192 / 1:
            kind, wanted = "stretched", plain / 8
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            kind, wanted = "between", (1 - smooth) * plain / 8 + smooth * plain
        kinds.add(kind)
        assert frequency == pytest.approx(wanted, rel=1e-12), (i, kind)
    assert kinds == {"kept", "stretched", "between"}


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_sines_then_cosines_of_geometric_wavelengths(width):
    found = positions.sinusoids(WHERE, width)
    assert found.shape == (1, 4, width)
    half = -(-width // 2)
    for p, row in zip(WHERE[0], np.asarray(found[0]), strict=True):
        turn = [p / 10_000 ** (2 * i / width) for i in range(half)]
        wanted = [*map(math.sin, turn), *map(math.cos, turn)][:width]
        np.testing.assert_allclose(row, wanted, atol=1e-4)


def test_ntk_makes_the_longest_wavelength_longer_and_keeps_the_shortest():
    """Peng et al. 2023, definition 1: b' = b s^(C / (C - 2))."""
    found = positions.Rotary(500.0, 8.0, scaling="ntk").frequencies(C)
    base = 500.0 * 8.0 ** (C / (C - 2))
    np.testing.assert_allclose(found, base ** (-2 * np.arange(C // 2) / C))
    np.testing.assert_allclose(found[0], 1)
    np.testing.assert_allclose(found[-1] * 8, 500.0 ** -((C - 2) / C))


def test_yarn_keeps_what_turns_often_and_stretches_what_turns_rarely():
    """Peng et al. 2023, section 3.2, alpha = 1, beta = 32 of a pretrained length of 4096."""
    rotary = positions.Rotary(10_000.0, 16.0, 4096, 1.0, 32.0, "yarn")
    plain, found = positions.Rotary().frequencies(128), rotary.frequencies(128)
    turns = 4096 * plain / (2 * math.pi)
    often, rarely = turns > 34, turns < 0.8
    assert often.any()
    assert rarely.any()
    assert not (often | rarely).all()
    np.testing.assert_allclose(found[often], plain[often])
    np.testing.assert_allclose(found[rarely], plain[rarely] / 16)
    between = ~(often | rarely)
    assert (found[between] <= plain[between]).all()
    assert (found[between] >= plain[between] / 16).all()
    assert (np.diff(found / plain) <= 1e-12).all()
    sin, cos = rotary.angles(WHERE, 128)
    np.testing.assert_allclose(sin**2 + cos**2, (0.1 * math.log(16) + 1) ** 2, rtol=1e-5)
    sin, cos = positions.Rotary(1e4, 16.0, 4096, 1.0, 32.0, "yarn", 0.5).angles(WHERE, 128)
    np.testing.assert_allclose(sin**2 + cos**2, 0.25, rtol=1e-5)
