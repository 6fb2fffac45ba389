"""Which rows of a data set are asked for."""

import numpy as np


def within(indices: np.ndarray, rows: int) -> np.ndarray:
    """Indices as int64 [b]; raises IndexError where one is of none of so many rows."""
    indices = np.asarray(indices, np.int64)
    if len(indices) and not -1 < indices.min() <= indices.max() < rows:
        raise IndexError(f"rows {indices.min()} to {indices.max()} of {rows}")
    return indices
