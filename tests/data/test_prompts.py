"""Laws of rows for decoders that are given something: prompts, images with them, prefixes."""

import json
import re

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import kinds, prefix_text, prompted_images, prompted_text, prompts, tokenizers
from tests.data.test_image_text import picture

BYTES = tokenizers.load("bytes")
PAIRS = [("two and two", "four"), ("é", "ß"), ("who", "nobody knows")]
QUESTIONS = [
    {"image": "0.png", "prompt": "what is it?", "text": "a cat"},
    {"image": "1.png", "prompt": ["where?", "who?"], "text": ["here", "a dog"]},
    {"image": "2.png", "text": "an emu"},
]


def told(batch, row):
    """(what is given, what is to be told) of a row, from its arrays alone."""
    n = int((batch["segments"][row] > 0).sum())
    counts = batch["weights"][row] > 0
    assert not counts[n:].any()
    assert batch["positions"][row, :n].tolist() == list(range(n))
    np.testing.assert_array_equal(batch["targets"][row, : n - 1], batch["tokens"][row, 1:n])
    first = int(counts.argmax())
    assert counts[first:n].all()
    assert batch["targets"][row, n - 1] == BYTES.eos
    return batch["tokens"][row, : first + 1].tolist(), BYTES.decode(batch["targets"][row][counts])


def ids(text):
    return BYTES.encode(text).tolist()


# Text


def text_rows(folder, texts=PAIRS, **fields):
    lines = [json.dumps(dict(source=s, target=t)) for s, t in texts]
    (folder / "p.jsonl").write_text("\n".join(lines))
    known = dict(split="all", length=20)
    return prompted_text.open_rows(f"jsonl:{folder}/p.jsonl", **{**known, **fields})


@pytest.mark.parametrize("prefix", [True, False])
def test_a_prompt_stands_before_its_text_which_alone_counts(prefix, tmp_path):
    rows = text_rows(tmp_path, template="Q: {prompt}\n", prefix=prefix, length=32)
    batch = rows.take(np.arange(3))
    for row, (prompt, text) in enumerate(PAIRS):
        given, answer = told(batch, row)
        assert given == [BYTES.bos, *ids(f"Q: {prompt}\n")]
        assert answer == text
        if prefix:
            assert batch["prefix"][row].nonzero()[0].tolist() == list(range(len(given)))
    assert ("prefix" in batch) == prefix
    shapes = kinds.row_shapes({}, dict(kind="prompted_text", length=32, prefix=prefix))
    assert shapes == {name: (x.shape[1:], str(x.dtype)) for name, x in batch.items()}


def test_what_a_command_gives_is_written_as_rows_begin(tmp_path):
    from bigmodel.data import inputs

    data = dict(kind="prompted_text", template="Q: {prompt}\n")
    batch = text_rows(tmp_path, template=data["template"], length=32).take(np.arange(3))
    found = inputs.prompt_ids([prompt for prompt, _ in PAIRS], BYTES, data)
    assert [one.tolist() for one in found] == [told(batch, row)[0] for row in range(3)]


def test_what_does_not_fit_is_refused_left_out_or_cut_in_its_text_alone(tmp_path):
    with pytest.raises(config.InputError, match=r"p\.jsonl: line 1: a prompt with its text has 17"):
        text_rows(tmp_path, length=16)
    rows = text_rows(tmp_path, length=16, too_long="skip")
    assert len(rows) == 1
    assert "2 skipped" in rows.describe()
    batch = text_rows(tmp_path, length=15, too_long="cut").take(np.arange(3))
    assert batch["weights"].sum(1).tolist() == [3, 3, 11]
    with pytest.raises(config.InputError, match="line 1: a prompt has 17 tokens"):
        text_rows(tmp_path, length=12, too_long="cut")


def test_a_side_without_a_text_is_refused_or_left_out(tmp_path):
    for texts, side in (([*PAIRS, (" ", "x")], "prompt"), ([*PAIRS, ("x", "")], "text after")):
        with pytest.raises(config.InputError, match=f"line 4: its {side}"):
            text_rows(tmp_path, texts)
        assert len(text_rows(tmp_path, texts, empty="skip")) == 3


def test_bits_per_byte_are_of_the_text_that_is_told(tmp_path):
    rows = text_rows(tmp_path)
    assert rows.bytes_per_target == pytest.approx((4 + 2 + 12) / (5 + 3 + 13))
    assert text_rows(tmp_path, length=15, too_long="cut").bytes_per_target == 0


# Images


def image_rows(folder, **fields):
    for number in range(3):
        picture(folder / f"{number}.png", number)
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    known: dict = dict(split="all", size=8, length=40, patches=4, cache_dir=str(folder / "cache"))
    return prompted_images.open_rows(f"jsonl:{folder}/q.jsonl", **{**known, **fields})


