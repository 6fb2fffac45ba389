"""Rows of chats: several in a row, and of each the answers are learnt.

Prepared once: all chats of a split as one flat array of tokens and which of them are learnt. What
is too long is seen when rows are opened, so that other lengths need no other preparation.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import (
    cache,
    chat_reading,
    chat_sources,
    chat_template_files,
    chat_templates,
    row_numbers,
    text,
    tokenizers,
)
from bigmodel.data import packing as packings
from bigmodel.data.parts import OnePart

TOO_LONG, BROKEN, PACKINGS = ("refuse", "skip", "cut"), ("refuse", "skip"), ("best_fit", "none")


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Rows of chats of one source.

    Attributes:
        source, split: as in the config.
        template: wrote the chats.
        arrays: what is prepared, memory-mapped: "tokens" [N], "weights" [N] uint8 of each as a
            target, "offsets" [chats + 1], and "records" [chats], their numbers in the source.
        notes: "content", a hash of all that, and how many are "broken".
        chosen: [chats used] their numbers.
        plan: which chats make which row; it counts the targets of the chosen chats.
        ends: [chats used + 1] where each begins among those targets.
        packing: the plan's name.
        learnt: targets with a weight.
        cut, skipped: how many chats are cut, and are not used as they are too long.
    """

    source: str
    split: str
    template: chat_templates.Template
    arrays: Mapping[str, np.ndarray]
    notes: Mapping[str, Any]
    chosen: np.ndarray
    plan: packings.Plan
    ends: np.ndarray
    packing: str
    learnt: int
    cut: int
    skipped: int

    def __len__(self) -> int:
        return len(self.plan)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, targets, weights, segments, positions [b, T]; of every epoch."""
        indices = row_numbers.within(indices, len(self))
        row, start, size = self.plan.pieces(indices)
        chat = self.chosen[np.searchsorted(self.ends, start, "right") - 1]
        # A chat begins with its own first token, not with one of the tokenizer's: that is no
        # target, so the piece starts behind it.
        pieces = row, self.arrays["offsets"][chat] + 1, size
        flat = self.arrays["tokens"], self.arrays["offsets"]
        bos, weights = self.tokenizer.bos, self.arrays["weights"]
        return packings.fill(pieces, len(indices), self.plan.length, *flat, bos, weights)

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return self.template.tokenizer

    @property
    def bytes_per_target(self) -> float:
        return 0.0  # the targets are a part of the text

    def describe(self) -> str:
        """One line of what they are."""
        counts = {"cut": self.cut, "too long": self.skipped, "broken": self.notes["broken"]}
        told = "".join(f", {count:,} {how}" for how, count in counts.items() if count)
        return (
            f"{self.source} {self.split}: {len(self.chosen):,} chats{told}, by the template "
            f'"{self.template.name}", {len(self):,} rows, {self.learnt:,} of {self.ends[-1]:,} '
            "targets learnt"
        )

    def shown(self, index: int = 0) -> str:
        """A row as text: special tokens as they are written, [[what is learnt]], a line a chat."""
        row = {name: array[0] for name, array in self.take(np.array([index])).items()}
        found = []
        for number in range(1, row["segments"].max() + 1):
            own = np.flatnonzero(row["segments"] == number)
            ids = [row["tokens"][own[0]], *row["targets"][own]]
            pairs = zip([False, *(row["weights"][own] > 0)], ids, strict=True)
            line = ""
            for learnt, some in itertools.groupby(pairs, lambda pair: pair[0]):
                text = self.template.spelled(number for _, number in some)
                line += f"[[{text}]]" if learnt else text
            found.append(line)
        return "\n".join(found)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content."""
        known = [self.notes["content"], self.plan.length, self.packing, len(self)]
        chosen = np.ascontiguousarray(self.chosen).tobytes()
        return hashlib.sha256(json.dumps(known).encode() + chosen).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    template: str = "",
    length: int = 1024,
    packing: str = "best_fit",
    train_on: str = "answers",
    too_long: str = "refuse",
    broken: str = "refuse",
    mixture: Mapping[str, float] | None = None,
    messages_field: str = "messages",
    role_field: str = "role",
    content_field: str = "content",
    prompt_field: str = "prompt",
    context_field: str = "",
    completion_field: str = "completion",
    normalize: str = "NFC",
    date: str = chat_template_files.DATE,
    cache_dir: str = "",
    progress: cache.Progress | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Rows | text.Mixture:
    """The chats of a source, prepared on first use.

    Args:
        source: see `chat_sources.find`; "python_stdlib" is what its functions do, asked and told.
        split: see `records.find`; by a hash of what stands before the first answer.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        template: what writes a chat, see `chat_template_files.load`.
        length: T, positions in a row.
        packing: "best_fit": several chats a row, each a segment; "none": one.
        train_on: what is learnt: "answers", the "last" answer of a chat, or "all" tokens.
        too_long: what becomes of a chat that does not fit in a row: "refuse", "skip", or "cut" at
            its end; one without an answer in what is left is skipped.
        broken: what becomes of a record that is no chat: "refuse" or "skip".
        mixture: source -> weight, for rows of several sources.
        messages_field, role_field, content_field: of a record that is a list of messages.
        prompt_field, completion_field: of one that is a question and its answer.
        context_field: of a text that follows the prompt in it, where there is one; "": none is.
        normalize: a Unicode form, or "none".
        date: what a template is told that asks for the day.
        cache_dir, progress: see `cache.open_cache`.
        extensions: the user's own sources: functions that return dicts.
    """
    for field, value, allowed in (
        ("packing", packing, PACKINGS),
        ("train_on", train_on, chat_templates.TRAIN_ON),
        ("too_long", too_long, TOO_LONG),
        ("broken", broken, BROKEN),
        ("normalize", normalize, cache.FORMS),
    ):
        config.known(f"data.{field}", value, allowed)
    if length < 1:
        raise config.InputError(f"data.length = {length}: a row needs at least 1 position.")
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    writer = chat_template_files.load(template, tokenizer, date)
    fields = chat_sources.Fields(
        messages_field, role_field, content_field, prompt_field, context_field, completion_field
    )

    def one(name: str) -> Rows:
        found = chat_sources.find(name, split, fields, extensions)
        reading = chat_reading.Reading(
            found, split, writer, fields, train_on, broken, normalize, progress
        )
        _, arrays, notes = cache.built(reading.key, cache_dir, reading.write)
        return rows_of(reading, arrays, notes, length, packing, too_long)

    if not mixture:
        return one(source)
    parts = cast(Any, tuple(map(one, mixture)))
    return text.Mixture(parts, tuple(map(float, mixture.values())))


