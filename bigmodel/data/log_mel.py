"""What a model hears of a sound: the energy in bands of the mel scale, a hundred times a second.

The definition is Whisper's (Radford et al. 2022, arXiv:2212.04356, section 2.2) as its released
code has it; at other rates than 16 kHz, windows are as long in seconds.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from bigmodel import config

FRAMES_A_SECOND = 100
WINDOWS_A_SECOND = 40  # if they stood side by side: 25 ms each
AT_A_TIME = 2**11  # frames whose spectra are in memory together

LEAST_POWER = 1e-10
DEPTH = 8.0  # powers of ten below the loudest, where what is held begins


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Samples -> frames.

    Attributes:
        rate: samples a second.
        mels: M, bands.
    """

    rate: int
    mels: int

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.rate // FRAMES_A_SECOND

    @property
    def window(self) -> int:
        """Samples that a frame looks at, the middle of frame k at sample k * hop."""
        return self.rate // WINDOWS_A_SECOND

    def check(self) -> None:
        """Refuses a rate that windows do not divide, and bands that hear nothing."""
        if self.rate < 1 or self.rate % (2 * FRAMES_A_SECOND):
            raise config.InputError(
                f"data.rate = {self.rate}: samples a second must be a multiple of "
                f"{2 * FRAMES_A_SECOND}, as 8000, 16000 and 48000 are; sounds of other rates are "
                "brought to it."
            )
        if self.mels < 1 or not self.filters.any(0).all():
            most = max(m for m in range(1, self.window) if mel_filters(self.rate, m).any(0).all())
            raise config.InputError(
                f"data.mels = {self.mels}: at data.rate = {self.rate} bands are so narrow that "
                f"some hold no frequency; allowed are 1 to {most}, and usual are 80 and 128."
            )

    @functools.cached_property
    def filters(self) -> np.ndarray:
        return mel_filters(self.rate, self.mels)

    @functools.cached_property
    def sums(self) -> Any:
        """The filters, [M, window // 2 + 1], without the zeros that are 98 per cent of them.

        As a dense product they would cost more than all the rest, and round as each machine likes.
        """
        from scipy import sparse

        return sparse.csr_array(self.filters.T)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """float [n] -> float32 [n // hop, M]: (max(log10 power, its largest - 8) + 4) / 4.

        The largest is that of the whole sound. Both ends are mirrored, so that the first frame
        has its middle at the first sample; the frame at the end itself is left out.
        """
        half, hop = self.window // 2, self.hop
        frames = len(samples) // hop
        if len(samples) <= half:
            raise ValueError(f"{len(samples)} samples: mirrored ends need {half + 1} at least")
        padded = np.pad(samples, half, "reflect")
        seen = np.lib.stride_tricks.sliding_window_view(padded, self.window)[::hop][:frames]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)  # periodic
        found = np.empty((frames, self.mels), np.float32)
        for start in range(0, frames, AT_A_TIME):
            spectrum = np.fft.rfft(seen[start : start + AT_A_TIME] * hann)
            energy = self.sums @ (spectrum.real**2 + spectrum.imag**2).T
            found[start : start + AT_A_TIME] = np.log10(np.maximum(energy.T, LEAST_POWER))
        return (np.maximum(found, found.max(initial=-np.inf) - DEPTH) + 4) / 4


@functools.cache
def mel_filters(rate: int, mels: int) -> np.ndarray:
    """How much each band takes of each frequency.  float64 [window // 2 + 1, M]

    Triangles whose corners are evenly spaced on the mel scale from 0 to half the rate, each of area
    one (Slaney 1998, Auditory Toolbox).
    """
    window = rate // WINDOWS_A_SECOND
    frequencies = np.arange(window // 2 + 1) * (rate / window)
    corners = hertz_of(np.linspace(0, mel_of(rate / 2), mels + 2))
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    up = (frequencies[:, None] - left) / (middle - left)
    down = (right - frequencies[:, None]) / (right - middle)
    return np.maximum(0, np.minimum(up, down)) * (2 / (right - left))


# Slaney's scale: 200/3 Hz a mel up to 1 kHz, from there a factor of 6.4 in 27 mels.
MEL_HERTZ, BREAK_HERTZ, STEP = 200 / 3, 1000.0, np.log(6.4) / 27
BREAK_MEL = BREAK_HERTZ / MEL_HERTZ


def mel_of(hertz: float) -> float:
    if hertz < BREAK_HERTZ:
        return hertz / MEL_HERTZ
    return BREAK_MEL + np.log(hertz / BREAK_HERTZ) / STEP


def hertz_of(mels: np.ndarray) -> np.ndarray:
    above = BREAK_HERTZ * np.exp(STEP * (mels - BREAK_MEL))
    return np.where(mels < BREAK_MEL, mels * MEL_HERTZ, above)
