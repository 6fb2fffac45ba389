"""Which tokens of a row are hidden from an encoder, and what stands in their place."""

import dataclasses
import functools
from typing import Any, cast

import numpy as np

from bigmodel import config
from bigmodel.data import tokenizers

# Of the chosen tokens: shown as the mask, and as any token; the rest is shown as it is.
MASKED, RANDOM = 0.8, 0.1

WORD_BYTES = np.array([i >= 128 or chr(i).isalnum() or chr(i) == "_" for i in range(256)] + [False])
OPENERS = ("Ġ", "Ċ", "ĉ", "▁")  # byte pairs: space, line, tab; SentencePiece: space


@dataclasses.dataclass(frozen=True)
class Masking:
    """Devlin et al. 2019 (arXiv:1810.04805), section 3.1 and appendix A.1.

    Attributes:
        tokenizer: made the tokens.
        rate: share of a row's tokens that are chosen, at least one of them.
        whole_word: whether all tokens of a word are chosen together; then the share is met as near
            as whole words can without going over it (google-research/bert, 2019).
    """

    tokenizer: tokenizers.Tokenizer
    rate: float
    whole_word: bool

    def hide(
        self, tokens: np.ndarray, plain: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """What is shown of a row, and which tokens of it are to be told.  [T], [T] -> [T], [T]

        Args:
            tokens: int32 [T].
            plain: bool [T], which may be chosen.
            draw: what all chances are drawn from.
        """
        shown, chosen = tokens.copy(), np.zeros(len(tokens), bool)
        places = np.flatnonzero(plain)
        if not len(places):
            return shown, chosen
        wanted = max(1, round(self.rate * len(places)))
        picked = self.pick(tokens, places, wanted, draw)
        chosen[picked] = True
        chance = draw.random(len(picked))
        anything = draw.integers(0, self.tokenizer.size, len(picked))
        as_any = np.where(chance < MASKED + RANDOM, anything, tokens[picked])
        shown[picked] = np.where(chance < MASKED, self.tokenizer.mask, as_any)
        return shown, chosen

    def pick(
        self, tokens: np.ndarray, places: np.ndarray, wanted: int, draw: np.random.Generator
    ) -> np.ndarray:
        """So many of the places, or whole words of them."""
        if not self.whole_word:
            return draw.choice(places, wanted, replace=False)
        opens = self.opens(tokens)[places]
        opens[np.flatnonzero(np.diff(places, prepend=-2) > 1)] = True  # after what is not plain
        words = np.split(places, np.flatnonzero(opens)[1:])
        order = [words[i] for i in draw.permutation(len(words))]
        picked: list[np.ndarray] = []
        for word in order:
            if len(word) <= wanted:
                picked.append(word)
                wanted -= len(word)
        # Where all words are longer than the share one is told, so that the row tells something.
        return np.concatenate(picked or order[:1])

    def check(self) -> None:
        """Refuses whole words of a tokenizer that does not mark them."""
        if not isinstance(self.tokenizer, tokenizers.Bytes):
            _ = self.openers

    def opens(self, tokens: np.ndarray) -> np.ndarray:
        """Whether a word begins with each token.  [T] -> bool [T]

        Bytes: letters, digits, "_" and what is no ASCII, as long as they go on, are a word.
        """
        if isinstance(self.tokenizer, tokenizers.Bytes):
            inside = WORD_BYTES[np.minimum(tokens, len(WORD_BYTES) - 1)]
            return ~(inside & np.concatenate([[False], inside[:-1]]))
        return self.openers[tokens]

    @functools.cached_property
    def openers(self) -> np.ndarray:
        """Whether a word begins with each id, by how its format marks that.  bool [size]"""
        library = cast(Any, self.tokenizer).library
        named = library.id_to_token if hasattr(library, "id_to_token") else library.id_to_piece
        names = [named(i) or "" for i in range(self.tokenizer.size)]
        if any(name.startswith("##") for name in names):  # WordPiece
            return np.array([not name.startswith("##") for name in names])
        opens = np.array([name.startswith(OPENERS) for name in names])
        if not opens.any():
            raise config.InputError(
                f'tokenizer "{self.tokenizer.name}" does not mark where words begin (##, Ġ or ▁); '
                "data.whole_word = True needs that; allowed is False."
            )
        return opens