@pytest.mark.parametrize(
    "template, before, after",
    [
        ("{image}{bos}{prompt}\n", [], [BYTES.bos]),
        ("USER: {image}\n{prompt}\n", [BYTES.bos, *ids("USER: ")], ids("\n")),
    ],
)
def test_an_image_stands_where_the_template_says(template, before, after, tmp_path):
    batch = image_rows(tmp_path, template=template, prompt="say").take(np.arange(3))
    asked = [("what is it?", "a cat"), ("where?", "here"), ("say", "an emu")]
    for row, (prompt, text) in enumerate(asked):
        given, answer = told(batch, row)
        at = len(before)
        assert batch["image_positions"][row].tolist() == list(range(at, at + 4))
        assert given[:at] == before
        assert given[at + 4 :] == [*after, *ids(f"{prompt}\n")]
        assert answer == text
        assert batch["prefix"][row].sum() == len(given)
    shapes = kinds.row_shapes(
        {}, dict(kind="prompted_images", size=8, channels=3, length=40, patches=4, prefix=True)
    )
    assert shapes == {name: (x.shape[1:], str(x.dtype)) for name, x in batch.items()}


def test_of_several_questions_one_is_drawn_with_its_own_answer(tmp_path):
    rows = image_rows(tmp_path)
    found = set()
    for epoch in range(12):
        batch = rows.take(np.array([1]), np.array([epoch]))
        given, answer = told(batch, 0)
        found.add((BYTES.decode(given[5:]), answer))
    assert found == {("where?\n", "here"), ("who?\n", "a dog")}
    again = rows.take(np.array([1]), np.array([11]))
    np.testing.assert_array_equal(again["tokens"], batch["tokens"])


@pytest.mark.parametrize(
    "line, words",
    [
        ({"image": "0.png", "prompt": 3, "text": "x"}, '"prompt" must be a text, or a list'),
        ({"image": "0.png", "prompt": ["a"], "text": ["x", "y"]}, "as many as the 2"),
    ],
)
def test_a_line_with_a_broken_prompt_is_refused_by_its_number(line, words, tmp_path):
    image_rows(tmp_path)
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTIONS[0]) + "\n" + json.dumps(line))
    with pytest.raises(config.InputError, match="line 2: ") as error:
        prompted_images.open_rows(f"jsonl:{tmp_path}/q.jsonl", split="all", size=8)
    assert words in str(error.value)


def test_a_prompt_is_never_cut_and_a_text_where_it_may_be(tmp_path):
    with pytest.raises(config.InputError, match=r"4 patches with 13 tokens of a prompt and 5 of a"):
        image_rows(tmp_path, length=20)
    rows = image_rows(tmp_path, length=20, too_long="cut")
    assert "1 texts cut" in rows.describe()
    assert rows.take(np.arange(3))["weights"].sum(1).tolist() == [4, 5, 7]
    with pytest.raises(config.InputError, match="Its cure: take data.length = 22"):
        image_rows(tmp_path, length=16, too_long="cut")


@pytest.mark.parametrize(
    "template, images, words",
    [
        ("{promt}", False, "{promt} is unknown; it is text with {prompt} in it"),
        ("hello", False, "{prompt} is missing"),
        ("{prompt} {prompt}", False, "{prompt} is there twice"),
        ("{image}{prompt}", False, "{image} is unknown"),
        ("{prompt}", True, "{image} is missing"),
        ("{image}{bos}{bos}{prompt}", True, "{bos} is there twice"),
    ],
)
def test_a_template_that_is_none_is_refused(template, images, words):
    with pytest.raises(config.InputError, match=re.escape(words)):
        prompts.template(template, images=images)


# Prefixes


def test_a_beginning_of_each_document_is_given_and_the_rest_counts(corpus):
    rows = prefix_text.open_rows(f"jsonl:{corpus}", split="all", length=32, packing="best_fit")
    everything = np.arange(len(rows))
    batch = rows.take(everything, np.zeros(len(rows), int))
    plain = rows.text.take(everything)
    for name in ("tokens", "targets", "segments", "positions"):
        np.testing.assert_array_equal(batch[name], plain[name])
    shares = []
    for row in everything:
        for segment in range(1, batch["segments"][row].max() + 1):
            own = batch["segments"][row] == segment
            given, counts = batch["prefix"][row][own], batch["weights"][row][own] > 0
            k, n = int(given.sum()), len(given)
            assert 1 <= k <= n
            assert given[:k].all()
            # The last that is given tells the first that is not.
            assert counts.tolist() == [False] * (k - 1) + [True] * (n - k + 1)
            shares.append(k / n)
    assert not batch["prefix"][batch["segments"] == 0].any()
    assert len(set(shares)) > 3


def test_prefixes_are_drawn_by_row_and_epoch_and_in_evaluation_never(corpus):
    rows = prefix_text.open_rows(f"jsonl:{corpus}", split="all", length=32, seed=3)
    every = np.arange(len(rows))
    first, again, next_ = (rows.take(every, np.full(len(rows), e))["prefix"] for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != next_).any()
    other = prefix_text.open_rows(f"jsonl:{corpus}", split="all", length=32, seed=4)
    np.testing.assert_array_equal(rows.take(every)["prefix"], other.take(every)["prefix"])
    alone = rows.take(every[1:], np.zeros(len(rows) - 1, int))["prefix"]
    np.testing.assert_array_equal(alone, first[1:])
