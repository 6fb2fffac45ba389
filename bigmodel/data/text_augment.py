"""Texts of few examples, each epoch a little otherwise: some tokens left out, some exchanged.

Wei and Zou 2019, "EDA" (arXiv:1901.11196): random deletion and random swap, here of tokens.
"""

import dataclasses

import numpy as np

from bigmodel import config


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What becomes of a text in training.

    Attributes:
        drop: the chance of each token to be left out; one always stays.
        swap: share of the tokens, each of which changes places with any other.
    """

    drop: float = 0.0
    swap: float = 0.0

    def __post_init__(self):
        for name in ("drop", "swap"):
            if not 0 <= (rate := getattr(self, name)) < 1:
                raise config.InputError(f"data.token_{name} = {rate}: a rate is in [0, 1).")

    def __bool__(self) -> bool:
        return self.drop > 0 or self.swap > 0

    def of(self, ids: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """[n] tokens -> [1 to n] tokens; the same draw gives the same."""
        found = np.array(ids)
        if not len(found):
            return found
        for one, other in draw.integers(0, len(found), (round(self.swap * len(found)), 2)):
            found[[one, other]] = found[[other, one]]
        stays = draw.random(len(found)) >= self.drop
        stays[draw.integers(len(found))] |= not stays.any()
        return found[stays]
