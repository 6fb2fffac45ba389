"""Documents of any length into rows of one length, as index arithmetic.

A document of n tokens, ended by `eos`, gives n + 1 pairs (input, target): its first input is `bos`,
every other input is the target before it. So each token, and each `eos`, is a target once an epoch.
A plan says which stretches ("pieces") of the flat token array stand in which row:

    concat    |aaaaabbc|ccccdddd|dd......|  all pairs in order, cut every T; padding at the end only
    best_fit  |aaaaabb.|dddddd..|ccccc...|  a document that fits in a row is not cut
    none      |aaaaa...|bb......|ccccc...|  one document a row; what is longer than T is cut off
"""

import bisect
import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from bigmodel import config

Pieces = tuple[np.ndarray, np.ndarray, np.ndarray]  # row (0.. in the request), start, length: [P]


class Plan(Protocol):
    """Which pieces make which row."""

    @property
    def length(self) -> int:
        """T, pairs in a row at most."""

    @property
    def pairs(self) -> int:
        """Targets of all rows together."""

    def __len__(self) -> int:
        """Rows in an epoch."""

    def pieces(self, rows: np.ndarray) -> Pieces:
        """The pieces of some rows, in their order within each row."""


def plan(offsets: np.ndarray, length: int, packing: str) -> Plan:
    """[documents + 1] offsets -> the rows of one epoch."""
    if packing not in PACKINGS:
        raise config.InputError(
            f'packing "{packing}" is unknown; allowed are {", ".join(PACKINGS)}.'
            f"{config.nearest(packing, PACKINGS)}"
        )
    if length < 1:
        raise config.InputError(f"length {length}: a row needs at least 1 position.")
    return PACKINGS[packing](offsets, length)


