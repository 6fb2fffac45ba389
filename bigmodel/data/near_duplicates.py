"""Documents that are nearly the same: MinHash signatures, and those that a place before resembles.

Broder 1997; as done for MassiveText by Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1.
"""

import functools
import re
from typing import Any

import numpy as np

from bigmodel.data import filters

PERMUTATIONS = 128  # a similarity of 0.8 is told to within 0.035, one standard deviation
SHINGLE = 5  # words
SCHEME = "affine32"  # of the permutations; another would be another number
EAST_ASIAN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces
WORD = re.compile(rf"[{EAST_ASIAN}]|[^\W{EAST_ASIAN}]+")


def shingles(text: str) -> set[str]:
    """Every five words in a row, in small letters; of a shorter text all that it has.

    A word is a run of letters and digits, or one character of Chinese or Japanese.
    """
    words = WORD.findall(text.lower()) or [text]
    last = max(1, len(words) - SHINGLE + 1)
    return {" ".join(words[at : at + SHINGLE]) for at in range(last)}


def signature(text: str) -> np.ndarray:
    """[PERMUTATIONS] uint32: in how many places two are equal tells what shingles they share."""
    minhash = _nothing().copy()
    minhash.update_batch([shingle.encode("utf-8") for shingle in shingles(text)])
    return minhash.hashvalues


def first_of_each(signatures: np.ndarray, kept: np.ndarray, least: float) -> np.ndarray:
    """`kept` [N] bool, without the documents that one kept before is as similar to as `least`.

    Args:
        signatures: [N, PERMUTATIONS], in the order of the documents.
        kept: those that are looked at.
        least: Jaccard similarity of the shingles, as the signatures tell it.
    """
    datasketch = filters.wanted("datasketch")
    # Likeness is checked below, so that what the bands miss weighs more than what they find.
    bands = datasketch.MinHashLSH(least, PERMUTATIONS, weights=(0.1, 0.9))
    found = kept.copy()
    for number in np.flatnonzero(kept):
        mine = signatures[number]
        minhash = datasketch.LeanMinHash(hashvalues=mine, seed=1, scheme=SCHEME)
        before = bands.query(minhash)
        if before and (signatures[before] == mine).mean(axis=1).max() >= least:
            found[number] = False
        else:
            bands.insert(int(number), minhash)
    return found


@functools.cache
def _nothing() -> Any:
    return filters.wanted("datasketch").MinHash(PERMUTATIONS, seed=1, scheme=SCHEME)
