"""Rows of text: what was written comes back, from any source and from mixtures."""

import json

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import inspect, packing, text
from tests.data.corpora import CHINESE, TEXTS


def open_rows(source, **options):
    defaults = {"split": "all", "tokenizer": "bytes", "length": 64, "packing": "concat"}
    return text.open_rows(source, **{**defaults, **options})


def everything(rows):
    return rows.take(np.arange(len(rows)))


@pytest.mark.parametrize("name", ["concat", "best_fit"])
def test_the_targets_of_an_epoch_are_the_documents(corpus, name):
    rows = open_rows(f"jsonl:{corpus}", packing=name, normalize="none")
    batch = everything(rows)
    tokens, offsets = rows.flat()
    assert int(batch["weights"].sum()) == rows.targets == rows.tokens == len(tokens)
    assert sorted(batch["targets"][batch["weights"] > 0]) == sorted(tokens)
    assert rows.documents == len(offsets) - 1 == len(TEXTS)
    assert (batch["targets"] == rows.tokenizer.eos).sum() == rows.documents


def test_chinese_documents_come_back_from_their_rows(tmp_path):
    (tmp_path / "zh.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in CHINESE))
    rows = open_rows(f"jsonl:{tmp_path}", packing="best_fit", length=2048)
    found = []
    for row in map(rows.__getitem__, range(len(rows))):
        for segment in range(1, row["segments"].max() + 1):
            here = row["segments"] == segment
            found.append(rows.tokenizer.decode(row["targets"][here]))
            assert row["tokens"][here][0] == rows.tokenizer.bos
            np.testing.assert_array_equal(row["tokens"][here][1:], row["targets"][here][:-1])
    assert sorted(found) == sorted(CHINESE)


def test_none_counts_what_it_cuts_off(corpus):
    rows = open_rows(f"jsonl:{corpus}", packing="none")
    assert rows.targets == everything(rows)["weights"].sum() < rows.tokens


def test_the_fingerprint_tells_rows_apart_and_nothing_else(corpus, tmp_path):
    one = open_rows(f"jsonl:{corpus}").fingerprint
    assert open_rows(f"jsonl:{corpus}/*.jsonl").fingerprint == one
    assert open_rows(f"jsonl:{corpus}", length=65).fingerprint != one
    assert open_rows(f"jsonl:{corpus}", packing="none").fingerprint != one
    assert open_rows(f"jsonl:{corpus}", normalize="NFD").fingerprint != one


def test_a_large_plan_is_kept_and_gives_the_same_rows(corpus, monkeypatch):
    made = everything(open_rows(f"jsonl:{corpus}", packing="best_fit"))
    monkeypatch.setattr(text, "PIECES_TO_KEEP", 0)
    first = everything(open_rows(f"jsonl:{corpus}", packing="best_fit"))
    monkeypatch.setattr(packing, "plan", None)  # it is not made again
    again = everything(open_rows(f"jsonl:{corpus}", packing="best_fit"))
    for name, array in made.items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(again[name], array)


def test_a_mixture_is_its_parts_one_after_the_other(corpus, tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "b" * 300}))
    names = {f"jsonl:{corpus}": 3, f"jsonl:{tmp_path}/b.jsonl": 1}
    mixed = open_rows("", mixture=names)
    parts = [open_rows(name) for name in names]
    assert len(mixed) == sum(map(len, parts))
    assert mixed.tokens == sum(part.tokens for part in parts)
    assert mixed.bytes == sum(part.bytes for part in parts)
    chosen = np.array([len(mixed) - 1, 0, len(parts[0]), 3])
    expected = [parts[1][len(parts[1]) - 1], parts[0][0], parts[1][0], parts[0][3]]
    for name, array in mixed.take(chosen).items():
        np.testing.assert_array_equal(array, [row[name] for row in expected])
    assert mixed.fingerprint != open_rows("", mixture={**names, f"jsonl:{corpus}": 2}).fingerprint


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_that_is_not_above_zero_is_refused(corpus, weight):
    with pytest.raises(config.InputError, match=r"weight of .* allowed are numbers above 0"):
        open_rows("", mixture={f"jsonl:{corpus}": weight})


@pytest.mark.parametrize("index", [-1, 10**6])
def test_a_row_that_is_not_there_is_an_error(corpus, index):
    with pytest.raises(IndexError):
        open_rows(f"jsonl:{corpus}")[index]


def test_a_users_source_is_read_by_name():
    rows = open_rows("mine", extensions={"mine": lambda: ["one", {"text": "two"}]}, length=8)
    assert rows.tokenizer.decode(rows[0]["targets"]) == "onetwo"


def test_inspect_tells_sizes_lengths_and_shows_text(corpus):
    said = inspect.describe(open_rows(f"jsonl:{corpus}", packing="best_fit", length=2048))
    assert f"jsonl:{corpus}, all" in said
    assert f"{len(TEXTS)} (dropped: 0 duplicates, 0 empty)" in said
    assert "2,048, packing best_fit" in said
    assert "tokens in a document: median" in said
    assert "text 59 text 59" in said
    assert said.count("\n  row ") == 3
    mixed = open_rows("", mixture={f"jsonl:{corpus}": 3, f"jsonl:{corpus}/0.jsonl": 1})
    assert "75.0% of the rows" in inspect.describe(mixed)
