"""Laws of histories: what is held out stays so, rows end where they should, draws are addressed."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import actions, interactions, kinds, pipeline

VIDEO = pathlib.Path(__file__).parents[3] / "shared/data/sasrec_video.txt.gz"
LONG = {"u": "abcdefg", "v": "bca", "w": "ab", "x": "d", "y": "aceg"}


def lines(histories, separator=" "):
    return "\n".join(f"{user}{separator}{item}" for user, h in histories.items() for item in h)


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "few.txt").write_text(lines(LONG))

    def rows(split="train", **fields):
        fields = dict(source=f"table:{tmp_path}/few.txt", length=4, eval_negatives=0) | fields
        return interactions.open_rows(split=split, cache_dir=str(tmp_path / "cache"), **fields)

    return rows


def told(rows, epochs=None):
    """The rows as names: (tokens, targets that count) of each."""
    batch = rows.take(np.arange(len(rows)), epochs)
    name = lambda i: "." if i == 0 else "?" if i > 7 else rows.actions.name(i)  # noqa: E731
    return [
        ("".join(map(name, t)), "".join(name(i) if w else "." for i, w in zip(g, ws, strict=True)))
        for t, g, ws in zip(batch["tokens"], batch["targets"], batch["weights"], strict=True)
    ]


def test_the_last_two_actions_are_held_out_and_rows_end_on_the_right(opened):
    # v has one action left to train on, x has one at all: nothing of theirs can be told.
    assert told(opened()) == [("abcd", "bcde"), ("...a", "...b"), ("...a", "...c")]
    assert told(opened("validation")) == [("bcde", "...f"), ("...b", "...c"), ("..ac", "...e")]
    assert told(opened("test")) == [("cdef", "...g"), ("..bc", "...a"), (".ace", "...g")]


def test_all_windows_tell_each_action_once(opened):
    assert told(opened(length=3, windows="all"))[:2] == [("bcd", "cde"), ("..a", "..b")]
    counted = sum(len(t.replace(".", "")) for _, t in told(opened(length=2, windows="all")))
    assert counted == 4 + 1 + 1
    cloze = opened(length=3, windows="all", mask_rate=0.5)
    assert [b for _, b in zip(cloze.begins, cloze.ends - cloze.begins, strict=True)][:2] == [3, 2]


def test_a_cloze_masks_what_is_to_be_told_and_in_evaluation_the_last(opened):
    assert told(opened("validation", mask_rate=0.5))[0] == ("cde?", "...f")
    assert told(opened("test", mask_rate=0.5))[1] == (".bc?", "...a")
    rows = opened(mask_rate=0.5)
    for epoch in range(20):
        for tokens, targets in told(rows, np.full(len(rows), epoch)):
            hidden = tokens.replace(".", "").count("?")
            assert hidden == max(1, round(0.5 * len(tokens.replace(".", ""))))
            assert all((t == "?") == (g != ".") for t, g in zip(tokens, targets, strict=True))
    assert rows.vocabulary == 7 + 2
    alone = opened(mask_rate=0.5, mask_last=0.999)
    assert told(alone, np.zeros(3, int))[0] == ("bcd?", "...e")


def test_draws_are_addressed_by_seed_epoch_and_row(opened):
    def drawn(indices, epochs, seed=0):
        rows = opened(mask_rate=0.4, negatives=5, seed=seed)
        return rows.take(np.array(indices), None if epochs is None else np.array(epochs))

    def same(a, b):
        return all(np.array_equal(a[name], b[name]) for name in a)

    whole = drawn([0, 1, 2], [7, 8, 9])
    for name, array in drawn([2, 0], [9, 7]).items():
        np.testing.assert_array_equal(array, whole[name][[2, 0]])
    assert not same(drawn([0], [0]), drawn([0], [1]))
    assert not same(drawn([0], [0]), drawn([0], [0], seed=1))
    assert same(drawn([0], None), drawn([0], None, seed=1))


def test_negatives_are_what_the_user_never_had_each_as_likely(opened):
    for split, had in (("train", "abcde"), ("validation", "abcdef")):
        rows = opened(split, negatives=500, eval_negatives=500)
        found = rows.take(np.zeros(1, int), np.zeros(1, int))["negatives"]
        assert found.shape == (1, 4, 500)
        names = [rows.actions.name(i) for i in found.ravel()]
        assert set(names) == set("abcdefg") - set(had)
        assert split != "train" or 0.45 < names.count("g") / len(names) < 0.55


def test_who_had_everything_leaves_no_negatives(opened):
    with pytest.raises(config.InputError, match="user 0 had all 7 items"):
        opened("test", eval_negatives=3)


def test_ids_follow_the_counts_of_training_and_names_come_back(opened):
    found = opened().actions
    names = [found.name(i) for i in range(1, found.vocabulary + 1)]
    assert names == list("abcdefg")  # 3 3 2 2 1 0 0; of all actions g has more than f


def test_what_is_left_out_or_too_short_is_said(opened):
    said = opened().describe()
    assert "5 users, 7 items, 17 actions; 3 rows" in said
    assert "2 users of fewer than 3 actions are only trained on" in said
    assert "2 users have fewer than 2 to train on" in said
    assert ", 9 left out;" in opened(least=3).describe()


@pytest.mark.parametrize(
    "name, text, fields",
    [
        ("a.csv", 'user,item\nu,"a,1"\nu,b\nu,c\n', dict(columns="")),
        ("a.tsv", "9\ta,1\tu\n7\tc\tu\n8\tb\tu", dict(columns="time item user", time="time")),
        ("a.dat", "u::a,1::5\nu::b::3\n\nu::c::1", dict(columns="user item stars", separator="::")),
    ],
)
def test_tables_of_every_form_are_read(name, text, fields, tmp_path):
    (tmp_path / name).write_text(text)
    with gzip.open(tmp_path / f"{name}.gz", "wt") as file:
        file.write(text)
    for path in (name, f"{name}.gz"):
        found = actions.open_actions(
            f"table:{tmp_path}/{path}", actions.Reading(**fields), folder=str(tmp_path / "cache")
        )
        names = [found.name(i) for i in found.items]
        assert names == (["c", "b", "a,1"] if "time" in fields else ["a,1", "b", "c"])


def test_json_lines_are_read_and_sorted_by_their_time(tmp_path):
    records = [dict(who=1, what=n, at=-n) for n in (3, 1, 2)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    how = actions.Reading(user="who", item="what", time="at")
    found = actions.open_actions(f"jsonl:{tmp_path}/*.jsonl", how, folder=str(tmp_path))
    assert [found.name(i) for i in found.items] == ["3", "2", "1"]


@pytest.mark.parametrize(
    "name, text, fields, words",
    [
        ("a.txt", "u a\nu b c\n", {}, r"a.txt, line 2 has 3 columns, not 2 \(user item\)"),
        ("a.csv", "u,a\nu,\n", {}, 'a.csv, line 2 has no "item"'),
        ("a.txt", "u a x\n", dict(columns="user item at", time="at"), "line 1: the time 'x' is no"),
        ("a.txt", "u a nan\n", dict(columns="user item at", time="at"), "the time 'nan' is no"),
        ("a.csv", "who,item\nu,a\n", dict(columns=""), 'line 2 has no "user".* it has who, item'),
        ("a.txt", "\n\n", {}, "has no actions"),
        ("a.txt", "u a\n", dict(least=2), "data.least = 2"),
        ("a.jsonl", '{"user": 1, "item": 2}\n{"user": 1', {}, "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[1, 2]", {}, "a.jsonl, line 1 is no JSON object"),
        ("a.jsonl", '{"user": 1, "item": null}', {}, 'line 1 has no "item"'),
        ("a.jsonl", '{"user": true, "item": 2}', {}, 'line 1 has no "user"'),
    ],
)
def test_a_malformed_line_is_refused_with_its_file_and_number(name, text, fields, words, tmp_path):
    (tmp_path / name).write_text(text)
    kind = "jsonl" if name.endswith("jsonl") else "table"
    with pytest.raises(config.InputError, match=words):
        actions.open_actions(
            f"{kind}:{tmp_path}/{name}", actions.Reading(**fields), folder=str(tmp_path / "cache")
        )
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(split="valid"), "data.split = 'valid': allowed are train, validation, test"),
        (dict(windows="every"), "data.windows = 'every': allowed are last, all"),
        (dict(mask_rate=1.0), "data.mask_rate = 1.0: a share is in"),
        (dict(negatives=-1), "data.negatives = -1"),
        (dict(source="tabel:x"), "allowed are .* Did you mean"),
        (dict(source="table:/none.txt"), "no file or folder there"),
        (dict(cache_dir="gs://x"), "kept in a local one"),
    ],
)
def test_what_cannot_be_is_refused(fields, words, tmp_path):
    with pytest.raises(config.InputError, match=words):
        interactions.open_rows(**{"cache_dir": str(tmp_path), **fields})


@pytest.mark.parametrize("split", interactions.SPLITS)
@pytest.mark.parametrize("mask_rate", [0.0, 0.2])
def test_rows_have_the_shapes_that_are_said_of_them(split, mask_rate, tmp_path):
    given = dict(split=split, length=6, mask_rate=mask_rate, negatives=2, cache_dir=str(tmp_path))
    fields = kinds.fields(interactions.open_rows) | given
    rows = interactions.open_rows(**fields)
    batches = pipeline.Batches(rows, 4)
    wanted = kinds.SHAPES["interactions"](fields) | {"rows": ((), "int32")}
    found = {n: (s.shape[1:], str(s.dtype)) for n, s in batches.spec.items()}
    assert found == wanted
    for name, array in batches.host(0).items():
        assert (array.shape[1:], str(array.dtype)) == wanted[name]
        assert array.max() < rows.vocabulary
    assert rows.fingerprint != interactions.open_rows(**fields | {"length": 5}).fingerprint


@pytest.mark.skipif(not VIDEO.exists(), reason=f"{VIDEO} is not there")
def test_the_games_of_amazon_have_their_published_numbers(tmp_path):
    rows = interactions.open_rows(f"table:{VIDEO}", split="test", cache_dir=str(tmp_path))
    assert rows.actions.users == 31_013
    assert rows.actions.vocabulary == 23_715
    assert len(rows.actions.items) == 287_107
