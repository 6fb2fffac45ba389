"""What is done to an image by chance, each time anew: one image to one image, by its own draws."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Draw = np.random.Generator


def random_crop(image: Any, size: int, area: Sequence[float], rng: Draw) -> Any:
    """A rectangle of a share of the area and of 3/4 to 4/3 as wide as high, made square.

    Szegedy et al. 2015 (arXiv:1409.4842), section 6; ten tries, else the largest square.

    Args:
        image: PIL.
        size: height and width of what comes out.
        area: least and most share of the area.
        rng: of this image.
    """
    width, height = image.size
    for _ in range(10):
        wanted = rng.uniform(area[0], area[1]) * width * height
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return resized(image, size, (left, top, left + w, top + h))
    return center_crop(image, size)


def center_crop(image: Any, size: int) -> Any:
    """The largest square in the middle, as large as wanted."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return resized(image, size, (left, top, left + side, top + side))


def resized(image: Any, size: int, box: tuple[int, int, int, int]) -> Any:
    from PIL import Image

    if image.size == (size, size) and box == (0, 0, size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def flip(image: Any, rng: Draw) -> Any:
    """Left and right changed, every second time."""
    from PIL import ImageOps

    return ImageOps.mirror(image) if rng.random() < 0.5 else image


def rand_augment(image: Any, operations: int, magnitude: float, rng: Draw) -> Any:
    """So many operations one after another, each drawn anew.

    Cubuk et al. 2020, RandAugment (arXiv:1909.13719).

    Args:
        image: PIL.
        operations: N.
        magnitude: M, 0 to 10: how strong each is.
        rng: of this image.
    """
    for index in rng.integers(len(OPERATIONS), size=operations):
        name = list(OPERATIONS)[index]
        sign = 1 if rng.random() < 0.5 else -1
        image = OPERATIONS[name](image, sign, magnitude / 10)
    return image


def _affine(image: Any, matrix: tuple[float, ...]) -> Any:
    from PIL import Image

    grey = 128 if image.mode == "L" else (128, 128, 128)
    bilinear = Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, matrix, bilinear, fillcolor=grey)


def _enhance(name: str) -> Callable:
    def operation(image: Any, sign: int, strength: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + sign * 0.9 * strength)

    return operation


def _ops(name: str, amount: Callable[[float], tuple] = lambda strength: ()) -> Callable:
    def operation(image: Any, sign: int, strength: float) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *amount(strength))

    return operation


def _rotate(image: Any, sign: int, strength: float) -> Any:
    grey = 128 if image.mode == "L" else (128, 128, 128)
    return image.rotate(sign * 30 * strength, fillcolor=grey)


# The operations are the paper's; the ranges, at magnitude 10, are those written here.
OPERATIONS: dict[str, Callable[[Any, int, float], Any]] = {
    "identity": lambda image, sign, strength: image,
    "autocontrast": _ops("autocontrast"),
    "equalize": _ops("equalize"),
    "rotate": _rotate,
    "solarize": _ops("solarize", lambda strength: (round(256 * (1 - strength)),)),
    "color": _enhance("Color"),
    "posterize": _ops("posterize", lambda strength: (8 - round(4 * strength),)),
    "contrast": _enhance("Contrast"),
    "brightness": _enhance("Brightness"),
    "sharpness": _enhance("Sharpness"),
    "shear_x": lambda im, sign, s: _affine(im, (1, sign * 0.3 * s, 0, 0, 1, 0)),
    "shear_y": lambda im, sign, s: _affine(im, (1, 0, 0, sign * 0.3 * s, 1, 0)),
    "translate_x": lambda im, sign, s: _affine(im, (1, 0, sign * 0.45 * s * im.width, 0, 1, 0)),
    "translate_y": lambda im, sign, s: _affine(im, (1, 0, 0, 0, 1, sign * 0.45 * s * im.height)),
}


def mixup(a: np.ndarray, b: np.ndarray, alpha: float, rng: Draw) -> tuple[np.ndarray, float]:
    """l a + (1 - l) b, and l ~ Beta(alpha, alpha); Zhang et al. 2018 (arXiv:1710.09412)."""
    share = rng.beta(alpha, alpha)
    return share * a + (1 - share) * b, share


def cutmix(a: np.ndarray, b: np.ndarray, alpha: float, rng: Draw) -> tuple[np.ndarray, float]:
    """a with a rectangle of b, and how much of a is left; Yun et al. 2019 (arXiv:1905.04899)."""
    H, W = a.shape[:2]
    cut = math.sqrt(1 - rng.beta(alpha, alpha))
    y, x = rng.integers(H), rng.integers(W)
    h, w = round(H * cut / 2), round(W * cut / 2)
    rows, columns = slice(max(0, y - h), y + h), slice(max(0, x - w), x + w)
    out = a.copy()
    out[rows, columns] = b[rows, columns]
    return out, 1 - b[rows, columns].shape[0] * b[rows, columns].shape[1] / (H * W)