def rows_of(
    reading: chat_reading.Reading,
    arrays: Mapping[str, np.ndarray],
    notes: Mapping[str, Any],
    length: int,
    packing: str,
    too_long: str,
) -> Rows:
    """What is prepared, as rows of a length."""
    offsets, weights = arrays["offsets"], arrays["weights"]
    sizes = np.diff(offsets) - 1  # targets: the first token of a chat is none
    learnt = np.add.reduceat(weights, offsets[:-1], dtype=np.int64)
    long = np.flatnonzero(sizes > length)
    if len(long) and too_long == "refuse":
        number = int(arrays["records"][long[0]])
        where, _ = next(itertools.islice(reading.found.read(), number, None))
        raise config.InputError(
            f"{where} has {sizes[long[0]] + 1:,} tokens, and a row room for {length + 1:,}; "
            f"{len(long):,} of {len(sizes):,} chats are longer. data.too_long = "
            '"cut" or "skip", or a larger data.length would do.'
        )
    for chat in long:
        kept = weights[offsets[chat] + 1 : offsets[chat] + 1 + length]
        learnt[chat] = kept.sum() if too_long == "cut" else 0
    chosen = np.flatnonzero(learnt)
    if not len(chosen):
        raise config.InputError(
            f'source "{reading.found.name}" has no chats in the split "{reading.split}" of which '
            f"an answer stands in a row of {length:,} tokens ({len(long):,} are too long)."
        )
    ends = np.concatenate([[0], np.cumsum(np.minimum(sizes[chosen], length))]).astype(np.int64)
    skipped = len(sizes) - len(chosen)
    return Rows(
        reading.found.name,
        reading.split,
        reading.template,
        arrays,
        notes,
        chosen,
        packings.plan(ends, length, packing),
        ends,
        packing,
        learnt=int(learnt.sum()),
        cut=len(long) - skipped,
        skipped=skipped,
    )