@dataclasses.dataclass(frozen=True)
class Concat:
    """The stream of all pairs, cut every T. Nothing is stored: 10⁹ rows cost as much as one."""

    offsets: np.ndarray
    length: int

    @property
    def pairs(self) -> int:
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return -(-self.pairs // self.length)

    def pieces(self, rows: np.ndarray) -> Pieces:
        begin = rows.astype(np.int64) * self.length
        end = np.minimum(begin + self.length, self.pairs)
        first = np.searchsorted(self.offsets, begin, "right") - 1  # document of the first pair
        last = np.searchsorted(self.offsets, end, "left") - 1  # and of the last
        counts = last - first + 1
        row = np.repeat(np.arange(len(rows)), counts)
        document = np.repeat(first, counts) + _ramp(counts)
        start = np.maximum(self.offsets[document], begin[row])
        return row, start, np.minimum(self.offsets[document + 1], end[row]) - start


@dataclasses.dataclass(frozen=True)
class Single:
    """One document a row."""

    offsets: np.ndarray
    length: int

    @property
    def pairs(self) -> int:
        return int(np.minimum(np.diff(self.offsets), self.length).sum())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pieces(self, rows: np.ndarray) -> Pieces:
        start = self.offsets[rows]
        length = np.minimum(self.offsets[rows + 1] - start, self.length)
        return np.arange(len(rows)), start, length


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows that are stored: row i holds the pieces first[i] to first[i + 1].

    Attributes:
        first: [rows + 1] int64.
        starts: [P] int64, where in the flat array each piece starts.
        lengths: [P] int32.
    """

    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    length: int

    @property
    def pairs(self) -> int:
        return int(self.lengths.sum(dtype=np.int64))

    def __len__(self) -> int:
        return len(self.first) - 1

    def pieces(self, rows: np.ndarray) -> Pieces:
        counts = self.first[rows + 1] - self.first[rows]
        piece = np.repeat(self.first[rows], counts) + _ramp(counts)
        row = np.repeat(np.arange(len(rows)), counts)
        return row, self.starts[piece], self.lengths[piece].astype(np.int64)


def best_fit(offsets: np.ndarray, length: int) -> Packed:
    """Best-fit decreasing: each piece goes to the fullest row that still has room for it.

    Ding et al. 2024, "Fewer Truncations Improve Language Modeling" (arXiv:2404.10830). A document
    longer than a row is first cut in pieces of a row's length. O(n log n): pieces of one length,
    and rows of one remaining room, are handled together.
    """
    starts, lengths = _cut(offsets, length)
    order = np.argsort(-lengths, kind="stable")
    row_of = _assign(lengths[order], length)
    by_row = np.argsort(row_of, kind="stable")
    pieces = order[by_row]
    rows = int(row_of.max()) + 1 if len(row_of) else 0
    first = np.searchsorted(row_of[by_row], np.arange(rows + 1)).astype(np.int64)
    return Packed(first, starts[pieces], lengths[pieces].astype(np.int32), length)


PACKINGS: dict[str, Callable[[np.ndarray, int], Plan]] = {
    "concat": Concat,
    "best_fit": best_fit,
    "none": Single,
}


def fill(
    pieces: Pieces,
    rows: int,
    length: int,
    tokens: np.ndarray,
    offsets: np.ndarray,
    bos: int,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Pieces -> arrays [rows, T]: tokens, targets, weights, segments, positions.

    `weights` are those of `tokens` as targets; None: each is 1.

    The part of a document that goes on from another row is a segment of its own there: its
    positions start at 0, and attention does not see what stood before.
    """
    row, start, size = pieces
    before = _before(row, size)  # pairs that stand before each piece in its row
    position = _ramp(size)
    place = np.repeat(row * length + before, size) + position
    flat = np.repeat(start, size) + position
    targets = tokens[flat].astype(np.int32)

    inputs = np.empty_like(targets)
    inputs[1:] = targets[:-1]
    heads = np.cumsum(size) - size  # index of each piece's first pair
    document = np.searchsorted(offsets, start, "right") - 1
    opening = offsets[document] == start
    inputs[heads] = np.where(opening, bos, tokens[np.maximum(start - 1, 0)])

    def spread(values: np.ndarray | float, dtype: type) -> np.ndarray:
        out: np.ndarray = np.zeros(rows * length, dtype)
        out[place] = values
        return out.reshape(rows, length)

    segment = _ramp(np.bincount(row, minlength=rows)) + 1
    return {
        "tokens": spread(inputs, np.int32),
        "targets": spread(targets, np.int32),
        "weights": spread(1.0 if weights is None else weights[flat], np.float32),
        "segments": spread(np.repeat(segment, size), np.int32),
        "positions": spread(position, np.int32),
    }


def _ramp(counts: np.ndarray) -> np.ndarray:
    """[3, 1, 2] -> [0 1 2, 0, 0 1]."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) - np.repeat(ends - counts, counts)


def _before(row: np.ndarray, size: np.ndarray) -> np.ndarray:
    """For each piece, the summed size of the pieces before it in its row (rows are in order)."""
    total = np.cumsum(size) - size
    opens = np.flatnonzero(np.diff(row, prepend=-1))
    return total - np.repeat(total[opens], np.diff(opens, append=len(row)))


def _cut(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents -> starts and lengths of pieces that are at most `length` long."""
    sizes = np.diff(offsets)
    counts = -(-sizes // length)
    inside = _ramp(counts) * length
    starts = np.repeat(offsets[:-1], counts) + inside
    return starts, np.minimum(np.repeat(sizes, counts) - inside, length)


def _assign(lengths: np.ndarray, room: int) -> np.ndarray:
    """Best-fit decreasing of lengths in falling order -> the row of each.

    `free[r]` are the rows with room r left. A length l fills floor(r / l) times into each of them,
    since after the first piece such a row is the fullest one that has room.
    """
    row_of = np.empty(len(lengths), np.int64)
    free: dict[int, list[np.ndarray]] = {}
    rooms: list[int] = []  # the keys of `free`, in order
    opened, done = 0, 0
    ends = np.flatnonzero(np.diff(lengths, append=0)) + 1
    for end in map(int, ends):
        size = int(lengths[done])
        while done < end:
            at = bisect.bisect_left(rooms, size)
            found = rooms[at] if at < len(rooms) else room
            each = found // size
            wanted = -(-(end - done) // each)
            if at < len(rooms):
                rows = free[found].pop()
                if len(rows) > wanted:
                    free[found].append(rows[wanted:])
                    rows = rows[:wanted]
                if not free[found]:
                    del free[found], rooms[at]
            else:
                rows = np.arange(opened, opened + wanted)
                opened += wanted
            count = min(len(rows) * each, end - done)
            row_of[done : done + count] = np.repeat(rows, each)[:count]
            done += count
            last = count - (len(rows) - 1) * each  # pieces in the last of these rows
            for left, some in ((found - each * size, rows[:-1]), (found - last * size, rows[-1:])):
                if left and len(some):
                    if left not in free:
                        bisect.insort(rooms, left)
                        free[left] = []
                    free[left].append(some)
    return row_of
