"""Classes told of examples, and numbers told of them: by scikit-learn and SciPy."""

import math
from typing import Any

import numpy as np

from bigmodel.scores.libraries import wanted


def accuracy(true: np.ndarray, told: np.ndarray) -> float:
    """The share of examples whose class is told.  int [N], int [N]"""
    return float(np.mean(np.asarray(true) == np.asarray(told)))


def of_classes(name: str, true: np.ndarray, told: np.ndarray, *, average: str) -> float:
    """scikit-learn's precision, recall or F1 = 2 P R / (P + R).  int [N], int [N]

    The classes are those that occur, on either side. A precision of nothing told, a recall of
    nothing there, and their F1 are 0.

    Args:
        name: "precision", "recall" or "f1".
        true: the classes of examples.
        told: what is told of each.
        average: "binary": of class 1 against class 0; "macro": the mean of classes; "weighted":
            the mean of classes by how many examples each has; "micro": of all examples together.
    """
    made = getattr(wanted("sklearn.metrics", "scikit-learn"), f"{name}_score")
    if average == "binary":
        return float(made(np.asarray(true) == 1, np.asarray(told) == 1, zero_division=0))
    return float(made(true, told, average=average, zero_division=0))


def matthews(true: np.ndarray, told: np.ndarray) -> float:
    """Matthews correlation, of -1 to 1; 0 where one side is all of one class.  int [N], int [N]

    Gorodkin 2004 (doi:10.1016/j.compbiolchem.2004.09.006), of any number of classes.
    """
    if len(set(true)) < 2 or len(set(told)) < 2:
        return 0.0  # scikit-learn gives it too, and warns where one class is all there is
    return float(wanted("sklearn.metrics", "scikit-learn").matthews_corrcoef(true, told))


def mean_squared_error(true: np.ndarray, told: np.ndarray) -> float:
    """The mean over examples and their numbers.  float [N, K], float [N, K]"""
    return float(np.mean(np.square(np.float64(true) - np.float64(told))))


def correlation(name: str, true: np.ndarray, told: np.ndarray) -> float:
    """SciPy's "pearson" or "spearman" (of ranks, ties at their mean), of -1 to 1.

    NaN where either side is constant or no number, and of a single example. Of several numbers an
    example it is the mean of theirs.  float [N, K], float [N, K]
    """
    stats = wanted("scipy.stats", "SciPy")
    correlate, columns = getattr(stats, f"{name}r"), zip(true.T, told.T, strict=True)
    return float(np.mean([one(correlate, *both) for both in columns]))


def one(correlate: Any, true: np.ndarray, told: np.ndarray) -> float:
    sides = np.float64(true), np.float64(told)
    if not all(np.isfinite(side).all() and np.ptp(side) > 0 for side in sides):
        return math.nan
    return float(correlate(*sides).statistic)
