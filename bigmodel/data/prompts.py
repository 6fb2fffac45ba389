"""A prompt and what follows it in one row, for a decoder: how prompts are written, and the arrays.

Among ids of a prompt one below 0 is no token: an image stands there, or a patch of it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel import config
from bigmodel.data import tokenizers

IMAGE = -1  # among ids


class Template(NamedTuple):
    """How a prompt is written, in parts: "{image}", "{bos}", or a text with {prompt} in it or not.

    "{image}{bos}{prompt}\\n" is PaliGemma's. Text between two marks is tokenised as one.
    """

    parts: tuple[str, ...]

    def ids(self, prompts: Sequence[str], tokenizer: tokenizers.Tokenizer) -> list[np.ndarray]:
        """Of each prompt int32 [n], `IMAGE` where its image goes."""
        marks = {"{image}": IMAGE, "{bos}": tokenizer.bos}
        columns: list[Sequence[np.ndarray]] = []
        for part in self.parts:
            if part in marks:
                columns.append([np.array([marks[part]], np.int32)] * len(prompts))
            else:
                texts = [part.replace("{prompt}", prompt) for prompt in prompts]
                columns.append(tokenizer.encode_many(texts))
        return [np.concatenate(row).astype(np.int32) for row in zip(*columns, strict=True)]


def template(text: str, *, images: bool) -> Template:
    """A template out of the text of a config; raises InputError if it is none.

    Without {bos} the token that starts a document stands before all.

    Args:
        text: such as "{prompt}\\n".
        images: whether {image} is wanted, and {bos} is allowed.
    """
    needed = ("prompt", "image") if images else ("prompt",)
    allowed = (*needed, "bos") if images else needed
    found = re.findall(r"\{(\w*)\}", text)
    wrong = [f"{{{mark}}} is unknown" for mark in found if mark not in allowed]
    wrong += [f"{{{mark}}} is there twice" for mark in allowed if found.count(mark) > 1]
    wrong += [f"{{{mark}}} is missing" for mark in needed if mark not in found]
    if wrong:
        marks = ", ".join(f"{{{mark}}}" for mark in allowed)
        raise config.InputError(
            f"data.template = {text!r}: {wrong[0]}; it is text with {marks} in it, once each."
        )
    parts = tuple(piece for piece in re.split(r"(\{image\}|\{bos\})", text) if piece)
    return Template(parts if "bos" in found else ("{bos}", *parts))


def with_patches(ids: np.ndarray, patches: int) -> np.ndarray:
    """Ids with so many marks where the one of an image was."""
    return np.repeat(ids, np.where(ids == IMAGE, patches, 1))


def batch_of(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    T: int,
    tokenizer: tokenizers.Tokenizer,
    *,
    prefix: bool,
    patches: int = 0,
) -> dict[str, np.ndarray]:
    """(ids of the prompt, of what follows without its end) of each row -> arrays [b, T].

    Only what follows has a weight, and its end; what does not fit is cut.

    Args:
        rows: as said.
        T: length.
        tokenizer: whose bos and eos they are.
        prefix: whether prompts are seen from everywhere.
        patches: P of each row's image; 0: there are none.
    """
    names = ("tokens", "targets", "segments", "positions")
    row = {name: np.zeros((len(rows), T), np.int32) for name in names}
    row["weights"] = np.zeros((len(rows), T), np.float32)
    row |= {"prefix": np.zeros((len(rows), T), bool)} if prefix else {}
    row |= {"image_positions": np.zeros((len(rows), patches), np.int32)} if patches else {}
    for at, (prompt, answer) in enumerate(rows):
        whole = np.concatenate([prompt, answer, [tokenizer.eos]]).astype(np.int32)[: T + 1]
        n, known = len(whole) - 1, len(prompt)
        if patches:
            row["image_positions"][at] = np.flatnonzero(whole == IMAGE)
        whole[whole == IMAGE] = tokenizer.bos  # nobody reads it
        row["tokens"][at, :n], row["targets"][at, :n] = whole[:-1], whole[1:]
        row["segments"][at, :n] = 1
        row["positions"][at, :n] = np.arange(n)
        row["weights"][at, known - 1 : n] = 1
        if prefix:
            row["prefix"][at, :known] = True
    return row


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row of a prompt and a text: name -> (shape, dtype)."""
    names = dict.fromkeys(("tokens", "targets", "segments", "positions"), "int32")
    names |= {"weights": "float32"} | ({"prefix": "bool"} if fields["prefix"] else {})
    return {name: ((fields["length"],), dtype) for name, dtype in names.items()}
