"""Digits dialled by tone: sounds with texts that are made, not recorded, and need no download.

A digit is two sines at a time, its row's and its column's on a telephone's keys (ITU-T Q.23).
"""

import hashlib

import numpy as np

RATE = 16_000
ROWS = 2000

KEYS = ("123", "456", "789", " 0 ")
LOW, HIGH = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)  # hertz, rows and columns
TONES = {
    key: (low, HIGH[column])
    for low, keys in zip(LOW, KEYS, strict=True)
    for column, key in enumerate(keys)
    if key != " "
}

DIGITS = (2, 6)  # least and most of a row
OFF = 0.018  # share by which a dialler may miss a frequency (Q.23)
TONE, GAP = (0.05, 0.12), (0.05, 0.12)  # seconds; a receiver needs 40 ms of each (Q.24)
AROUND = (0.03, 0.15)  # seconds before the first tone and after the last
LEVEL = (-30.0, -9.0)  # decibels of a tone's amplitude below 1
TWIST = 4.0  # decibels that the higher tone may be over or under the lower one
NOISE = (-30.0, -15.0)  # decibels of its deviation below the tone's amplitude


def digits_of(number: int) -> str:
    """What is dialled in a row."""
    return _dialled(np.random.default_rng(number))


def sound_of(number: int) -> np.ndarray:
    """How it sounds: float32 [n] at RATE, a function of the row's number alone."""
    draw = np.random.default_rng(number)
    digits = _dialled(draw)
    level = 10 ** (draw.uniform(*LEVEL) / 20)
    other = level * 10 ** (draw.uniform(-TWIST, TWIST) / 20)
    off = 1 + draw.uniform(-OFF, OFF, 2)
    pieces = [np.zeros(round(draw.uniform(*AROUND) * RATE))]
    for digit in digits:
        seconds = np.arange(round(draw.uniform(*TONE) * RATE)) / RATE
        low, high = 2 * np.pi * off * TONES[digit]
        pieces.append(level * np.sin(low * seconds) + other * np.sin(high * seconds))
        pieces.append(np.zeros(round(draw.uniform(*GAP) * RATE)))
    pieces[-1] = np.zeros(round(draw.uniform(*AROUND) * RATE))
    sound = np.concatenate(pieces)
    noise = level * 10 ** (draw.uniform(*NOISE) / 20) * draw.normal(size=len(sound))
    return (sound + noise).astype(np.float32)


def _dialled(draw: np.random.Generator) -> str:
    return "".join(map(str, draw.integers(0, 10, draw.integers(DIGITS[0], DIGITS[1] + 1))))


def split_of(digits: str) -> str:
    """Eight of ten numbers are dialled in training, one each in the other two: never in both."""
    tenth = int.from_bytes(hashlib.blake2b(digits.encode(), digest_size=8).digest(), "big") % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")
