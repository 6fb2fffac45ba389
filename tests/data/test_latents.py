"""Laws of latents as data: what a row is, and what is refused."""

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import kinds, latents


def write(folder, images=None, labels=None):
    draw = np.random.default_rng(0)
    images = draw.normal(size=(6, 4, 4, 2)).astype(np.float16) if images is None else images
    labels = np.array([0, 3, 1, 1, 2, 0]) if labels is None else labels
    np.save(folder / "train.npy", images)
    np.save(folder / "train_labels.npy", labels)
    return images, labels


def open_rows(folder, **fields):
    return latents.open_rows(str(folder), **dict(size=4, channels=2) | fields)


def test_a_row_is_its_latent_scaled_and_its_class(tmp_path):
    images, labels = write(tmp_path)
    rows = open_rows(tmp_path, scale=0.5)
    found = rows.take(np.array([4, 1]), np.zeros(2))
    np.testing.assert_allclose(found["images"], images[[4, 1]].astype(np.float32) / 2)
    np.testing.assert_array_equal(found["labels"], labels[[4, 1]])
    assert rows.classes == ("0", "1", "2", "3")
    assert "6 latents of 4 x 4 x 2, 4 classes" in rows.describe()
    shapes = kinds.SHAPES["latents"]({"size": 4, "channels": 2})
    assert shapes == {name: (a.shape[1:], str(a.dtype)) for name, a in found.items()}


def test_a_fingerprint_is_of_content(tmp_path):
    images, labels = write(tmp_path)
    before = open_rows(tmp_path).fingerprint
    assert open_rows(tmp_path).fingerprint == before
    assert open_rows(tmp_path, scale=2.0).fingerprint != before
    write(tmp_path, images + 1)
    assert open_rows(tmp_path).fingerprint != before
    write(tmp_path, images, labels[::-1])
    assert open_rows(tmp_path).fingerprint != before


@pytest.mark.parametrize(
    "arrays, fields, words",
    [
        ({}, dict(channels=4), r"train.npy: is float16 \(6, 4, 4, 2\).*\[N, 4, 4, 4\]"),
        ({}, dict(split="test"), r"test.npy: cannot be read.*train.npy, train_labels.npy"),
        (dict(images=np.zeros((0, 4, 4, 2), "f4")), {}, "N at least 1"),
        (dict(images=np.zeros((6, 4, 4, 2), "i4")), {}, "floating numbers"),
        (dict(labels=np.zeros(5, int)), {}, r"whole numbers \[6\]"),
        (dict(labels=np.zeros(6)), {}, r"whole numbers \[6\]"),
        (dict(labels=np.array([0, 1, -2, 0, 0, 0])), {}, "row 2: -2 is no class"),
    ],
)
def test_files_that_are_no_latents_are_refused(tmp_path, arrays, fields, words):
    write(tmp_path, **arrays)
    with pytest.raises(config.InputError, match=words):
        open_rows(tmp_path, **fields)


def test_no_folder_and_no_array_are_refused(tmp_path):
    with pytest.raises(config.InputError, match="must name"):
        latents.open_rows()
    write(tmp_path)
    (tmp_path / "train.npy").write_bytes(b"no array")
    with pytest.raises(config.InputError, match="is no array of NumPy"):
        open_rows(tmp_path)
