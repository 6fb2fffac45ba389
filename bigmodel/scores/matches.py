"""How near vectors are: the class of an image among texts, and what is found by a query."""

from collections.abc import Sequence

import numpy as np

QUERIES = 1024  # of a search, at one time
ROUNDING = 1e-6  # of float32 in cosines


def class_vectors(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """Each class as the direction of the mean of its prompts.  N of [P, J] -> [N, J]

    Radford et al. 2021 (arXiv:2103.00020), section 3.1.4: several prompts for one class ("a photo
    of a cat", "a drawing of a cat") are averaged as vectors of length one.

    Args:
        prompts: for each class the embeddings of its texts; of one class more than of another.
    """
    means = [unit(np.asarray(of_class, np.float64)).mean(0) for of_class in prompts]
    return unit(np.stack(means))


def classify(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The class that is nearest by angle; of equal ones the first.  [B, J], [N, J] -> int [B]"""
    return (unit(images) @ unit(classes).T).argmax(1)


def recall(queries: np.ndarray, items: np.ndarray, own: np.ndarray, *, at: int = 1) -> float:
    """The share of queries whose own item is among the `at` nearest by angle.

    Of items as near as its own, to rounding, none is counted before it.

    Args:
        queries: [B, J].
        items: [N, J].
        own: int [B], each query's item.
        at: how many are looked at.
    """
    if not 1 <= at <= len(items):
        raise ValueError(f"at = {at}: allowed are 1 to {len(items)}, the number of items")
    queries, items, hits = unit(queries), unit(items), 0
    for start in range(0, len(queries), QUERIES):  # a table of all pairs may be large
        near = queries[start : start + QUERIES] @ items.T
        of_own = near[np.arange(len(near)), own[start : start + QUERIES]]
        hits += int(((near > of_own[:, None] + ROUNDING).sum(1) < at).sum())
    return hits / len(queries)


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors made of length one; zeros stay.  [..., J] -> float64 [..., J]"""
    x = np.asarray(x, np.float64)
    lengths = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(lengths == 0, 1, lengths)
