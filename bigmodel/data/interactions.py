"""Rows of histories: each user's items in order of time, the last two held out."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import actions, cache
from bigmodel.data.parts import OnePart

SPLITS = ("train", "validation", "test")
WINDOWS = ("last", "all")


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """The rows of a split.

    A row is padded on its left, with item 0 and segment 0: so the last item, from which the next is
    told, has the same learned position however long the history is (Kang and McAuley 2018).
    Positions are places in the row, and no array of them is needed.

    Attributes:
        source, split: as in the config.
        actions: of the source.
        users: [rows] int64, whose each row is.
        begins, ends: [rows] int64, which of the actions are a row's items; of a cloze its last one
            is to be told in evaluation, else the action after them.
        length: T.
        negatives: of each position; 0: none.
        mask_rate, mask_last, seed: see `open_rows`.
    """

    source: str
    split: str
    actions: actions.Actions
    users: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    length: int
    negatives: int
    mask_rate: float
    mask_last: float
    seed: int

    def __len__(self) -> int:
        return len(self.ends)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, targets, weights, segments [b, T], negatives [b, T, N]."""
        indices = np.asarray(indices, np.int64)
        places = self.ends[indices, None] - self.length + np.arange(self.length)
        real = places >= self.begins[indices, None]
        items = self.actions.items
        tokens = np.where(real, items[np.maximum(places, 0)], 0)
        if self.cloze:
            targets, asked = tokens, np.zeros(tokens.shape, bool)
        else:
            targets, asked = np.where(real, items[np.maximum(places, 0) + 1], 0), real.copy()
        if self.split != "train":
            asked[:, :-1], asked[:, -1] = False, True
        out = {}
        if self.negatives:
            out["negatives"] = np.zeros((*tokens.shape, self.negatives), np.int32)
        for i, row in enumerate(indices if self.cloze or self.negatives else ()):
            numbers = [0, 0, row] if epochs is None else [self.seed, epochs[i], row]
            draw = np.random.default_rng(numbers)
            if self.cloze and self.split == "train":
                asked[i] = self.masked(draw, real[i])
            if self.negatives:
                out["negatives"][i] = self.never_had(draw, row)
        if self.cloze:
            tokens = np.where(asked, self.vocabulary - 1, tokens)
        int32 = {"tokens": tokens, "targets": targets, "segments": real}
        out |= {name: array.astype(np.int32) for name, array in int32.items()}
        return out | {"weights": asked.astype(np.float32)}

    def masked(self, draw: np.random.Generator, real: np.ndarray) -> np.ndarray:
        """Which items of a row are to be told: so many by the rate, at least one, or the last."""
        asked = np.zeros(len(real), bool)
        if draw.random() < self.mask_last:
            asked[-1] = True
            return asked
        n = int(real.sum())
        chosen = draw.permutation(n)[: max(1, round(self.mask_rate * n))]
        asked[len(real) - 1 - chosen] = True
        return asked

    def never_had(self, draw: np.random.Generator, row: int) -> np.ndarray:
        """Items of which none is in what is known of the user, [T, N]: each as likely."""
        had = np.unique(self.known(row))  # 1 to vocabulary
        free = self.actions.vocabulary - len(had)
        number = draw.integers(0, free, (self.length, self.negatives))
        # The n-th free item is n + 1, and one more for each that was had up to there.
        return number + 1 + np.searchsorted(had - 1 - np.arange(len(had)), number, "right")

    def known(self, row: int) -> np.ndarray:
        """What a split may know of a row's user: training's actions, or those up to the target."""
        first, end = self.actions.offsets[self.users[row] : self.users[row] + 2]
        if self.split == "train":
            return self.actions.items[first : trained(end - first) + first]
        return self.actions.items[first : self.ends[row] + (not self.cloze)]

    @property
    def cloze(self) -> bool:
        return self.mask_rate > 0

    @property
    def vocabulary(self) -> int:
        """Different ids of tokens: padding, the items, and a cloze's mask, the last one."""
        return self.actions.vocabulary + 1 + self.cloze

    @property
    def wants(self) -> dict[str, int]:
        """What the model must have room for."""
        return {"vocab": self.vocabulary}

    def describe(self) -> str:
        """One line of what they are."""
        lengths = np.diff(self.actions.offsets)
        few, single = (lengths <= actions.HELD_OUT).sum(), (trained(lengths) < 2).sum()
        left_out = f", {self.actions.left_out:,} left out" if self.actions.left_out else ""
        return (
            f"{self.source} {self.split}: {self.actions.users:,} users, "
            f"{self.actions.vocabulary:,} items, {len(self.actions.items):,} actions{left_out}; "
            f"{len(self):,} rows ({few:,} users of fewer than 3 actions are only trained on, "
            f"{single:,} users have fewer than 2 to train on and no row there)"
        )

    @property
    def bytes_per_target(self) -> float:
        return 0.0

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = [self.actions.content, self.split, self.length, len(self), self.seed]
        known += [self.negatives, self.mask_rate, self.mask_last]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    length: int = 50,
    windows: str = "last",
    mask_rate: float = 0.0,
    mask_last: float = 0.0,
    negatives: int = 0,
    eval_negatives: int = 100,
    columns: str = "user item",
    separator: str = "",
    user: str = "user",
    item: str = "item",
    time: str = "",
    least: int = 0,
    cache_dir: str = "",
    seed: int = 0,
    progress: cache.Progress | None = None,
) -> Rows:
    """The rows of a source of interactions, prepared on first use.

    Args:
        source: a row of `actions.KINDS`.
        split: "train": all but each user's last two actions; "validation": tells the last but one
            from those before it; "test": the last. A user of fewer than three actions has none of
            those, and all are trained on.
        length: T, items in a row.
        windows: of a history that is longer, in training: the "last" T items, or "all" of them, in
            rows from the last one on that share nothing.
        mask_rate: 0, or which share of a row's items is masked in training, to be told from both
            sides (Sun et al. 2019, arXiv:1904.06690, section 3.6): drawn anew each epoch.
        mask_last: with a mask_rate, which share of the rows has its last item alone masked.
        negatives: of each position, items that the user never had, drawn anew each epoch.
        eval_negatives: the same for validation and test, the same draw each time.
        columns, separator, user, item, time, least: see `actions.Reading`.
        cache_dir, progress: see `actions.open_actions`.
        seed: of what is drawn.
    """
    refuse_unknown(split=split, windows=windows)
    for name, value in (("mask_rate", mask_rate), ("mask_last", mask_last)):
        if not 0 <= value < 1:
            raise config.InputError(f"data.{name} = {value}: a share is in [0, 1).")
    for name, count in (("negatives", negatives), ("eval_negatives", eval_negatives)):
        if count < 0:
            raise config.InputError(f"data.{name} = {count}: must not be negative.")
    how = actions.Reading(columns, separator, user, item, time, least)
    found = actions.open_actions(source, how, folder=cache_dir, progress=progress)
    cloze = mask_rate > 0
    users, begins, ends = cut(found.offsets, split, length, windows, cloze=cloze)
    number = negatives if split == "train" else eval_negatives
    chosen = (length, number, mask_rate, mask_last, seed)
    rows = Rows(source, split, found, users, begins, ends, *chosen)
    if not len(rows):
        raise config.InputError(f"{rows.describe()}: none to take.")
    if number:
        refuse_who_had_all(rows)
    return rows


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    T = fields["length"]
    found = dict.fromkeys(("tokens", "targets", "segments"), ((T,), "int32"))
    number = fields["negatives"] if fields["split"] == "train" else fields["eval_negatives"]
    negatives = {"negatives": ((T, number), "int32")} if number else {}
    return negatives | found | {"weights": ((T,), "float32")}


