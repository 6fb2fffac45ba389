"""Rows of sentences, and the class of each of their words."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import cache, labelling, prepare, records, sentences, sources, tokenizers
from bigmodel.data.parts import OnePart

FORMAT = 1  # raise it when the same inputs would give other rows
UNTOLD = -1  # the label of a token that does not begin a word


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """Sentences of a split of a source, one a row.

    Attributes:
        source, split: as in the config.
        tokenizer: made the tokens.
        length: T.
        tokens: [N], of all sentences.
        labels: int32 [N], the class of a word at its first token, else UNTOLD.
        offsets: [rows + 1] int64; row k is tokens[offsets[k]:offsets[k + 1]].
        classes: their names in the order of their ids.
        notes: "content", a hash of all that, and "cut" and "skipped", how many sentences.
    """

    source: str
    split: str
    tokenizer: tokenizers.Tokenizer
    length: int
    tokens: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    classes: tuple[str, ...]
    notes: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """[b] indices -> tokens, targets, weights, segments, positions [b, T]."""
        shape = len(indices), self.length
        tokens, targets = np.zeros(shape, np.int32), np.full(shape, UNTOLD, np.int32)
        segments = np.zeros(shape, np.int32)
        for row, index in enumerate(indices):
            begin, end = self.offsets[index], self.offsets[index + 1]
            size = end - begin
            tokens[row, 0], tokens[row, size + 1] = self.tokenizer.bos, self.tokenizer.eos
            tokens[row, 1 : size + 1] = self.tokens[begin:end]
            targets[row, 1 : size + 1] = self.labels[begin:end]
            segments[row, : size + 2] = 1
        told = targets != UNTOLD
        return {
            "tokens": tokens,
            "targets": targets * told,
            "weights": told.astype(np.float32),
            "segments": segments,
            "positions": np.arange(self.length, dtype=np.int32) * segments,
        }

    @property
    def bytes_per_target(self) -> float:
        return 0.0

    @property
    def wants(self) -> dict[str, int]:
        """What fields of the model must be at least."""
        return {"token_classes": len(self.classes)}

    def describe(self) -> str:
        """One line of what they are."""
        counts = np.bincount(self.labels[self.labels != UNTOLD], minlength=len(self.classes))
        named = (f"{name} {count:,}" for name, count in zip(self.classes, counts, strict=True))
        unfit = (f", {n:,} {how}" for how in ("cut", "skipped") if (n := self.notes[how]))
        return (
            f"{self.source} {self.split}: {len(self):,} sentences{''.join(unfit)}, classes of "
            f"words {', '.join(named)}"
        )

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
    classes: tuple[str, ...] = (),
    unfit: str = "refuse",
    cache_dir: str = "",
    training: tuple[str, str] | None = None,
    extensions: Mapping[str, Callable[[], Iterable[Any]]] | None = None,
) -> Rows:
    """The rows of a source, prepared on first use.

    Args:
        source: see `sentences.find`; "python_stdlib" is lines, and what kind each token is.
        split: see `sentences.find`.
        tokenizer: a name for `tokenizers.load`, or what it gave.
        length: T, positions in a row.
        classes: names in the order of their ids; (): those of the training split, sorted.
        unfit: a name of `labelling.UNFIT`.
        cache_dir: see `cache.open_cache`.
        training: source and split that the run trains on, whose labels are the classes; None:
            these ones.
        extensions: the user's own sources, by name.
    """
    if isinstance(tokenizer, str):
        tokenizer = tokenizers.load(tokenizer)
    labelling.check(classes, unfit, length, least=3)
    if not classes and training and training != (source, split):
        shared: dict[str, Any] = dict(tokenizer=tokenizer, length=length, unfit=unfit)
        shared |= dict(cache_dir=cache_dir, extensions=extensions)
        classes = open_rows(training[0], split=training[1], **shared).classes
    found = sentences.find(source, split, extensions=extensions)
    known = [FORMAT, "labelled_tokens", found.name, found.fingerprint, split]
    known += [tokenizer.fingerprint, length, classes, unfit]
    key = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]
    write = functools.partial(prepared, found, split, tokenizer, length, classes, unfit)
    _, arrays, notes = cache.built(key, cache_dir, write)
    classes = tuple(notes["classes"])
    return Rows(source, split, tokenizer, length, **arrays, classes=classes, notes=notes)


def prepared(
    found: records.Records,
    split: str,
    tokenizer: tokenizers.Tokenizer,
    length: int,
    classes: tuple[str, ...],
    unfit: str,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes the arrays of all sentences of the split, and says what they are."""
    dtype, room = prepare.token_dtype(tokenizer.size), length - 2
    flat: list[np.ndarray] = []
    begins: list[np.ndarray] = []
    labels: list[str] = []
    where_of: list[str] = []
    counts = {"cut": 0, "skipped": 0}
    for where, sentence in of_split(found):
        words = sentence["words"]
        ids, opens = of_words(where, words, tokenizer)
        if len(ids) > room:
            if unfit == "refuse":
                raise config.InputError(
                    f"{where} has {len(ids)} tokens, and a row room for {room}; data.unfit = "
                    '"cut" or "skip", or a larger data.length would do.'
                )
            counts["skipped" if unfit == "skip" else "cut"] += 1
            if unfit == "skip":
                continue
            ids, opens = ids[:room], opens[:room]
        flat.append(ids.astype(dtype))
        begins.append(opens)
        told = sentence["labels"][: opens.sum()]
        labels += told
        where_of += [where] * len(told)
    if not flat:
        raise config.InputError(
            f'source "{found.name}" has no sentences in the split "{split}" '
            f"({counts['skipped']} are skipped)."
        )
    classes = classes or tuple(labelling.in_order(labels))
    of_tokens = np.full(sum(map(len, flat)), UNTOLD, np.int32)
    of_tokens[np.concatenate(begins)] = labelling.ids_of(labels, where_of, classes)
    arrays = {
        "tokens": np.concatenate(flat),
        "labels": of_tokens,
        "offsets": np.cumsum([0, *map(len, flat)], dtype=np.int64),
    }
    return counts | {"content": labelling.save(arrays, folder, tokenizer), "classes": classes}


def of_split(found: records.Records) -> Iterator[records.Named]:
    """The sentences of a hashed split, by their words."""
    for where, sentence in found.read():
        raw = json.dumps(sentence["words"]).encode()
        if sources.in_split(hashlib.blake2b(raw, digest_size=16).digest(), found.split):
            yield where, sentence


def texts(data: Mapping[str, Any], extensions: Any = None) -> Iterator[str]:
    """Words of each sentence, a space between them: what a tokenizer is trained on."""
    found = sentences.find(data["source"], data["split"], extensions=extensions)
    yield from (" ".join(sentence["words"]) for _, sentence in of_split(found))


def of_words(
    where: str, words: list[str], tokenizer: tokenizers.Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of words with a space between them, and which of the tokens begin a word."""
    ids = tokenizer.encode_many([f" {word}" if n else word for n, word in enumerate(words)])
    for word, of_word in zip(words, ids, strict=True):
        if not len(of_word):
            raise config.InputError(
                f'{where}: the word {word!r} has no tokens by the tokenizer "{tokenizer.name}".'
            )
    opens = np.concatenate([np.arange(len(of_word)) == 0 for of_word in ids])
    return np.concatenate(ids), opens
