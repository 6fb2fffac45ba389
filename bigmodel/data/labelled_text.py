"""Rows of one text or two, and what they are: a class, or a number."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import cache, labelling, records, text_augment, tokenizers
from bigmodel.data.parts import OnePart

LABELS = ("classes", "numbers")
SHOWN = 12  # classes in a line


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Records of a split of a source.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        length: T.
        texts: in a row, 1 or 2.
        tokens: [N], of all texts.
        offsets: [rows * texts + 1] int64; text k is tokens[offsets[k]:offsets[k + 1]].
        labels: int32 [rows], or of numbers float32 [rows, 1].
        classes: their names in the order of their ids; of numbers none.
        notes: "content", a hash of all that, and "skipped", how many records do not fit.
        augmentation: of texts, in training.
        seed: of its draws.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    length: int
    texts: int
    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    notes: Mapping[str, Any]
    augmentation: text_augment.Augmentation
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, segments, positions, token_types [b, T], labels, weights [b]."""
        shape = len(indices), self.length
        tokens, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        segments = np.zeros(shape, np.int32)
        for row, index in enumerate(indices):
            end, draw = 1, None
            if self.augmentation and epochs is not None:
                draw = np.random.default_rng([self.seed, int(epochs[row]), int(index)])
            tokens[row, 0] = self.tokenizer.bos
            for text in range(self.texts):
                at = int(index) * self.texts + text
                ids = self.tokens[self.offsets[at] : self.offsets[at + 1]]
                ids = ids if draw is None else self.augmentation.of(ids, draw)
                begin, end = end, end + len(ids) + 1
                tokens[row, begin:end] = [*ids, self.tokenizer.eos]
                types[row, begin:end] = text
            segments[row, :end] = 1
        return {
            "tokens": tokens,
            "token_types": types,
            "segments": segments,
            "positions": np.arange(self.length, dtype=np.int32) * segments,
            "labels": self.labels[indices],
            "weights": np.ones(len(indices), np.float32),
        }

    @property
    def bytes_per_target(self) -> float:
        return 0.0

    @property
    def wants(self) -> dict[str, int]:
        """What fields of the model must be at least."""
        return {"classes": len(self.classes) or 1}

    def describe(self) -> str:
        """One line of what they are."""
        found = f"{self.source} {self.split}: {len(self):,} rows"
        skipped = f", {self.notes['skipped']:,} records skipped" if self.notes["skipped"] else ""
        if not self.classes:
            low, high = self.labels.min(), self.labels.max()
            return f"{found}{skipped}, labels from {low:g} to {high:g}"
        counts = np.bincount(self.labels, minlength=len(self.classes))
        named = [f"{name} {count:,}" for name, count in zip(self.classes, counts, strict=True)]
        shown = ", ".join([*named[:SHOWN], *["..."] * (len(named) > SHOWN)])
        return f"{found}{skipped}, {len(named)} classes: {shown}"

    @functools.cached_property
    def fingerprint(self) -> str:
        known = [self.notes["content"], self.length, self.classes]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def open_rows(
    source: str = "python_stdlib",
    *,
    split: str = "train",
    tokenizer: str | tokenizers.Tokenizer = "bytes",
    length: int = 128,
    field: str = "text",
    second_field: str = "",
    label: str = "label",
    labels: str = "classes",
    classes: tuple[str, ...] = (),
    unfit: str = "refuse",
    normalize: str = "NFC",
    token_drop: float = 0.0,
    token_swap: float = 0.0,
    seed: int = 0,
    cache_dir: str = "",
    training: tuple[str, str] | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Rows:
    """The rows of a source, prepared on first use.

    Args:
        source: see `records.find`; "python_stdlib" is lines of modules, told apart.
        split: see `records.find`.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, positions in a row.
        field: of a record that holds the text.
        second_field: of another text; "": there is none.
        label: the field that holds the label.
        labels: "classes", or "numbers".
        classes: names in the order of their ids; (): those of the training split, sorted.
        unfit: a name of `labelling.UNFIT`.
        normalize: a Unicode form, or "none".
        token_drop, token_swap: see `text_augment.Augmentation`; evaluation has none of it.
        seed: of its draws.
        cache_dir: see `cache.open_cache`.
        training: source and split that the run trains on, whose labels are the classes; None:
            these ones.
        extensions: the user's own sources, by name.
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    for name, value, allowed in (
        ("labels", labels, LABELS),
        ("normalize", normalize, cache.FORMS),
    ):
        config.known(f"data.{name}", value, allowed)
    texts = 2 if second_field else 1
    if classes and labels == "numbers":
        raise config.InputError(f"data.classes = {classes}: numbers have none; allowed is ().")
    labelling.check(classes, unfit, length, least=2 * texts + 1)
    shared = dict(
        tokenizer=tokenizer, length=length, field=field, second_field=second_field, label=label
    )
    shared |= dict(labels=labels, unfit=unfit, normalize=normalize, cache_dir=cache_dir)
    if labels == "classes" and not classes and training and training != (source, split):
        name, its_split = training
        known = open_rows(name, split=its_split, extensions=extensions, **cast(Any, shared))
        classes = known.classes
    found = records.find(source, split, text=field, extensions=extensions)
    reading = labelling.Reading(
        found, split, tokenizer, length, (field, second_field)[:texts], label, labels, classes,
        unfit, normalize,
    )  # fmt: skip
    _, arrays, notes = cache.built(reading.key, cache_dir, reading.write)
    if labels == "classes":
        classes = tuple(notes["classes"])
    augmentation = text_augment.Augmentation(token_drop, token_swap)
    return Rows(
        source, split, tokenizer, length, texts, **arrays, classes=classes, notes=notes,
        augmentation=augmentation, seed=seed,
    )  # fmt: skip


def texts(data: Mapping[str, Any], extensions: Any = None) -> Iterator[str]:
    """The texts of a split, by the fields of a config's `data`: what a tokenizer is trained on."""
    fields = tuple(filter(None, (data["field"], data["second_field"])))
    found = records.find(data["source"], data["split"], text=fields[0], extensions=extensions)
    told = (data[name] for name in ("label", "labels", "classes", "unfit", "normalize"))
    of = (found, data["split"], tokenizers.Bytes(), data["length"], fields)
    for _, some, _ in labelling.Reading(*of, *told).rows():
        yield from some


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    names = ("tokens", "token_types", "segments", "positions")
    of_label: Any = ((), "int32") if fields["labels"] == "classes" else ((1,), "float32")
    of_row = {"labels": of_label, "weights": ((), "float32")}
    return {**dict.fromkeys(names, ((fields["length"],), "int32")), **of_row}