def trained(lengths: np.ndarray) -> np.ndarray:
    """How many of so many actions are trained on."""
    return np.where(lengths > actions.HELD_OUT, lengths - actions.HELD_OUT, lengths)


def cut(
    offsets: np.ndarray, split: str, length: int, windows: str, *, cloze: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, begins and ends of a split's rows.

    Of a cloze a row's own items are told; else each one's next, so that the last is no input.
    """
    firsts, lengths = offsets[:-1], np.diff(offsets)
    if split == "train":
        chosen = np.flatnonzero(trained(lengths) >= 2)
        stops = (firsts + trained(lengths))[chosen] - (not cloze)
    else:
        chosen = np.flatnonzero(lengths > actions.HELD_OUT)
        stops = offsets[1:][chosen] - (split == "validation") - (not cloze)
    counts = np.ones(len(chosen), np.int64)
    if split == "train" and windows == "all":
        counts = -(-(stops - firsts[chosen]) // length)
    users = np.repeat(chosen, counts)
    back = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = np.repeat(stops, counts) - back * length
    return users, np.maximum(firsts[users], ends - length), ends


def refuse_unknown(**given: str) -> None:
    for name, value in given.items():
        allowed = {"split": SPLITS, "windows": WINDOWS}[name]
        config.known(f"data.{name}", value, allowed)


def refuse_who_had_all(rows: Rows) -> None:
    """Whoever had every item leaves none to draw."""
    long = np.diff(rows.actions.offsets)[rows.users] >= rows.actions.vocabulary
    for row in map(int, np.flatnonzero(long)):
        if len(np.unique(rows.known(row))) == rows.actions.vocabulary:
            raise config.InputError(
                f"{rows.source}: user {rows.users[row]} had all {rows.actions.vocabulary} items, "
                "and there are no others to draw; allowed are data.negatives = 0 and "
                "data.eval_negatives = 0."
            )
