"""Positions and patch kernels of a vision model for images, or patches, of another size."""

import math
from collections.abc import Callable

import numpy as np

METHODS = ("bilinear", "bicubic")


def grid(rows: int) -> tuple[int, int]:
    """A table's rows as (side of a square grid, rows before it): 197 is (14, 1)."""
    side = math.isqrt(rows)
    return side, rows - side * side


def positions(table: np.ndarray, rows: int, method: str = "bilinear") -> np.ndarray:
    """The grid of a table of positions at another size.  [T, D] -> float32 [rows, D]

    Dosovitskiy et al. 2021 (arXiv:2010.11929), section 3.2; as their code has it the corners of the
    grid stay the corners, so that what is linear stays so. A class token's row is kept as it is.

    Args:
        table: a square grid of T rows, a class token's before it or not.
        rows: a square, or one more where there is a class token.
        method: of METHODS.
    """
    table = np.asarray(table, np.float32)
    (old, before), (new, kept) = grid(len(table)), grid(rows)
    if before > 1 or kept > before:
        raise ValueError(
            f"positions: from {len(table)} rows to {rows}; each is a square, or one more where "
            "there is a class token, and a class token's row cannot be made up."
        )
    first = table[before - kept : before]
    if old == new:
        return np.concatenate([first, table[before:]])
    by_corners = np.linspace(0, old - 1, new) if new > 1 else np.array([(old - 1) / 2])
    made = weights(by_corners, old, method)
    square = table[before:].reshape(old, old, -1).astype(np.float64)
    square = np.einsum("ik,jl,kld->ijd", made, made, square)
    return np.concatenate([first, square.reshape(new * new, -1).astype(np.float32)])


def patch_kernel(kernel: np.ndarray, rows: int, channels: int) -> np.ndarray:
    """The kernel of patches for patches of another size.  [E, D] -> float32 [rows, D]

    Beyer et al. 2023, FlexiViT (arXiv:2212.08013), section 3.4: with B the bilinear resize of a
    patch, the new kernel (B^T)^+ w gives B x what w gives x, exactly where B makes patches larger.

    Args:
        kernel: rows of a patch's pixels, row by row, channels last.
        rows: of the new one.
        channels: of the images.
    """
    kernel = np.asarray(kernel, np.float32)
    old, new = math.isqrt(len(kernel) // channels), math.isqrt(rows // channels)
    if (old * old * channels, new * new * channels) != (len(kernel), rows):
        raise ValueError(
            f"patch_kernel: from {len(kernel)} rows to {rows}; each must be a square times "
            f"{channels} channels."
        )
    if old == new:
        return kernel
    inverse = np.linalg.pinv(resize_of_pixels(old, new).T)
    square = kernel.reshape(old, old, channels, -1).astype(np.float64)
    square = np.einsum("ik,jl,klcd->ijcd", inverse, inverse, square)
    return square.reshape(rows, -1).astype(np.float32)


def resize_of_pixels(old: int, new: int) -> np.ndarray:
    """One dimension of a bilinear resize of an image, which has pixels' edges at its ends."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    return weights(np.clip(centers, 0, old - 1), old, "bilinear")


def weights(at: np.ndarray, old: int, method: str) -> np.ndarray:
    """[len(at), old]: each row makes the value at a place out of values at 0, 1, ..., old - 1.

    Cubic: Keys 1981, a = -1/2. Beyond both ends values go on as a line does.
    """
    kernel = {"bilinear": linear, "bicubic": cubic}[method]
    knots = np.arange(-2, old + 2)
    of_knots = kernel(at[:, None] - knots)
    made = np.zeros((len(at), old))
    for knot, column in zip(knots, of_knots.T, strict=True):
        inside = int(np.clip(knot, 0, old - 1))
        made[:, inside] += column
        if knot != inside and old > 1:
            next_one = 1 if knot < 0 else old - 2
            distance = abs(int(knot) - inside)
            made[:, inside] += distance * column
            made[:, next_one] -= distance * column
    return made


def linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resizer(
    path: str, found: tuple[int, ...], wanted: tuple[int, ...], channels: int
) -> Callable[[np.ndarray], np.ndarray] | None:
    """What makes a parameter of one shape out of one of another; None where nothing does.

    Args:
        path: of the parameter, in a family that reads images as `models.vit` does.
        found: its shape.
        wanted: the shape that it should have.
        channels: of the images.
    """
    if len(found) != 2 or found[1:] != wanted[1:]:
        return None
    if path == "positions":
        if grid(found[0])[1] > 1 or grid(wanted[0])[1] > grid(found[0])[1]:
            return None
        return lambda table: positions(table, wanted[0])
    if path == "patches/product/kernel":
        sides = [math.isqrt(shape[0] // channels) for shape in (found, wanted)]
        if any(s * s * channels != n[0] for s, n in zip(sides, (found, wanted), strict=True)):
            return None
        return lambda kernel: patch_kernel(kernel, wanted[0], channels)
    return None
