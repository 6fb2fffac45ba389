"""Laws of files of sound: every form gives the same samples, and what cannot be heard is said."""

import io
import struct

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import sounds

soundfile = pytest.importorskip("soundfile")

SAMPLES = (np.random.default_rng(0).integers(-30_000, 30_000, 800) / 2**15).astype(np.float32)


def encoded(samples=SAMPLES, rate=16_000, form="WAV", subtype="PCM_16"):
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=subtype)
    return out.getvalue()


@pytest.mark.parametrize(
    "form, subtype, error",
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 0),
        ("WAV", "PCM_24", 0),
        ("WAV", "PCM_32", 0),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAVEX", "PCM_24", 0),
        ("WAV", "ULAW", 0.02),
        ("FLAC", "PCM_16", 0),
        ("FLAC", "PCM_24", 0),
        ("OGG", "VORBIS", 0.5),
    ],
)
def test_every_form_holds_the_samples_that_were_written(form, subtype, error):
    suffix = ".wav" if form.startswith("WAV") else f".{form.lower()}"
    found = sounds.decode(encoded(form=form, subtype=subtype), suffix)
    assert (found.rate, found.samples.dtype, found.samples.shape) == (16_000, "float32", (800,))
    np.testing.assert_allclose(found.samples, SAMPLES, atol=error)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_a_wav_read_here_is_as_soundfile_reads_it(subtype):
    data = encoded(subtype=subtype)
    wanted, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_array_equal(sounds.decode(data, ".wav").samples, wanted)


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_several_channels_are_averaged(form):
    both = np.stack([SAMPLES, SAMPLES / 2], 1)
    found = sounds.decode(encoded(both, form=form), f".{form.lower()}")
    np.testing.assert_allclose(found.samples, 0.75 * SAMPLES, atol=2**-15)


def test_a_wav_of_unknown_length_is_read_to_its_end_and_other_chunks_are_passed_over():
    data = encoded()
    at = data.index(b"data")
    extra = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    streamed = data[:at] + extra + b"data" + struct.pack("<I", 0xFFFFFFFF) + data[at + 8 :]
    np.testing.assert_array_equal(sounds.decode(streamed, ".wav").samples, SAMPLES)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_another_rate_is_the_same_sound(rate):
    def sine(rate):
        return (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 4) / rate)).astype(np.float32)

    found = sounds.resampled(sounds.Sound(sine(rate), rate), 16_000)
    assert found.dtype == np.float32
    assert abs(len(found) - 4000) <= 1
    np.testing.assert_allclose(found[400:3600], sine(16_000)[400:3600], atol=2e-3)
    same = sounds.Sound(SAMPLES, 16_000)
    assert sounds.resampled(same, 16_000) is SAMPLES


WAV = encoded()
FLAC = encoded(form="FLAC")
NAN = np.where(np.arange(800) == 7, np.nan, SAMPLES)


@pytest.mark.parametrize(
    "data, suffix, words",
    [
        (b"", ".wav", "it is empty"),
        (b"no sound at all", ".wav", "does not begin as a WAV file does"),
        (FLAC, ".wav", "does not begin as a WAV file does"),
        (b"no sound at all", ".flac", "[Ff]ormat"),
        (WAV[:1000], ".wav", "cut off: 956 of 1,600 bytes"),
        (WAV[:30], ".wav", "it has no fmt chunk"),
        (WAV[:40], ".wav", "it has no samples"),
        (FLAC[: len(FLAC) // 2], ".flac", "."),
        (encoded(SAMPLES[:0]), ".wav", "it has no samples"),
        (encoded(0 * SAMPLES), ".wav", "silent: all of its 800 samples are equal"),
        (encoded(0 * SAMPLES + 0.25, form="FLAC"), ".flac", "silent"),
        (encoded(NAN, subtype="FLOAT"), ".wav", "sample 7 is no finite number"),
        (WAV[:24] + bytes(4) + WAV[28:], ".wav", "it has 0 samples a second"),
        (WAV[:22] + b"\0\0" + WAV[24:], ".wav", "no whole samples of 0 channels"),
    ],
)
def test_what_cannot_be_heard_is_said(data, suffix, words):
    with pytest.raises(sounds.Fault, match=words):
        sounds.decode(data, suffix)


@pytest.mark.parametrize("size", [0, 3, 11, 20, 36, 43, 44, 45, 900, len(WAV) - 1])
def test_no_stump_of_a_file_is_taken_for_a_whole_one(size):
    for data, suffix in ((WAV, ".wav"), (FLAC, ".flac")):
        with pytest.raises(sounds.Fault):
            sounds.decode(data[:size], suffix)


def test_a_file_that_is_not_there_or_no_sound_by_its_name_is_said(tmp_path):
    (tmp_path / "a.WAV").write_bytes(WAV)
    np.testing.assert_array_equal(sounds.read(tmp_path / "a.WAV").samples, SAMPLES)
    with pytest.raises(sounds.Fault, match="no such file"):
        sounds.read(tmp_path / "b.wav")
    with pytest.raises(sounds.Fault, match="ends in none of .wav, .flac"):
        sounds.read(tmp_path / "a.aac")


def test_without_soundfile_wav_is_read_and_the_rest_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    np.testing.assert_array_equal(sounds.decode(WAV, ".wav").samples, SAMPLES)
    with pytest.raises(config.InputError, match=r"pip install 'bigmodel\[audio\]'"):
        sounds.decode(FLAC, ".flac")
