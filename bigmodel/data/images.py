"""Rows of images: decoded, cropped and changed each time anew, by the row and its epoch."""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data import augment, cache, image_sources, row_numbers
from bigmodel.data.parts import OnePart


@dataclasses.dataclass(frozen=True)
class How:
    """What is done to an image; see `open_rows`."""

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: tuple[float, ...]
    flip: bool
    randaugment: tuple[float, ...]
    mixup: float
    cutmix: float


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """The images of one epoch of one source.

    Attributes:
        source: as in the config.
        split: as in the config.
        images: what they are.
        how: what is done to them.
        seed: of all that is random.
    """

    source: str
    split: str
    images: image_sources.Images
    how: How
    seed: int

    bytes_per_target = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every row's content: equal on any machine, however the source was reached."""
        known = [self.images.content, dataclasses.asdict(self.how)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def describe(self) -> str:
        """One line of what they are."""
        broken = f", {self.images.broken:,} broken left out" if self.images.broken else ""
        return (
            f"{self.source} {self.split}: {len(self):,} images, "
            f"{len(self.classes):,} classes{broken}"
        )

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """images [b, H, W, C], labels [b] or of mixed images [b, N], weights [b]."""
        indices = row_numbers.within(indices, len(self))
        mixes = epochs is not None and bool(self.how.mixup or self.how.cutmix)
        images, labels = [], []
        for at, index in enumerate(map(int, indices)):
            rng = None
            if epochs is not None:
                rng = np.random.default_rng([self.seed, int(epochs[at]), index])
            image, label = self.one(index, rng), self.images.labels[index]
            if mixes and rng is not None:
                image, label = self.mixed(image, index, rng)
            images.append(image)
            labels.append(label)
        return {
            "images": self.normalized(images),
            "labels": np.asarray(labels, np.float32 if mixes else np.int32),
            "weights": np.ones(len(indices), np.float32),
        }

    def normalized(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Pixels of 0 to 255 less their mean, by their deviation.  [b, H, W, C]"""
        mean, std = (np.asarray(n, np.float32) for n in (self.how.mean, self.how.std))
        return (np.stack(images).astype(np.float32) / 255 - mean) / std

    def one(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        """An image's pixels, float32 [H, W, C] of 0 to 255."""
        from PIL import Image

        how = self.how
        with Image.open(io.BytesIO(self.images.encoded(index))) as file:
            image: Any = file.convert("L" if how.channels == 1 else "RGB")
        if rng is not None and how.crop:
            image = augment.random_crop(image, how.size, how.crop, rng)
        else:
            image = augment.center_crop(image, how.size)
        if rng is not None and how.flip:
            image = augment.flip(image, rng)
        if rng is not None and how.randaugment:
            operations, magnitude = how.randaugment
            image = augment.rand_augment(image, int(operations), magnitude, rng)
        return np.asarray(image, np.float32).reshape(how.size, how.size, how.channels)

    def mixed(
        self, image: np.ndarray, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """An image with another of the data set in it, and how much of each class there is."""
        other = int(rng.integers(len(self)))
        second, how = self.one(other, rng), self.how
        cuts = how.cutmix and (not how.mixup or rng.random() < 0.5)
        mix, alpha = (augment.cutmix, how.cutmix) if cuts else (augment.mixup, how.mixup)
        image, share = mix(image, second, alpha, rng)
        label = np.zeros(len(self.classes), np.float32)
        label[self.images.labels[index]] += share
        label[self.images.labels[other]] += 1 - share
        return image, label


def open_rows(
    source: str = "digits",
    *,
    split: str = "train",
    size: int = 224,
    channels: int = 3,
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    crop: tuple[float, ...] = (),
    flip: bool = False,
    randaugment: tuple[float, ...] = (),
    mixup: float = 0.0,
    cutmix: float = 0.0,
    broken: str = "refuse",
    cache_dir: str = "",
    seed: int = 0,
    progress: cache.Progress | None = None,
) -> Rows:
    """The images of a source, prepared on first use.

    Args:
        source: see `image_sources.find`.
        split: which of them.
        size: height and width of what comes out; in evaluation the largest square in the middle.
        channels: 1 (grey) or 3.
        mean: taken from pixels of 0 to 1, of all channels or of each.
        std: what is left is divided by.
        crop: () for the square in the middle, or least and most share of the area that a random
            rectangle has, as (0.08, 1.0).
        flip: whether every second image is mirrored.
        randaugment: () or (operations, magnitude of 0 to 10), as (2, 9).
        mixup: 0, or alpha: images are blended, and labels.
        cutmix: 0, or alpha: a rectangle of one is put into another; with both, each half the time.
        broken: "refuse" an image that cannot be decoded, or "skip" and count it.
        cache_dir: where prepared images lie; "": $BIGMODEL_CACHE or ~/.cache/bigmodel.
        seed: of all that is random.
        progress: told while images are read.
    """
    check(size, channels, mean, std, crop, randaugment, mixup, cutmix)
    report = progress or (lambda what, done, total: None)
    found = image_sources.find(source, split)
    images = image_sources.prepare(found, split, broken=broken, root=cache_dir, report=report)
    how = How(
        size,
        channels,
        tuple(mean),
        tuple(std),
        tuple(crop),
        flip,
        tuple(randaugment),
        mixup,
        cutmix,
    )
    return Rows(source, split, images, how, seed)


def check(size, channels, mean, std, crop, randaugment, mixup, cutmix) -> None:
    """Refuses fields that no image can have."""
    laws = {
        f"data.size = {size}: must be at least 1": size >= 1,
        f"data.channels = {channels}: allowed are 1 and 3": channels in (1, 3),
        f"data.mean = {mean}: one number, or one a channel": len(mean) in (1, channels),
        f"data.std = {std}: one number above 0, or one a channel": len(std) in (1, channels)
        and min(std) > 0,
        f"data.crop = {crop}: () or (least, most) share of the area in (0, 1]": not crop
        or (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1),
        f"data.randaugment = {randaugment}: () or (operations, magnitude of 0 to 10)": (
            not randaugment
            or (len(randaugment) == 2 and randaugment[0] >= 1 and 0 <= randaugment[1] <= 10)
        ),
        f"data.mixup = {mixup}, data.cutmix = {cutmix}: not negative": min(mixup, cutmix) >= 0,
    }
    for law, holds in laws.items():
        if not holds:
            raise config.InputError(f"{law}.")


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    image = (fields["size"], fields["size"], fields["channels"])
    mixed = fields["mixup"] or fields["cutmix"]
    labels = ((fields["classes"],), "float32") if mixed else ((), "int32")
    return {"images": (image, "float32"), "labels": labels, "weights": ((), "float32")}
