"""What a text costs: perplexity, bits per byte, and the bits of counts of tokens and of pairs."""

import math

import numpy as np

DENSE_PAIRS = 2**24  # vocab^2 up to this is counted in a table of 128 MB, more by sorting


def perplexity(nats: float, tokens: float) -> float:
    """exp of the mean loss of a token; inf where float64 ends, NaN of NaN."""
    mean = nats / tokens
    return math.inf if mean > 709 else math.exp(mean)


def bits_per_byte(nats: float, bytes: float) -> float:
    """A summed loss by what it is spent on: comparable between tokenizers."""
    return nats / math.log(2) / bytes


def ngram_bits_per_byte(
    train_tokens: np.ndarray, eval_tokens: np.ndarray, *, order: int, vocab: int, bytes: int
) -> float:
    """Bits per byte of a unigram or bigram model fitted on one stream of documents, on another.

    Every token is predicted once, the end of each document too, as a language model's loss has it.
    The first token of a document is predicted from the end token of the one before; the first
    of all from the end token at the stream's end, which is the same.

    Args:
        train_tokens: documents one after the other, each with its end token. [N] int
        eval_tokens: the same, other documents. [M] int
        order: 1 for `unigram_nats`, 2 for `bigram_nats`.
        vocab: V; tokens are below it.
        bytes: of the texts in `eval_tokens`.
    """
    models = {1: unigram_nats, 2: bigram_nats}
    if order not in models:
        raise ValueError(f"order={order}: must be 1 (unigram) or 2 (bigram)")
    return bits_per_byte(models[order](train_tokens, eval_tokens, vocab), bytes)


def unigram_nats(train_tokens: np.ndarray, eval_tokens: np.ndarray, vocab: int) -> float:
    """Summed loss of p(b) = (n(b) + 1) / (N + V), n counted in the training tokens."""
    counts = np.bincount(train_tokens, minlength=vocab) + 1
    return float(-np.log(counts / counts.sum())[eval_tokens].sum())


def bigram_nats(train_tokens: np.ndarray, eval_tokens: np.ndarray, vocab: int) -> float:
    """Summed loss of the bigram model of Kneser and Ney, interpolated.

        p(b | a) = (max(n(ab) - d, 0) + d followers(a) q(b)) / n(a)
        q(b)     = (leaders(b) + 1) / (pairs + V)

    with n(ab) the count of a pair, followers(a) and leaders(b) the numbers of different tokens seen
    after a and before b, pairs that of all different pairs, and d = n1 / (n1 + 2 n2) from how many
    pairs were seen once and twice. After a token never seen, p is q. Chen and Goodman 1999, "An
    Empirical Study of Smoothing Techniques for Language Modeling", section 2.7; the one is added so
    that no token is impossible.
    """
    pairs, counts = _counted(_pairs(train_tokens, vocab), vocab)
    first, second = np.divmod(pairs, vocab)
    totals = np.bincount(first, weights=counts, minlength=vocab)
    followers = np.bincount(first, minlength=vocab)
    leaders = np.bincount(second, minlength=vocab)
    lower = (leaders + 1) / (len(pairs) + vocab)
    once, twice = np.sum(counts == 1), np.sum(counts == 2)
    discount = once / (once + 2 * twice) if once else 0.5

    asked, times = _counted(_pairs(eval_tokens, vocab), vocab)
    first, second = np.divmod(asked, vocab)
    place = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    seen = np.where(pairs[place] == asked, counts[place], 0)
    own = np.maximum(seen - discount, 0) + discount * followers[first] * lower[second]
    known = totals[first] > 0
    probability = np.where(known, own / np.where(known, totals[first], 1), lower[second])
    return float(-(times * np.log(probability)).sum())


def _pairs(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """Each token and the one before it as one number, before * V + token.  [N] -> [N] int64"""
    tokens = np.asarray(tokens, np.int64)
    return np.roll(tokens, 1) * vocab + tokens


def _counted(pairs: np.ndarray, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs in ascending order, and how often each occurs."""
    if vocab**2 > DENSE_PAIRS:
        return np.unique(pairs, return_counts=True)
    counts = np.bincount(pairs)
    found = np.flatnonzero(counts)
    return found, counts[found]
