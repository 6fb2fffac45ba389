"""Laws of image data: what a row is, what is drawn anew, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from bigmodel import config
from bigmodel.data import augment, image_sources, images

SIZE = 16
CHANGES = {
    "crop": dict(crop=(0.2, 1.0)),
    "flip": dict(flip=True),
    "randaugment": dict(randaugment=(2, 9)),
    "mixup": dict(mixup=0.4),
    "cutmix": dict(cutmix=1.0),
    "all": dict(crop=(0.2, 1.0), flip=True, randaugment=(1, 5), mixup=0.2, cutmix=1.0),
}


def picture(seed, size=(24, 20)):
    """A JPEG with structure in it."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize(size).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("cat", "dog", "emu")):
        for index in range(6):
            path = tmp_path / "pets" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(10 * number + index))
    return tmp_path / "pets"


def open_rows(folder, tmp_path, **fields):
    fields = {"split": "all", "size": SIZE, "cache_dir": str(tmp_path / "cache"), **fields}
    return images.open_rows(f"images:{folder}", **fields)


EVERY = np.arange(18)


def test_a_folder_gives_every_image_with_the_number_of_its_class(folder, tmp_path):
    rows = open_rows(folder, tmp_path)
    found = rows.take(EVERY)
    assert rows.classes == ("cat", "dog", "emu")
    np.testing.assert_array_equal(found["labels"], np.repeat([0, 1, 2], 6))
    assert found["images"].shape == (18, SIZE, SIZE, 3)
    assert -1 <= found["images"].min() < -0.5 < 0.5 < found["images"].max() <= 1
    assert "18 images, 3 classes" in rows.describe()


def test_in_evaluation_nothing_is_random_and_pixels_are_those_of_the_middle(folder, tmp_path):
    rows = open_rows(folder, tmp_path, **CHANGES["all"])
    plain = open_rows(folder, tmp_path)
    np.testing.assert_array_equal(rows.take(EVERY)["images"], plain.take(EVERY)["images"])
    with Image.open(io.BytesIO(picture(0))) as image:
        middle = image.convert("RGB").resize((SIZE, SIZE), Image.BILINEAR, box=(2, 0, 22, 20))
    wanted = np.asarray(middle, np.float32) / 127.5 - 1
    np.testing.assert_allclose(rows.take(EVERY[:1])["images"][0], wanted, atol=1e-6)


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_is_drawn_by_seed_epoch_and_row_alone(folder, tmp_path, change):
    rows = open_rows(folder, tmp_path, seed=3, **CHANGES[change])
    epochs = np.full(18, 2)
    whole = rows.take(EVERY, epochs)
    alone = rows.take(np.array([7, 4]), np.array([2, 2]))
    for name in whole:
        np.testing.assert_array_equal(alone[name], whole[name][[7, 4]])
    others = open_rows(folder, tmp_path, seed=4, **CHANGES[change]).take(EVERY, epochs)
    later = rows.take(EVERY, epochs + 1)
    for other in (others, later):
        assert not np.array_equal(other["images"], whole["images"])


def test_labels_of_mixed_images_say_how_much_of_each_there_is(folder, tmp_path):
    for change in ("mixup", "cutmix"):
        labels = open_rows(folder, tmp_path, **CHANGES[change]).take(EVERY, 0 * EVERY)["labels"]
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
        assert ((labels > 0).sum(1) == 2).any()
        assert (labels.argmax(1) == np.repeat([0, 1, 2], 6)).mean() > 0.4


def test_a_cut_mix_counts_the_pixels_that_it_leaves():
    a, b = np.zeros((10, 12, 1)), np.ones((10, 12, 1))
    for seed in range(20):
        mixed, share = augment.cutmix(a, b, 1.0, np.random.default_rng(seed))
        assert 1 - share == pytest.approx(mixed.mean())


