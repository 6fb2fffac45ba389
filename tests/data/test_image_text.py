"""Laws of images with texts: what a row is, what is drawn anew, and what is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from bigmodel import config
from bigmodel.data import caption_sources, image_text, kinds

TEXTS = ["a cat", ["a dog", "some dog"], "ein Bär", "an emu"]


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def lines(tmp_path):
    rows = []
    for number, text in enumerate(TEXTS):
        picture(tmp_path / "pairs" / "all" / f"{number}.png", number)
        rows.append(json.dumps({"image": f"all/{number}.png", "text": text}))
    (tmp_path / "pairs" / "pairs.jsonl").write_text("\n".join([*rows, ""]))
    return tmp_path / "pairs" / "pairs.jsonl"


@pytest.fixture
def folder(tmp_path):
    for number, text in enumerate(TEXTS):
        picture(tmp_path / "captions" / f"{number}.png", number)
        several = [text] if isinstance(text, str) else text
        (tmp_path / "captions" / f"{number}.txt").write_text("\n".join(several), encoding="utf-8")
    return tmp_path / "captions"


def open_rows(source, tmp_path, **fields):
    known = dict(split="all", size=8, text_length=12, cache_dir=str(tmp_path / "cache"))
    return image_text.open_rows(source, **{**known, **fields})


def read(rows, epochs=None):
    """The texts of all rows."""
    epochs = None if epochs is None else np.full(len(rows), epochs)
    found = rows.take(np.arange(len(rows)), epochs)
    return [rows.tokenizer.decode(tokens) for tokens in found["tokens"]]


def test_lines_and_folders_give_every_image_with_its_text(lines, folder, tmp_path):
    of_lines = open_rows(f"jsonl:{lines}", tmp_path)
    of_folder = open_rows(f"captions:{folder}", tmp_path)
    assert read(of_lines) == read(of_folder) == ["a cat", "a dog", "ein Bär", "an emu"]
    pixels = [rows.take(np.arange(4))["images"] for rows in (of_lines, of_folder)]
    np.testing.assert_array_equal(*pixels)
    assert of_lines.fingerprint == of_folder.fingerprint
    assert "4 images, 5 texts" in of_lines.describe()


def test_a_text_stands_between_its_start_and_its_end_and_padding_follows(lines, tmp_path):
    for start, first in ((True, [256]), (False, [])):
        rows = open_rows(f"jsonl:{lines}", tmp_path, start=start)
        row = rows.take(np.array([0]))
        text = [*first, *b"a cat", 256]
        np.testing.assert_array_equal(row["tokens"][0], text + [256] * (12 - len(text)))
        np.testing.assert_array_equal(row["segments"][0], [1] * len(text) + [0] * (12 - len(text)))
        assert row["weights"].tolist() == [1.0]


def test_of_several_texts_one_is_drawn_by_row_and_epoch_and_in_evaluation_the_first(
    lines, tmp_path
):
    rows = open_rows(f"jsonl:{lines}", tmp_path)
    drawn = [read(rows, epoch)[1] for epoch in range(12)]
    assert set(drawn) == {"a dog", "some dog"}
    assert drawn == [read(rows, epoch)[1] for epoch in range(12)]
    epochs = np.arange(12)
    backwards = rows.take(np.full(12, 1), epochs[::-1])["tokens"][::-1]
    assert [rows.tokenizer.decode(tokens) for tokens in backwards] == drawn
    others = open_rows(f"jsonl:{lines}", tmp_path, seed=1)
    assert drawn != [read(others, epoch)[1] for epoch in range(12)]


def test_the_digits_are_told_in_words(tmp_path):
    rows = open_rows("digits", tmp_path, channels=1, text_length=32, split="test")
    assert read(rows)[0] == "the digit nine"
    how = dict(channels=1, text_length=32)
    splits = ("train", "validation", "test")
    sizes = {s: len(open_rows("digits", tmp_path, **how, split=s)) for s in splits}
    assert sizes == {"train": 1439, "validation": 179, "test": 179}
    several = {read(rows, epoch)[0] for epoch in range(20)}
    assert several == {wording.format("nine") for wording in caption_sources.WORDINGS}


def test_a_text_that_is_too_long_is_refused_by_its_row_or_cut_and_counted(lines, tmp_path):
    # "ein Bär" is eight bytes, "some dog" too: with those that start and end it ten tokens.
    with pytest.raises(config.InputError, match=r"line 2.* 8 tokens.*room for 7.* 2 of 5 texts"):
        open_rows(f"jsonl:{lines}", tmp_path, text_length=9)
    rows = open_rows(f"jsonl:{lines}", tmp_path, text_length=9, too_long="cut")
    assert "2 texts cut" in rows.describe()
    assert read(rows)[2] == "ein Bä"
    assert rows.take(np.array([2]))["tokens"][0, -1] == 256
    assert rows.fingerprint != open_rows(f"jsonl:{lines}", tmp_path).fingerprint


def test_a_plan_knows_the_shapes_without_the_data(lines, tmp_path):
    fields = dict(size=8, channels=3, text_length=12)
    wanted = kinds.SHAPES["image_text"](fields)
    found = open_rows(f"jsonl:{lines}", tmp_path).take(np.array([0]))
    assert {n: (a.shape[1:], a.dtype.name) for n, a in found.items()} == wanted


BROKEN_LINES = {
    "no json": ("{", "line 5 is not JSON"),
    "no text": ('{"image": "all/0.png"}', 'line 5 must be {"image"'),
    "a number": ('{"image": "all/0.png", "text": 3}', 'line 5 must be {"image"'),
    "a list": ("[1]", "line 5 is no JSON object"),
    "empty": ('{"image": "all/0.png", "text": " "}', "line 5 has an empty text"),
    "none": ('{"image": "all/0.png", "text": []}', "line 5 has an empty text"),
    "no image": ('{"image": "all/9.png", "text": "x"}', "line 5: there is no image"),
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_is_refused_by_its_number(name, lines, tmp_path):
    line, words = BROKEN_LINES[name]
    lines.write_text(lines.read_text() + line + "\n")
    with pytest.raises(config.InputError, match=re.escape(words)):
        open_rows(f"jsonl:{lines}", tmp_path)


def test_an_image_that_is_broken_is_refused_or_left_out_with_its_text(lines, tmp_path):
    (lines.parent / "all" / "1.png").write_bytes(b"no image")
    with pytest.raises(config.InputError, match="line 2 is no whole image"):
        open_rows(f"jsonl:{lines}", tmp_path)
    rows = open_rows(f"jsonl:{lines}", tmp_path, broken="skip")
    assert read(rows) == ["a cat", "ein Bär", "an emu"]
    assert "1 broken images left out" in rows.describe()


def test_an_image_without_a_text_is_refused(folder, tmp_path):
    (folder / "2.txt").write_text("\n\n")
    with pytest.raises(config.InputError, match=r"2\.png has an empty text"):
        open_rows(f"captions:{folder}", tmp_path)
    (folder / "2.txt").unlink()
    with pytest.raises(config.InputError, match=r"2\.png has no text; it would be in 2\.txt"):
        open_rows(f"captions:{folder}", tmp_path)


@pytest.mark.parametrize(
    "source, words",
    [
        ("digit", 'mean "digits"'),
        ("jsonl:NONE/pair.jsonl", "no such file"),
        ("captions:NONE", "no such folder"),
        ("captions:EMPTY", "holds no images with texts"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source, words, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    source = source.replace("EMPTY", str(tmp_path / "EMPTY"))
    with pytest.raises(config.InputError) as error:
        open_rows(source, tmp_path)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(too_long="cuts"), "allowed are refuse, cut"),
        (dict(text_length=2), "must be at least 3"),
        (dict(channels=2), "allowed are 1 and 3"),
    ],
)
def test_fields_that_no_row_can_have_are_refused(fields, words, tmp_path):
    with pytest.raises(config.InputError, match=words):
        open_rows("digits", tmp_path, **fields)
