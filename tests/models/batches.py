"""Batches of each family, small: (rows, seed) -> arrays, with "rows"."""

import numpy as np


def images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    pixels = draw.normal(size=(rows, 8, 8, 3)).astype(np.float32)
    return {"images": pixels, "rows": np.arange(rows, dtype=np.int32)}


def noisy_images(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed + 1)
    labels = draw.integers(0, 5, rows).astype(np.int32)
    time = draw.uniform(size=rows).astype(np.float32)
    return images(rows, seed) | {"labels": labels, "noise_time": time}


def texts(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Two texts packed in a row, of two types of token each, and padding."""
    draw = np.random.default_rng(seed)
    T = 8
    first, second = draw.integers(2, 4, rows), draw.integers(2, 4, rows)
    place = np.arange(T)[None]
    ends = np.stack([first, first + second])[..., None]
    segments = np.where(place < ends[0], 1, np.where(place < ends[1], 2, 0))
    positions = np.where(segments == 2, place - ends[0], place) * (segments > 0)
    return {
        "tokens": draw.integers(0, 19, (rows, T)).astype(np.int32),
        "token_types": draw.integers(0, 2, (rows, T)).astype(np.int32),
        "segments": segments.astype(np.int32),
        "positions": positions.astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def pairs(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Sources of 3 to 7 tokens in 8 places, and as many tokens in all rows."""
    draw = np.random.default_rng(seed)
    real = np.arange(8) < draw.integers(3, 8, (rows, 1))
    return {
        "source": draw.integers(0, 17, (rows, 8)).astype(np.int32),
        "source_segments": real.astype(np.int32),
        "tokens": draw.integers(0, 17, (rows, 6)).astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def histories(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Items 1 to 19, padded on the left."""
    draw = np.random.default_rng(seed)
    real = np.arange(7) >= draw.integers(1, 5, (rows, 1))
    tokens = np.where(real, draw.integers(1, 20, real.shape), 0).astype(np.int32)
    rows_ = np.arange(rows, dtype=np.int32)
    return {"tokens": tokens, "segments": real.astype(np.int32), "rows": rows_}


def captioned(rows: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, 11, (rows, 6)).astype(np.int32)
    lengths = draw.integers(2, 6, rows)
    segments = (np.arange(6) < lengths[:, None]).astype(np.int32)
    return images(rows, seed) | {"tokens": tokens, "segments": segments}


def sounds(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Sounds of 3 to 11 frames in 12 places."""
    draw = np.random.default_rng(seed)
    real = np.arange(12) < draw.integers(3, 12, (rows, 1))
    return {
        "audio": draw.normal(size=(rows, 12, 5)).astype(np.float32),
        "audio_segments": real.astype(np.int32),
        "rows": np.arange(rows, dtype=np.int32),
    }


def spoken(rows: int, seed: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(seed + 1).integers(0, 17, (rows, 6)).astype(np.int32)
    return sounds(rows, seed) | {"tokens": tokens}


def shown(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Texts of 7 or 8 tokens in 9 places, among which 4 patches of an image stand."""
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 3, (rows, 1))
    segments = (np.arange(9) < draw.integers(7, 9, (rows, 1))).astype(np.int32)
    return images(rows, seed) | {
        "tokens": draw.integers(0, 19, (rows, 9)).astype(np.int32),
        "image_positions": (first + np.arange(4)).astype(np.int32),
        "segments": segments,
    }


def prefixed(rows: int, seed: int) -> dict[str, np.ndarray]:
    """The same, image and a token after it seen from everywhere."""
    batch = shown(rows, seed)
    return batch | {"prefix": np.arange(9) <= batch["image_positions"][:, -1:] + 1}