@pytest.mark.parametrize("name", augment.OPERATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_operations_of_rand_augment_keep_the_form_and_change_what_they_say(name, mode):
    with Image.open(io.BytesIO(picture(0))) as file:
        image = file.convert(mode)
    changed = augment.OPERATIONS[name](image, 1, 0.9)
    assert (changed.size, changed.mode) == (image.size, mode)
    same = np.array_equal(np.asarray(changed), np.asarray(image))
    assert same == (name == "identity" or (name == "color" and mode == "L"))


def test_digits_of_scikit_learn_come_whole_and_in_disjoint_splits():
    counts = {
        split: len(images.open_rows("digits", split=split, size=8, channels=1))
        for split in ("train", "validation", "test", "all")
    }
    assert counts["all"] == 1797 == counts["train"] + counts["validation"] + counts["test"]
    assert counts["validation"] == 179
    from sklearn import datasets

    rows = images.open_rows("digits", split="all", size=8, channels=1, mean=(0.0,), std=(1.0,))
    found = rows.take(np.arange(5))
    np.testing.assert_allclose(
        found["images"][..., 0],
        np.round(datasets.load_digits().images[:5] * 255 / 16) / 255,
        atol=1e-6,
    )


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_broken_image_is_refused_by_name_or_skipped_and_counted(folder, tmp_path, damage):
    bad = folder / "dog" / "3.jpg"
    data = bad.read_bytes()
    bad.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(config.InputError, match="dog/3.jpg is no whole image") as refused:
        open_rows(folder, tmp_path)
    assert "data.broken=skip" in str(refused.value)
    rows = open_rows(folder, tmp_path, broken="skip")
    assert len(rows) == 17
    assert "1 broken left out" in rows.describe()


def test_classes_have_one_number_in_all_splits(folder, tmp_path):
    home = tmp_path / "split"
    for split, names in {"train": ("cat", "dog", "emu"), "val": ("dog",)}.items():
        for name in names:
            (home / split / name).mkdir(parents=True)
            (home / split / name / "0.jpg").write_bytes(picture(len(name) + len(split)))
    rows = open_rows(home, tmp_path, split="validation")
    assert rows.classes == ("cat", "dog", "emu")
    assert rows.take(np.array([0]))["labels"][0] == 1


def test_a_split_that_a_folder_has_not_is_refused_and_all_is_every_split(folder, tmp_path):
    home = tmp_path / "split"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (home / split / name).mkdir(parents=True)
            (home / split / name / "0.jpg").write_bytes(picture(len(name) + len(split)))
    with pytest.raises(config.InputError, match='0 of its folders are the split "validation"'):
        open_rows(home, tmp_path, split="validation")
    every = open_rows(home, tmp_path, split="all")
    assert (len(every), every.classes) == (4, ("cat", "dog"))
    (home / "val" / "cat").mkdir(parents=True)
    (home / "valid" / "cat").mkdir(parents=True)
    with pytest.raises(config.InputError, match="2 of its folders are the split"):
        open_rows(home, tmp_path, split="validation")


@pytest.mark.parametrize(
    "source, words",
    [
        ("digit", 'source "digit" is unknown for images'),
        ("images:nowhere", "no such folder"),
        ("images:EMPTY", "holds no .jpg"),
    ],
)
def test_a_source_that_is_not_there_is_named(source, words, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    with pytest.raises(config.InputError, match=words):
        image_sources.find(source.replace("EMPTY", str(tmp_path / "EMPTY")), "all")


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(channels=2), "data.channels = 2"),
        (dict(crop=(0.5,)), "data.crop"),
        (dict(randaugment=(2, 11)), "data.randaugment"),
        (dict(std=(0.0,)), "data.std"),
        (dict(mixup=-1.0), "data.mixup"),
        (dict(split="dev"), 'split "dev" is unknown'),
        (dict(broken="ignore"), "data.broken"),
    ],
    ids=str,
)
def test_impossible_fields_are_refused(fields, words, tmp_path):
    with pytest.raises(config.InputError, match=words):
        images.open_rows("digits", **{"size": 8, "cache_dir": str(tmp_path), **fields})
