"""Rows as people see them: texts decoded, pictures, lists of items; how long they are, what is
left out."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bigmodel.data import text

SAMPLE = 64  # rows that lengths are told of, where only rows tell them
LEFT_OUT = ("cut", "skipped", "broken", "left_out", "duplicates", "near_duplicates", "empty")
NAMED = {"left_out": "actions", "near_duplicates": "near-duplicates"}
WORDS = 12  # labels of tokens that are written out


@dataclasses.dataclass(frozen=True)
class Example:
    """A row, decoded.

    Attributes:
        row: its number.
        texts: name -> text; in [[ ]] what is learnt, where not all is.
        marked: whether not all is.
        picture: [H, W] or [H, W, 3] of 0 to 1; or of sounds [A, M], frames by bands.
        sound: whether it is one.
    """

    row: int
    texts: Mapping[str, str]
    marked: bool
    picture: np.ndarray | None = None
    sound: bool = False


def of(rows: Any, count: int) -> list[Example]:
    """So many rows of a part, spread over it, as evaluation sees them."""
    chosen = spread(len(rows), count)
    taken = rows.take(chosen)
    found = []
    for at, index in enumerate(chosen):
        row = {name: array[at] for name, array in taken.items()}
        texts = {"chats": rows.shown(int(index))} if hasattr(rows, "shown") else _texts(rows, row)
        found.append(Example(int(index), texts, _marks(row), *_picture(row)))
    return found


def lengths(rows: Any) -> dict[str, np.ndarray]:
    """What is measured -> numbers: of all documents of a text, else of a sample of the rows."""
    if (plain := of_text(rows)) is not None:
        return {"tokens in a document": np.diff(plain.flat()[1]) - 1}  # without eos
    taken = rows.take(spread(len(rows), SAMPLE))
    names = {"segments": "places", "source_segments": "source tokens", "audio_segments": "frames"}
    found = {}
    for name, what in names.items():
        if name in taken:
            real = taken[name] > 0
            sample = f"of {len(real)} rows of {real.shape[1]:,}, {real.mean():.1%} filled"
            found[f"{what}, {sample}"] = real.sum(axis=1)
    return found


def left_out(rows: Any) -> dict[str, int]:
    """What of a source is not in its rows, or not whole, and how many."""
    inside = [rows, of_text(rows), getattr(rows, "pictures", None)]
    for name in ("cache", "notes", "images", "sounds", "actions"):
        inside += [getattr(holder, name, None) for holder in inside[:3]]
    found: dict[str, int] = {}
    for holder in inside:
        given = holder if isinstance(holder, Mapping) else getattr(holder, "__dict__", {})
        found |= {k: int(given[k]) for k in LEFT_OUT if isinstance(given.get(k), int | np.integer)}
        found |= {f"by {name}": count for name, count in given.get("filtered", {}).items()}
    return {NAMED.get(name, name): count for name, count in found.items()}


def of_text(rows: Any) -> text.Rows | None:
    """The packed text that rows are made of, or themselves; None where they are of none."""
    inside = (rows, getattr(rows, "text", None), getattr(rows, "rows", None))
    return next((some for some in inside if isinstance(some, text.Rows)), None)


def spread(rows: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64))


def spelled(tokenizer: Any, ids: Iterable[int]) -> str:
    """Decoded; ids that are not the tokenizer's own, such as sentinels, as <ID>."""
    pieces = []
    for own, group in itertools.groupby(map(int, ids), lambda n: n < tokenizer.size):
        some = list(group)
        pieces.append(tokenizer.decode(some) if own else "".join(f"<{n}>" for n in some))
    return "".join(pieces)


def _texts(rows: Any, row: Mapping[str, np.ndarray]) -> dict[str, str]:
    tokenizer, classes = getattr(rows, "tokenizer", None), getattr(rows, "classes", ())
    found = {}
    if "labels" in row:
        found["label"] = _label(row["labels"], classes)
    if hasattr(rows, "actions"):
        found["items"] = _items(rows.actions, row["tokens"][row["segments"] > 0])
        found["to tell"] = _items(rows.actions, row["targets"][row["weights"] > 0])
    if tokenizer is None:
        return found
    if "source" in row:
        found["source"] = spelled(tokenizer, row["source"][row["source_segments"] > 0])
    if ("tokens" in row and "targets" not in row) or _labelled(rows, row):
        found["text"] = spelled(tokenizer, row["tokens"][row["segments"] > 0])
    if _labelled(rows, row):
        told = np.flatnonzero(row["weights"] > 0)
        words = np.split(row["tokens"][: (row["segments"] > 0).sum()], told)[1:]
        pairs = zip(words[:WORDS], row["targets"][told], strict=False)
        named = (f"{spelled(tokenizer, word).strip()} {classes[label]}" for word, label in pairs)
        found["labels"] = ", ".join(named)
    elif "targets" in row:
        found["target" if {"source", "audio"} & set(row) else "text"] = _marked(tokenizer, row)
    return found


def _items(actions: Any, ids: Iterable[int]) -> str:
    return ", ".join(actions.name(n) if n <= actions.vocabulary else "?" for n in map(int, ids))


def _labelled(rows: Any, row: Mapping[str, np.ndarray]) -> bool:
    """Whether targets are classes of the tokens, not tokens."""
    return bool(getattr(rows, "classes", ())) and "targets" in row and "labels" not in row


def _marks(row: Mapping[str, np.ndarray]) -> bool:
    if "targets" not in row or "segments" not in row:
        return False
    return bool((row["weights"][row["segments"] > 0] == 0).any())


def _marked(tokenizer: Any, row: Mapping[str, np.ndarray]) -> str:
    """Targets, a line a document, with marks around what is learnt where not all is."""
    lines = []
    some = _marks(row)
    for number in range(1, row["segments"].max(initial=0) + 1):
        own = row["segments"] == number
        pairs = zip(row["weights"][own] > 0, row["targets"][own], strict=True)
        line = ""
        for learnt, group in itertools.groupby(pairs, lambda pair: pair[0]):
            words = spelled(tokenizer, (n for _, n in group))
            line += f"[[{words}]]" if learnt and some else words
        lines.append(line)
    return "\n--\n".join(lines)


def _label(label: np.ndarray, classes: tuple[str, ...]) -> str:
    if label.ndim or not classes:
        return " ".join(f"{n:g}" for n in np.ravel(label))
    return classes[int(label)]


def _picture(row: Mapping[str, np.ndarray]) -> tuple[np.ndarray | None, bool]:
    """An image's or a sound's numbers, brought to 0 to 1."""
    name = "images" if "images" in row else "audio"
    if name not in row:
        return None, False
    array = np.asarray(row[name], np.float32)
    if name == "audio":
        array = array[: max(1, int((row["audio_segments"] > 0).sum()))]
    elif array.shape[-1] != 3:  # one channel, or a latent's first
        array = array[..., 0]
    low, high = array.min(), array.max()
    return (array - low) / (high - low or 1.0), name == "audio"
