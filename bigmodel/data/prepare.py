"""What is done to the documents of a part: split, normal form, filters, tokens, a hash of each."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bigmodel.data import filters, near_duplicates, sources, tokenizers

CHUNK_CHARACTERS = 2**20  # what is tokenised at a time

Counts = dict[str, Any]  # {"empty": documents, "filtered": {filter: documents}}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to each document.

    Attributes:
        tokenizer: its name.
        normalize: a Unicode form (NFC, NFKC, NFD, NFKD), or "none".
        split: a row of sources.HASHED_SPLITS, or "all".
        signed: whether each text kept gets a signature of `near_duplicates`.
        keeping: name -> what keeps a text or does not; the first that does not counts it.
    """

    tokenizer: str
    normalize: str
    split: str
    signed: bool = False
    keeping: Mapping[str, filters.Filter] = dataclasses.field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        """What JSON can hold, for another process to unpack."""
        return {**vars(self), "keeping": filters.packed(self.keeping)}

    @staticmethod
    def unpacked(settings: Mapping[str, Any]) -> "Preparation":
        """What `packed` packed."""
        return Preparation(**{**settings, "keeping": filters.unpacked(settings["keeping"])})


def prepare(
    documents: Iterable[sources.Document],
    preparation: Preparation,
    tokenizer: tokenizers.Tokenizer,
    prefix: pathlib.Path,
    seen: Callable[[int], None] = lambda size: None,
) -> Counts:
    """Writes PREFIX.{tokens,lengths,bytes,digests}.npy; tells `seen` the bytes done so far.

    PREFIX.signatures.npy as well, if they are asked for.
    """
    dtype = token_dtype(tokenizer.size)
    flat: list[np.ndarray] = [np.empty(0, dtype)]
    lengths: list[int] = []
    sizes: list[int] = []
    digests: list[bytes] = []
    signatures: list[np.ndarray] = []
    empty = 0
    filtered: collections.Counter[str] = collections.Counter()

    def tokenise(texts: list[str]) -> None:
        for ids in tokenizer.encode_many(texts):
            flat.append(ids.astype(dtype))
            flat.append(np.array([tokenizer.eos], dtype))
            lengths.append(len(ids) + 1)
        seen(sum(sizes))

    waiting: list[str] = []
    characters = 0
    for text, size, digest in sources.texts(documents, preparation.split, preparation.normalize):
        if not text:
            empty += 1
            continue
        if refusing := filters.refusing(text, preparation.keeping):
            filtered[refusing] += 1
            continue
        if preparation.signed:
            signatures.append(near_duplicates.signature(text))
        waiting.append(text)
        sizes.append(size)
        digests.append(digest)
        characters += len(text)
        if characters >= CHUNK_CHARACTERS:
            tokenise(waiting)
            waiting, characters = [], 0
    tokenise(waiting)
    np.save(f"{prefix}.tokens.npy", np.concatenate(flat))
    np.save(f"{prefix}.lengths.npy", np.array(lengths, np.int64))
    np.save(f"{prefix}.bytes.npy", np.array(sizes, np.int64))
    words = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    np.save(f"{prefix}.digests.npy", words)
    if preparation.signed:
        signed = np.array(signatures, np.uint32).reshape(-1, near_duplicates.PERMUTATIONS)
        np.save(f"{prefix}.signatures.npy", signed)
    return {"empty": empty, "filtered": filtered}


def token_dtype(size: int) -> np.dtype:
    """The smallest dtype that holds the ids of a vocabulary."""
    return np.dtype(np.uint16 if size <= 2**16 else np.uint32)
