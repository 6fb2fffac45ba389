"""What decoding begins with: a model's functions, prompts as a batch, limits, and what they break.

Prompts of different lengths are padded on the left, so that all rows write the cache at one index.
Their length is rounded up to a power of two, and the cache's to a multiple of 128: a program is
compiled once for all prompts and limits that round to the same.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bigmodel.config import InputError

Params = Any
Cache = Any
Address = tuple[int, int, int]  # seed, prompt, sample: all that a row's random numbers depend on

SHORTEST = 16  # tokens: shorter prompts are padded to it
CACHE_STEP = 128  # tokens: lanes of a TPU's vector registers


class Functions(Protocol):
    """What is asked of a model. Hashable: it is a static argument of what is compiled."""

    @property
    def apply(self) -> Callable[..., dict[str, Any]]:
        """(params, batch, cache=cache) -> outputs with "hidden" [B, T, D] and "cache"."""

    @property
    def head(self) -> Callable[[Params], Params]:
        """params -> what `unembed` reads of them."""

    @property
    def unembed(self) -> Callable[[Params, jax.Array], jax.Array]:
        """(head, hidden [B, D]) -> logits [B, V]"""

    @property
    def new_cache(self) -> Callable[[Params, dict[str, jax.Array], int], Cache]:
        """(params, batch, length) -> an empty cache"""


def left_padded(
    texts: list[np.ndarray], *, prefix: bool = False, shortest: int = SHORTEST
) -> dict[str, np.ndarray]:
    """Prompts as a batch: tokens at the right end, segment 0 before them.  [B, T]

    Where an id is below 0 a patch of an image stands: such places are `image_positions` [B, P],
    -1 in rows that have none, and the token there is one of the prompt, which nobody reads.

    Args:
        texts: ids of each prompt.
        prefix: whether prompts are seen from everywhere.
        shortest: the least T.
    """
    longest = max(shortest, *map(len, texts))
    T = 1 << (longest - 1).bit_length()
    batch = {
        name: np.zeros((len(texts), T), np.int32) for name in ("tokens", "segments", "positions")
    }
    P = max(int((text < 0).sum()) for text in texts)
    batch |= {"image_positions": np.full((len(texts), P), -1, np.int32)} if P else {}
    batch |= {"prefix": np.zeros((len(texts), T), bool)} if prefix else {}
    for row, text in enumerate(texts):
        own = slice(T - len(text), T)
        batch["tokens"][row, own] = np.where(text < 0, text.max(), text)
        batch["segments"][row, own] = 1
        batch["positions"][row, own] = np.arange(len(text))
        if prefix:
            batch["prefix"][row, own] = True
        if len(places := np.flatnonzero(text < 0)):
            batch["image_positions"][row, : len(places)] = places + T - len(text)
    return batch


def begun(
    prompts: Sequence[np.ndarray],
    addresses: list[Address],
    *,
    max_new_tokens: int | None,
    max_length: int | None,
    multiple: int,
    shortest: int,
    inputs: Mapping[str, np.ndarray] | None,
    prefix: bool,
) -> tuple[dict[str, np.ndarray], list[Address], list[int]]:
    """Some rows as a batch, their addresses, and how many tokens each may draw.

    Rows that may draw nothing are added up to a multiple.

    Args:
        prompts: all of them.
        addresses: (seed, prompt, sample) of each row.
        max_new_tokens, max_length, multiple, shortest, inputs, prefix: see `generate.generate`.
    """
    texts = [np.asarray(prompts[which], np.int32) for _, which, _ in addresses]
    left = [limit(len(text), max_new_tokens, max_length) for text in texts]
    added = -len(texts) % multiple
    texts += added * [np.zeros(1, np.int32)]
    addresses = addresses + added * addresses[:1]
    which = np.array([prompt for _, prompt, _ in addresses])
    batch = left_padded(texts, prefix=prefix, shortest=shortest)
    batch |= {name: array[which] for name, array in (inputs or {}).items()}
    return batch, addresses, left + added * [0]


def limit(length: int, max_new_tokens: int | None, max_length: int | None) -> int:
    """How many tokens may follow a prompt of this length."""
    limits = []
    if max_new_tokens is not None:
        limits.append(max_new_tokens)
    if max_length is not None:
        limits.append(max_length - length)
    return max(min(limits), 0)


def round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def check(
    prompts: Sequence[np.ndarray],
    max_new_tokens: int | None,
    max_length: int | None,
    num_return_sequences: int,
    seed: int,
) -> None:
    if max_new_tokens is None and max_length is None:
        raise InputError("max_new_tokens, max_length: one of them at least is needed.")
    for name, limit in (("max_new_tokens", max_new_tokens), ("max_length", max_length)):
        if limit is not None and limit < 0:
            raise InputError(f"{name}={limit}: must be a number of tokens, 0 or more.")
    if num_return_sequences < 1:
        raise InputError(f"num_return_sequences={num_return_sequences}: must be 1 or more.")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: must lie between 0 and 2^32 - 1.")
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(
                f"prompt {index} has no tokens: it needs one at least. The text that starts a "
                "document is the tokenizer's bos alone."
            )
