"""Rows of latents: arrays that an autoencoder made of images, and their classes, as .npy files."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigmodel import config
from bigmodel.data.parts import OnePart

SAMPLED = 1024  # rows that the fingerprint reads: a data set of these may be hundreds of GB


@dataclasses.dataclass(frozen=True)
class Rows(OnePart):
    """One epoch of a folder of latents, memory-mapped.

    Attributes:
        source: the folder.
        split: as in the config.
        images: float [N, H, W, C], as stored.
        labels: int [N].
        scale: what they are multiplied by.
    """

    source: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    scale: float

    bytes_per_target = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """Their names: the numbers up to the largest label."""
        return tuple(map(str, range(int(self.labels.max()) + 1)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of every label, and of the content of `SAMPLED` rows spread over all."""
        some = np.unique(np.linspace(0, len(self) - 1, SAMPLED).astype(int))
        facts = f"{self.images.shape} {self.images.dtype} {self.scale}".encode()
        content = (facts, np.ascontiguousarray(self.labels).tobytes(), self.images[some].tobytes())
        return hashlib.sha256(b"".join(content)).hexdigest()

    def describe(self) -> str:
        """One line of what they are."""
        shape = " x ".join(map(str, self.images.shape[1:]))
        return (
            f"{self.source} {self.split}: {len(self):,} latents of {shape}, "
            f"{len(self.classes):,} classes"
        )

    def take(self, indices: np.ndarray, epochs: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """images [b, H, W, C], labels [b], weights [b]; nothing is random."""
        indices = np.asarray(indices, np.int64)
        return {
            "images": self.images[indices].astype(np.float32) * np.float32(self.scale),
            "labels": self.labels[indices].astype(np.int32),
            "weights": np.ones(len(indices), np.float32),
        }


def open_rows(
    source: str = "",
    *,
    split: str = "train",
    size: int = 32,
    channels: int = 4,
    scale: float = 1.0,
) -> Rows:
    """The latents SPLIT.npy, float [N, H, W, C], of a folder, with SPLIT_labels.npy, int [N].

    Args:
        source: the folder.
        split: the files' name.
        size: H and W, as they should be.
        channels: C, as it should be.
        scale: what latents are multiplied by, so that their deviation is about 1 (0.18215 for
            Stable Diffusion's autoencoder: Rombach et al. 2022, arXiv:2112.10752).
    """
    images, labels = (opened(source, f"{split}{end}.npy") for end in ("", "_labels"))
    shape = (size, size, channels)
    if images.ndim != 4 or not len(images) or images.shape[1:] != shape or images.dtype.kind != "f":
        raise config.InputError(
            f"{source}/{split}.npy: is {images.dtype} {images.shape}; data.size = {size} and "
            f"data.channels = {channels} want floating numbers [N, {size}, {size}, {channels}], "
            f"with N at least 1."
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise config.InputError(
            f"{source}/{split}_labels.npy: is {labels.dtype} {labels.shape}; wanted are whole "
            f"numbers [{len(images)}], one for each latent."
        )
    if (negative := np.flatnonzero(labels < 0)).size:
        raise config.InputError(
            f"{source}/{split}_labels.npy, row {negative[0]}: {labels[negative[0]]} is no class; "
            f"they are counted from 0."
        )
    return Rows(source, split, images, labels, scale)


def opened(folder: str, name: str) -> np.ndarray:
    """An array of a file, memory-mapped."""
    if not folder:
        raise config.InputError("data.source = '': latents are in a folder, which it must name.")
    path = pathlib.Path(folder, name)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.npy"))) or "none"
        raise config.InputError(
            f"{path}: cannot be read ({error.strerror or error}); .npy files in that folder: "
            f"{there}."
        ) from error
    except ValueError as error:
        raise config.InputError(f"{path}: is no array of NumPy ({error}).") from error


def row_shapes(fields: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Arrays of a row: name -> (shape, dtype)."""
    image = (fields["size"], fields["size"], fields["channels"])
    return {"images": (image, "float32"), "labels": ((), "int32"), "weights": ((), "float32")}
