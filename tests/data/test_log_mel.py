"""Laws of log-mel frames: the definition said again in sums, and what is known of sines."""

import math

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import log_mel

WHISPER = log_mel.LogMel(16_000, 80)


def sine(hertz, seconds=0.25, rate=16_000, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def noise(samples, seed=0):
    return (np.random.default_rng(seed).normal(size=samples) * 0.1).astype(np.float32)


def stated(samples, rate, mels):
    """The definition in float64, by the sums that it is written in."""
    window, hop = rate // 40, rate // 100
    n = len(samples)
    at = [abs(i) if i < n else 2 * (n - 1) - i for i in range(-window // 2, n + window // 2)]
    mirrored = np.array([samples[i] for i in at], np.float64)
    hann = np.array([0.5 * (1 - math.cos(2 * math.pi * i / window)) for i in range(window)])
    angles = 2 * np.pi * np.outer(np.arange(window // 2 + 1), np.arange(window)) / window
    corners = np.linspace(0, mel_of(rate / 2), mels + 2)
    filters = np.zeros((mels, window // 2 + 1))
    for m in range(mels):
        low, top, high = map(hertz_of, corners[m : m + 3])
        for k in range(window // 2 + 1):
            f = k * rate / window
            if low < f <= top:
                filters[m, k] = (f - low) / (top - low)
            elif top < f < high:
                filters[m, k] = (high - f) / (high - top)
        filters[m] *= 2 / (high - low)
    rows = []
    for frame in range(1 + (len(mirrored) - window) // hop)[:-1]:
        some = mirrored[frame * hop : frame * hop + window] * hann
        power = (np.cos(angles) @ some) ** 2 + (np.sin(angles) @ some) ** 2
        rows.append([math.log10(max(energy, 1e-10)) for energy in filters @ power])
    found = np.array(rows)
    return (np.maximum(found, found.max() - 8) + 4) / 4


def mel_of(hertz):
    """Slaney 1998: 15 mels to 1 kHz, above it 27 for each factor of 6.4."""
    return 15 * hertz / 1000 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000, 6.4)


def hertz_of(mel):
    return 1000 * mel / 15 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


@pytest.mark.parametrize("rate, mels", [(16_000, 80), (16_000, 128), (8000, 40)])
@pytest.mark.parametrize("length", [401, 1600, 2479])
def test_frames_are_those_of_the_definition(rate, mels, length):
    samples = noise(length) + sine(440, length / rate, rate)[:length]
    found = log_mel.LogMel(rate, mels)(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, stated(samples, rate, mels), atol=2e-6)


def test_the_scale_and_the_filters_are_the_published_ones():
    """librosa 0.11's documented `mel_frequencies(40)`, and the first weights of Whisper's file."""
    known = [0, 85.317, 170.635, 255.952, 341.269, 426.586, 511.904, 597.221, 682.538, 767.855]
    known += [853.173, 938.49, 1024.856, 1119.114, 1222.042, 1334.436, 1457.167, 1591.187]
    found = log_mel.hertz_of(np.linspace(0, log_mel.mel_of(11_025), 40))
    np.testing.assert_allclose(found[: len(known)], known, atol=5e-4)
    np.testing.assert_allclose(found[-1], 11_025)
    weights = log_mel.mel_filters(16_000, 80)
    np.testing.assert_allclose(weights[1, :2], [0.02486259, 0.00199082], rtol=1e-5)


@pytest.mark.parametrize("hertz", [100, 440, 1000, 2500, 5000, 7500])
@pytest.mark.parametrize("mels", [80, 128])
def test_a_sine_is_loudest_in_the_band_of_its_pitch(hertz, mels):
    found = log_mel.LogMel(16_000, mels)(sine(hertz))[10]
    middles = log_mel.hertz_of(np.linspace(0, log_mel.mel_of(8000), mels + 2))[1:-1]
    nearest = abs(middles - hertz).argmin()
    assert abs(int(found.argmax()) - nearest) <= 1


def test_the_energy_of_a_sine_is_where_the_arithmetic_says():
    """Under a Hann window a sine of level 1 has power (N / 4)^2 at its bin, a quarter beside it."""
    found = WHISPER(sine(2000, level=1.0))[10]
    power = 100.0**2 * np.array([0.25, 1, 0.25])
    energy = power @ log_mel.mel_filters(16_000, 80)[49:52]
    np.testing.assert_allclose(10 ** (4 * found[energy > 0] - 4), energy[energy > 0], rtol=1e-3)


@pytest.mark.parametrize("length, frames", [(400, 2), (1600, 10), (1759, 10), (480_000, 3000)])
def test_there_is_a_frame_for_each_hop_and_none_at_the_end(length, frames):
    assert WHISPER(noise(length)).shape == (frames, 80)


def test_twice_as_loud_is_the_same_amount_more_everywhere():
    samples = noise(4000)
    np.testing.assert_allclose(
        WHISPER(2 * samples), WHISPER(samples) + math.log10(4) / 4, atol=1e-5
    )


def test_what_is_far_below_the_loudest_is_held_there():
    found = WHISPER(np.concatenate([sine(440), np.zeros(8000, np.float32)]))
    assert found.min() == pytest.approx(found.max() - 2, abs=1e-6)  # 8 powers of ten, in fours
    quiet = WHISPER(1e-7 * sine(440))
    assert quiet.min() == -1.5  # nothing is below 1e-10


def test_long_sounds_are_taken_in_pieces_without_a_seam(monkeypatch):
    samples = noise(8000)
    whole = WHISPER(samples)
    monkeypatch.setattr(log_mel, "AT_A_TIME", 7)
    np.testing.assert_allclose(WHISPER(samples), whole, atol=1e-6)


@pytest.mark.parametrize(
    "rate, mels, words",
    [
        (16_000, 0, "data.mels = 0"),
        (16_000, 400, "allowed are 1 to 149"),
        (11_025, 80, "multiple of 200"),
        (0, 80, "data.rate = 0"),
    ],
)
def test_bands_that_hear_nothing_and_uneven_windows_are_refused(rate, mels, words):
    with pytest.raises(config.InputError, match=words):
        log_mel.LogMel(rate, mels).check()
    WHISPER.check()
