"""Pairs of ids as arrays: one pair a row, or as many as fit in both of its sides."""

from collections.abc import Sequence

import numpy as np

from bigmodel.data import packing

Pair = tuple[Sequence[int], Sequence[int]]  # a source and a target, their ends with them


def best_fit(
    sources: np.ndarray, targets: np.ndarray, S: int, T: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of pairs -> their order by rows, and where each row begins in it [rows + 1].

    A pair takes of a row the larger of its shares of both sides, so that what fits by that fits on
    each. A side that is longer than a row will be cut to one.
    """
    of_source = -(-T * np.minimum(sources, S) // S)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(of_source, np.minimum(targets, T)))])
    plan = packing.best_fit(offsets, T)
    return np.searchsorted(offsets, plan.starts), plan.first


def batch_of(rows: Sequence[Sequence[Pair]], S: int, T: int, bos: int) -> dict[str, np.ndarray]:
    """The pairs of each row -> its arrays [b, S] and [b, T]; the n-th pair is segment n of both."""
    source = beside([[source for source, _ in row] for row in rows], S)
    before = beside([[[bos, *target[:-1]] for _, target in row] for row in rows], T)
    return {
        "source": source["ids"],
        "source_segments": source["segments"],
        "source_positions": source["positions"],
        "tokens": before["ids"],
        "targets": beside([[target for _, target in row] for row in rows], T)["ids"],
        "segments": before["segments"],
        "positions": before["positions"],
        "weights": (before["segments"] > 0).astype(np.float32),
    }


def beside(rows: Sequence[Sequence[Sequence[int]]], T: int) -> dict[str, np.ndarray]:
    """Texts of each row, one behind another -> ids, segments, positions, int32 [b, T]."""
    found = {name: np.zeros((len(rows), T), np.int32) for name in ("ids", "segments", "positions")}
    for at, row in enumerate(rows):
        end = 0
        for number, text in enumerate(row, 1):
            begin, end = end, end + len(text)
            found["ids"][at, begin:end] = text
            found["segments"][at, begin:end] = number
            found["positions"][at, begin:end] = np.arange(len(text))
    return found
