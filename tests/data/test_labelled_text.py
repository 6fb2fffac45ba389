"""Laws of labelled text: records of every form become the same rows; what does not fit is named."""

import gzip
import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from bigmodel import config
from bigmodel.data import kinds, labelled_text, labelling, text_augment, tfds_source

RECORDS = [
    dict(text="a fine film", second="it is", label="good"),
    dict(text="dull, and long", second="no", label="bad"),
    dict(text="neither here nor there", second="perhaps it was", label="middling"),
    dict(text="very good", second="yes", label="good"),
]


def rows(source, **fields):
    return labelled_text.open_rows(source, **{**dict(split="all", length=40), **fields})


def everything(opened):
    return opened.take(np.arange(len(opened)))


def written(folder, form, records=RECORDS):
    """A source of records in a form."""
    path = folder / f"records.{form}"
    names = list(records[0])
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    elif form == "csv":
        quoted = [",".join(f'"{record[name]}"' for name in names) for record in records]
        path.write_text("\n".join([",".join(names), *quoted]) + "\n")
    elif form == "tsv":
        lines = ["\t".join(map(str, record.values())) for record in records]
        path.write_text("\n".join(["\t".join(names), *lines]) + "\n")
    else:
        columns = {name: [record[name] for record in records] for name in names}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return f"{form}:{path}"


def test_a_row_is_start_text_end_and_its_class_by_sorted_names(tmp_path):
    opened = rows(written(tmp_path, "jsonl"), length=24)
    assert opened.classes == ("bad", "good", "middling")
    batch = everything(opened)
    np.testing.assert_array_equal(batch["labels"], [1, 0, 2, 1])
    wanted = [256, *b"a fine film", 256]
    np.testing.assert_array_equal(batch["tokens"][0], wanted + [0] * (24 - 13))
    np.testing.assert_array_equal(batch["segments"].sum(1), [13, 16, 24, 11])
    np.testing.assert_array_equal(batch["positions"][3, :12], [*range(11), 0])
    assert (batch["token_types"] == 0).all()
    assert "good 2" in opened.describe()


def test_of_two_texts_the_second_is_of_another_type(tmp_path):
    batch = everything(rows(written(tmp_path, "jsonl"), second_field="second"))
    wanted = [256, *b"a fine film", 256, *b"it is", 256]
    np.testing.assert_array_equal(batch["tokens"][0, : len(wanted)], wanted)
    np.testing.assert_array_equal(batch["token_types"][0], [0] * 13 + [1] * 6 + [0] * 21)


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "function", "jsonl.gz"])
def test_records_of_every_form_become_the_same_rows(tmp_path, form):
    wanted = everything(rows(written(tmp_path, "jsonl"), second_field="second"))
    extensions = {"function": lambda: iter(RECORDS)}
    source = form if form == "function" else ""
    if form == "jsonl.gz":
        path = tmp_path / "records.jsonl.gz"
        path.write_bytes(gzip.compress((tmp_path / "records.jsonl").read_bytes()))
        source = f"jsonl:{path}"
    source = source or written(tmp_path, form)
    found = everything(rows(source, second_field="second", extensions=extensions))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


