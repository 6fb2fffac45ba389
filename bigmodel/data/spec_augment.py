"""What is hidden of a sound's frames by chance, each time anew."""

import dataclasses

import numpy as np

from bigmodel import config


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """Stretches of frames and of bands put to the mean; Park et al. 2019 (arXiv:1904.08779).

    Section 2 of the paper, without its time warping, which it found to matter least. Each pair is
    () or (number of masks, largest width): a width is drawn from 0 to that, then a place.

    Attributes:
        time: masks of frames.
        frequency: masks of bands.
    """

    time: tuple[int, ...]
    frequency: tuple[int, ...]

    def check(self, mels: int) -> None:
        """Refuses what is no pair, and masks that could hide every band."""
        for field, pair in (("time_masks", self.time), ("frequency_masks", self.frequency)):
            if pair and (len(pair) != 2 or min(pair) < 1):
                raise config.InputError(
                    f"data.{field} = {pair}: allowed are () and (number, largest width), both at "
                    "least 1, as (2, 27)."
                )
        if self.frequency and self.frequency[1] >= mels:
            raise config.InputError(
                f"data.frequency_masks = {self.frequency}: the width must be less than the "
                f"data.mels = {mels} bands."
            )

    def __call__(self, frames: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """A sound's frames with masks over them.  float32 [K, M] -> [K, M]"""
        out, mean = frames.copy(), frames.mean(dtype=np.float64)
        for along, pair in ((out, self.time), (out.T, self.frequency)):
            number, widest = pair or (0, 0)
            for _ in range(number):
                width = int(draw.integers(0, min(widest, len(along)) + 1))
                start = int(draw.integers(0, len(along) - width + 1))
                along[start : start + width] = mean
        return out
