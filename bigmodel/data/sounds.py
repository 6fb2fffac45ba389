"""Files of sound to samples: WAV by itself, FLAC and others by soundfile; one channel, one rate."""

import io
import math
import struct
from typing import NamedTuple

import numpy as np
from etils import epath

from bigmodel import config

BY_SOUNDFILE = (".flac", ".ogg", ".mp3")
SUFFIXES = (".wav", *BY_SOUNDFILE)

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # of a WAV's "fmt " chunk
TO_THE_END = 0xFFFFFFFF  # the size of a chunk that was written before its size was known


class Sound(NamedTuple):
    """float32 samples of one channel, -1 to 1, and how many there are a second."""

    samples: np.ndarray
    rate: int


class Fault(ValueError):
    """Why something is no sound that can be heard."""


def read(path: epath.PathLike) -> Sound:
    """A file's sound, several channels averaged; raises Fault."""
    path = epath.Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise Fault(f"its name ends in none of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise Fault("there is no such file")
    return decode(path.read_bytes(), path.suffix.lower())


def decode(data: bytes, suffix: str) -> Sound:
    """`read` of a file's bytes.

    Args:
        data: all of the file.
        suffix: of SUFFIXES, in small letters.
    """
    if not data:
        raise Fault("it is empty")
    channels, rate = wav(data) if suffix == ".wav" else by_soundfile(data)
    return checked(channels, rate)


def checked(channels: np.ndarray, rate: int) -> Sound:
    """[n] or [n, channels] as a sound; raises Fault where there is nothing to hear."""
    channels = np.asarray(channels, np.float32)
    samples = channels if channels.ndim == 1 else channels.mean(1, dtype=np.float64)
    samples = np.ascontiguousarray(samples, np.float32)
    if rate < 1:
        raise Fault(f"it has {rate} samples a second")
    if not len(samples):
        raise Fault("it has no samples")
    if not np.isfinite(samples).all():
        raise Fault(f"sample {np.flatnonzero(~np.isfinite(samples))[0]} is no finite number")
    if (samples == samples[0]).all():
        raise Fault(f"it is silent: all of its {len(samples):,} samples are equal")
    return Sound(samples, rate)


def resampled(sound: Sound, rate: int) -> np.ndarray:
    """Its samples at another rate, by a polyphase filter with a Kaiser window.  float32 [n]"""
    if sound.rate == rate:
        return sound.samples
    from scipy import signal

    common = math.gcd(sound.rate, rate)
    up, down = rate // common, sound.rate // common
    return signal.resample_poly(sound.samples.astype(np.float64), up, down).astype(np.float32)


def wav(data: bytes) -> tuple[np.ndarray, int]:
    """[n, channels] and rate of a RIFF file: PCM of 8, 16, 24 or 32 bits, or floating numbers."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise Fault("it does not begin as a WAV file does")
    form, at = None, 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + size]
        if name == b"data" and form is not None:
            if len(body) < size != TO_THE_END:
                raise Fault(f"it is cut off: {len(body):,} of {size:,} bytes of sound are there")
            return of_form(data, body, *form)
        if name == b"fmt ":
            if len(body) < 16:
                break
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if kind == EXTENSIBLE and len(body) >= 26:
                kind = struct.unpack_from("<H", body, 24)[0]
            form = (kind, channels, rate, bits)
        at += 8 + size + size % 2
    raise Fault("it is cut off: it has no " + ("fmt chunk" if form is None else "samples"))


def of_form(data: bytes, body: bytes, kind: int, channels: int, rate: int, bits: int):
    """The samples of a WAV file's data chunk; soundfile reads the forms that are rare."""
    plain = (kind == PCM and bits in (8, 16, 24, 32)) or (kind == FLOAT and bits in (32, 64))
    if not plain:
        return by_soundfile(data)
    width = bits // 8
    if not channels or len(body) % (width * channels):
        raise Fault(f"{len(body):,} bytes are no whole samples of {channels} channels x {bits} bit")
    if kind == FLOAT:
        found = np.frombuffer(body, f"<f{width}")
    elif bits == 8:
        found = (np.frombuffer(body, np.uint8).astype(np.float64) - 128) / 128
    elif bits == 24:
        whole = np.zeros((len(body) // 3, 4), np.uint8)
        whole[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
        found = whole.view("<i4")[:, 0] / 2.0**31
    else:
        found = np.frombuffer(body, f"<i{width}") / 2.0 ** (bits - 1)
    return found.reshape(-1, channels), rate


def by_soundfile(data: bytes) -> tuple[np.ndarray, int]:
    """[n, channels] and rate of whatever libsndfile reads."""
    try:
        import soundfile
    except ImportError as error:
        raise config.InputError(
            f"{', '.join(BY_SOUNDFILE)} files, and WAV files of rare forms, are read by soundfile, "
            "which is not here: pip install 'bigmodel[audio]'."
        ) from error
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            told, rate = file.frames, file.samplerate
            found = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise Fault(str(error).rpartition(">: ")[2] or "unreadable") from error
    if len(found) < told:
        raise Fault(f"it is cut off: {len(found):,} of {told:,} samples are there")
    return found, rate
