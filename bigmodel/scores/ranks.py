"""How far up the true item stands: `ranks` int [N] says how many stand above it."""

import numpy as np


def hit_rate(ranks: np.ndarray, at: int) -> float:
    """The share of true items among the first `at`."""
    return float(np.mean(ranks < at))


def ndcg(ranks: np.ndarray, at: int) -> float:
    """1 / log2(2 + rank) of those among the first `at`, else 0: the ideal gain of one item is 1.

    Jarvelin and Kekalainen 2002 (doi:10.1145/582415.582418).
    """
    return float(np.mean((ranks < at) / np.log2(2.0 + ranks)))


def mrr(ranks: np.ndarray, at: int) -> float:
    """The mean of 1 / (1 + rank) of those among the first `at`, else 0 (Voorhees 1999, TREC-8)."""
    return float(np.mean((ranks < at) / (1.0 + ranks)))
