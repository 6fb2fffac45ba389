"""Rows of ids, each of its own length, as arrays of one length."""

from collections.abc import Sequence

import numpy as np

Ids = Sequence[int] | np.ndarray


def padded(rows: Sequence[Ids], T: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ids of each row with `fill` behind them, and its segments: 1 where they are.

    Both are int32 [b, T]; no row is longer than T.
    """
    ids = np.full((len(rows), T), fill, np.int32)
    segments = np.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
        segments[at, : len(row)] = 1
    return ids, segments


def shifted(targets: Sequence[Ids], T: int, bos: int) -> dict[str, np.ndarray]:
    """Targets of each row -> tokens, targets, segments, int32 [b, T].

    What is read begins with `bos` and is always one behind what is to be told.
    """
    told, segments = padded(targets, T)
    before = np.full((len(targets), 1), bos, np.int32)
    tokens = np.concatenate([before, told[:, :-1]], 1) * segments
    return {"tokens": tokens, "targets": told, "segments": segments}