class TinyReviews(tfds.core.GeneratorBasedBuilder):
    """A data set of texts with classes, whose test split tells none."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos: dict = {}  # noqa: RUF012

    def _info(self):
        label = tfds.features.ClassLabel(names=["good", "bad"])
        features = {"text": tfds.features.Text(), "label": label}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(["bad", "good"]), "test": [(0, self.one(-1))]}

    def _generate_examples(self, labels):
        for number, label in enumerate(labels):
            yield number, self.one(label)

    def one(self, label):
        return {"text": f"it is {label}", "label": label}


def test_examples_of_tfds_are_records_with_their_classes_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    tfds_source._prepare(TinyReviews(data_dir=str(tmp_path / "tfds")), "tiny_reviews", sys.stderr)
    opened = rows("tfds:tiny_reviews", split="train")
    assert opened.classes == ("bad", "good")
    batch = everything(opened)
    for tokens, label in zip(batch["tokens"], batch["labels"], strict=True):
        wanted = [256, *f"it is {opened.classes[label]}".encode(), 256]
        np.testing.assert_array_equal(tokens[: len(wanted)], wanted)
    with pytest.raises(config.InputError, match=r"test\[0\] has no label"):
        rows("tfds:tiny_reviews", split="test")


@pytest.mark.parametrize("labels", labelled_text.LABELS)
def test_arrays_are_as_the_kind_says(tmp_path, labels):
    records = [dict(text="one", label=1), dict(text="two", label=2)]
    opened = rows(written(tmp_path, "jsonl", records), labels=labels)
    found = {k: (v.shape[1:], str(v.dtype)) for k, v in everything(opened).items()}
    assert found == kinds.SHAPES["labelled_text"](dict(length=40, labels=labels))


def test_numbers_are_labels_as_they_are(tmp_path):
    records = [dict(text="one", label=1.5), dict(text="two", label="-2e3")]
    opened = rows(written(tmp_path, "jsonl", records), labels="numbers")
    np.testing.assert_array_equal(everything(opened)["labels"], [[1.5], [-2000.0]])
    assert opened.wants == {"classes": 1}
    assert "labels from -2000 to 1.5" in opened.describe()


def test_whole_numbers_as_classes_are_in_their_order(tmp_path):
    records = [dict(text=f"text {n}", label=n) for n in (10, 2, 1)]
    assert rows(written(tmp_path, "jsonl", records)).classes == ("1", "2", "10")


def test_classes_are_those_of_the_training_split_whatever_is_evaluated(tmp_path):
    train = written(tmp_path, "jsonl")
    other = written(tmp_path, "csv", [r for r in RECORDS if r["label"] != "bad"])
    assert rows(other).classes == ("good", "middling")
    opened = rows(other, training=(train, "all"))
    assert opened.classes == ("bad", "good", "middling")
    np.testing.assert_array_equal(everything(opened)["labels"], [1, 2, 1])


def test_classes_may_be_said_in_an_order_of_their_own(tmp_path):
    opened = rows(written(tmp_path, "jsonl"), classes=("middling", "good", "bad"))
    np.testing.assert_array_equal(everything(opened)["labels"], [1, 2, 0, 1])


def test_splits_hold_each_record_once(tmp_path):
    records = [dict(text=f"text {n}", label=n % 2) for n in range(400)]
    source = written(tmp_path, "jsonl", records)
    splits = [rows(source, split=split) for split in ("train", "validation", "test")]
    found = [row.tobytes() for opened in splits for row in everything(opened)["tokens"]]
    assert len(found) == len(set(found)) == 400
    assert len(splits[0]) > 350


@pytest.mark.parametrize(
    "first, second, wanted",
    [(3, 100, (3, 7)), (100, 3, (7, 3)), (100, 100, (5, 5)), (5, 6, (5, 5)), (20, 0, (10,))],
)
def test_what_is_cut_is_the_end_of_the_longer_text(first, second, wanted):
    assert labelling.cut(10, first, second) == wanted


def test_what_does_not_fit_is_cut_or_skipped_and_told_where_it_is_said(tmp_path):
    source = written(tmp_path, "jsonl")
    skipped = rows(source, length=13, unfit="skip")
    assert len(skipped) == 2
    assert "2 records skipped" in skipped.describe()
    cut = everything(rows(source, length=13, unfit="cut"))
    np.testing.assert_array_equal(cut["tokens"][1], [256, *b"dull, and l", 256])
    both = everything(rows(source, length=13, unfit="cut", second_field="second"))
    np.testing.assert_array_equal(both["tokens"][0], [256, *b"a fin", 256, *b"it is", 256])


def test_lines_of_the_embedded_corpus_are_told_apart():
    opened = labelled_text.open_rows("python_stdlib", split="validation", length=104)
    assert opened.classes == ("argparse", "datetime", "mailbox", "tarfile")
    assert len(opened) > 30


BAD = [
    ("jsonl", '{"text": "a", "label": 1}\n{"text": ', "line 2 is not JSON"),
    ("jsonl", "[1]", "line 1 is no JSON object"),
    ("jsonl", '{"txt": "a", "label": 1}', 'line 1 has no text in "text"; it has txt, label.'),
    ("jsonl", '{"text": 3, "label": 1}', 'line 1 has no text in "text"'),
    ("jsonl", '{"text": "a", "lable": 1}', 'Did you mean "lable"'),
    ("jsonl", '{"text": "a", "label": null}', 'no label in "label" but None'),
    ("jsonl", '{"text": " ", "label": 1}', "line 1 has an empty text"),
    ("jsonl", "\n", "has no records in the split"),
    ("jsonl", json.dumps(dict(text="a" * 39, label=1)), "line 1 has 39 tokens, and a row room"),
    ("csv", "text,label\na,b\nc\n", "line 3 has 1 columns, and the first line names 2"),
    ("csv", "text,text\n", "must name each column once"),
    ("csv", "", "must name each column once"),
    ("csv", 'text,label\n"a"b,c\n', "line 2: "),
    ("tsv", "text\tlabel\na b c\n", "line 2 has 1 columns"),
]


@pytest.mark.parametrize("form, text, words", BAD)
def test_a_bad_record_is_refused_by_its_place(tmp_path, form, text, words):
    path = tmp_path / f"bad.{form}"
    path.write_text(text)
    with pytest.raises(config.InputError) as refused:
        rows(f"{form}:{path}")
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("label", ["nan", "inf", "much"])
def test_a_label_that_is_no_number_is_refused(tmp_path, label):
    source = written(tmp_path, "jsonl", [dict(text="a", label=label)])
    with pytest.raises(config.InputError, match="line 1: the label .* is no"):
        rows(source, labels="numbers")


def test_a_label_that_is_no_class_is_refused_by_its_place(tmp_path):
    with pytest.raises(config.InputError, match="line 3: 'middling' is none of the classes"):
        rows(written(tmp_path, "jsonl"), classes=("bad", "good"))


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(labels="class"), "data.labels = 'class': allowed are classes, numbers."),
        (dict(unfit="cut it"), "data.unfit = 'cut it': allowed are"),
        (dict(normalize="nfc"), "data.normalize = 'nfc': allowed are"),
        (dict(length=2), "data.length = 2: allowed are 3 and more"),
        (dict(length=4, second_field="second"), "allowed are 5 and more"),
        (dict(classes=("a", "a")), "each class has one name"),
        (dict(classes=("a",), labels="numbers"), "numbers have none"),
        (dict(split="al"), 'split "al" is unknown'),
    ],
)
def test_fields_that_no_data_has_are_refused(tmp_path, fields, words):
    with pytest.raises(config.InputError) as refused:
        rows(written(tmp_path, "jsonl"), **fields)
    assert words in str(refused.value)


def test_a_source_that_is_not_there_is_refused_with_the_nearest_name():
    with pytest.raises(config.InputError, match="no such|no file"):
        rows("csv:nowhere.csv")
    with pytest.raises(config.InputError, match='Did you mean "jsonl"'):
        rows("json:x")


def test_a_tokenizer_is_trained_on_the_texts_of_a_split(tmp_path):
    source = written(tmp_path, "csv")
    fields = kinds.fields(labelled_text.open_rows) | dict(source=source, split="all")
    found = kinds.TEXTS["labelled_text"](fields | dict(second_field="second"))
    assert list(found) == [r[name] for r in RECORDS for name in ("text", "second")]


def test_an_augmented_text_is_of_seed_epoch_and_row_and_evaluation_has_none(tmp_path):
    source = written(tmp_path, "jsonl")
    plain = rows(source)
    changed = rows(source, token_drop=0.3, token_swap=0.3, seed=1)
    some, first = np.array([2, 0]), np.zeros(2, int)
    one, again, other = (changed.take(some, first + epoch)["tokens"] for epoch in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert (one != rows(source, token_drop=0.3, seed=2).take(some, first)["tokens"]).any()
    alone = changed.take(some[1:], first[1:])["tokens"]
    np.testing.assert_array_equal(alone[0], one[1])  # whatever stands beside it
    for epochs, opened in ((None, changed), (first, plain)):
        np.testing.assert_array_equal(
            opened.take(some, epochs)["tokens"], plain.take(some)["tokens"]
        )


def test_tokens_are_dropped_at_their_rate_and_swaps_lose_none():
    draw = np.random.default_rng(0)
    ids = np.arange(10_000)
    kept = text_augment.Augmentation(drop=0.2).of(ids, draw)
    assert len(kept) == pytest.approx(8000, abs=200)
    assert (np.diff(kept) > 0).all()
    swapped = text_augment.Augmentation(swap=0.1).of(ids, draw)
    np.testing.assert_array_equal(np.sort(swapped), ids)
    assert np.mean(swapped != ids) == pytest.approx(0.18, abs=0.02)
    assert len(text_augment.Augmentation(drop=0.99).of(ids[:1], draw)) == 1
    with pytest.raises(config.InputError, match="data.token_drop = 1.0: a rate"):
        text_augment.Augmentation(drop=1.0)
