"""Laws of pairs: two sides a row, nothing lost in silence, refusals that name file and line."""

import json

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import kinds, pairs, pipeline, tokenizers

TEXTS = [("a cat", "eine Katze"), ("two dogs", "zwei Hunde"), ("é", "ß"), ("x", "ein langer Satz")]
BYTES = tokenizers.load("bytes")


def write(folder, kind, texts=TEXTS):
    """The same pairs as every kind of source; gives its name."""
    if kind == "jsonl":
        lines = [json.dumps(dict(source=s, target=t)) for s, t in texts]
        (folder / "p.jsonl").write_text("\n".join(lines))
        return f"jsonl:{folder}/p.jsonl"
    if kind == "tsv":
        (folder / "p.tsv").write_text("\n".join(f"{s}\t{t}" for s, t in texts))
        return f"tsv:{folder}/*.tsv"
    for side in (0, 1):
        (folder / f"p.{side}").write_text("\n".join(pair[side] for pair in texts) + "\n")
    return f"lines:{folder}/p.0,{folder}/p.1"


def open_rows(source, **options):
    return pairs.open_rows(source, **{**dict(split="all", source_length=20, length=20), **options})


def read(rows):
    """The pairs that rows say, from their arrays alone."""
    batch = rows.take(np.arange(len(rows)))
    source, targets = (
        [BYTES.decode(ids[real > 0]) for ids, real in zip(batch[name], batch[of], strict=True)]
        for name, of in (("source", "source_segments"), ("targets", "weights"))
    )
    return list(zip(source, targets, strict=True))


@pytest.mark.parametrize("kind", ["lines", "jsonl", "tsv"])
def test_every_kind_of_file_gives_its_pairs_in_order(tmp_path, kind):
    rows = open_rows(write(tmp_path, kind))
    assert read(rows) == TEXTS
    assert rows.describe().endswith(": 4 pairs")


def test_a_users_own_pairs_are_a_source():
    def mine():
        yield from TEXTS[:2]
        yield {"source": "x", "target": "y"}

    rows = open_rows("mine", extensions={"mine": mine})
    assert read(rows) == [*TEXTS[:2], ("x", "y")]


def test_a_row_is_a_source_with_its_end_and_a_target_shifted_by_its_start(tmp_path):
    rows = open_rows(write(tmp_path, "lines"), source_length=9, length=17)
    row = {name: array[0] for name, array in rows.take(np.array([2])).items()}
    e, end = list("é".encode()), BYTES.eos
    assert row["source"].tolist() == [*e, end, *[0] * 6]
    assert row["source_segments"].tolist() == [1] * 3 + [0] * 6
    assert row["source_positions"].tolist() == [0, 1, 2, *[0] * 6]
    s = list("ß".encode())
    assert row["tokens"].tolist() == [BYTES.bos, *s, *[0] * 14]
    assert row["targets"].tolist() == [*s, end, *[0] * 14]
    assert row["segments"].tolist() == row["weights"].tolist() == [1] * 3 + [0] * 14
    assert row["positions"].tolist() == [0, 1, 2, *[0] * 14]
    shapes = {name: (array.shape, str(array.dtype)) for name, array in row.items()}
    assert shapes == kinds.SHAPES["pairs"](dict(source_length=9, length=17))


def test_rows_keep_the_protocol_of_batches(tmp_path):
    batches = pipeline.Batches(open_rows(write(tmp_path, "tsv")), 3, shuffle=False, repeat=False)
    last = batches.host(1)
    assert last["weights"].sum(1).tolist() == [16, 0, 0]
    assert not any(array[1:].any() for name, array in last.items() if name != "rows")
    rows = batches.rows
    targets = sum(len(t.encode()) + 1 for _, t in TEXTS)
    assert rows.bytes_per_target == pytest.approx((targets - 4) / targets)


def test_a_side_that_is_too_long_is_refused_skipped_or_cut_as_said(tmp_path):
    name = write(tmp_path, "lines")
    with pytest.raises(config.InputError) as refused:
        open_rows(name, length=12)
    assert str(refused.value).startswith(f"{tmp_path}/p.0: line 4: its target has 15 tokens")
    assert "1 of 4 pairs are longer than data.length = 12; the longest has 16" in str(refused.value)
    with pytest.raises(config.InputError, match=r"line 2: its source has 8 tokens .* 8; the"):
        open_rows(name, source_length=8)
    skipped = open_rows(name, length=12, too_long="skip")
    assert read(skipped) == TEXTS[:3]
    assert skipped.describe().endswith("3 pairs, 1 skipped")
    cut = open_rows(name, length=5, source_length=4, too_long="cut")
    assert read(cut)[0] == ("a c", "eine ")
    assert cut.take(np.array([0]))["source"][0, -1] == BYTES.eos
    assert len({rows.fingerprint for rows in (open_rows(name), skipped, cut)}) == 3


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_empty_side_is_refused_or_skipped_as_said(tmp_path, side):
    bad = ("", "x") if side == "source" else ("x", " \t".strip("\t"))
    name = write(tmp_path, "jsonl", [*TEXTS[:2], bad, TEXTS[2]])
    with pytest.raises(config.InputError, match=rf"line 3: its {side} is empty, as in 1 of 4"):
        open_rows(name)
    assert read(open_rows(name, empty="skip")) == TEXTS[:3]
    with pytest.raises(config.InputError, match="no pairs .* 1 were skipped"):
        open_rows(write(tmp_path, "jsonl", [bad]), empty="skip")


@pytest.mark.parametrize(
    ("kind", "text", "named"),
    [
        ("jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}', "line 2 has no text"),
        ("jsonl", '{"source": "a", "target": "b"}\n\n{', "line 3 is not JSON"),
        ("tsv", "a\tb\nc", "line 2 has 1 cells"),
        ("tsv", "a\tb\tc", "line 1 has 3 cells"),
    ],
)
def test_a_broken_line_is_refused_by_file_and_number(tmp_path, kind, text, named):
    (tmp_path / f"p.{kind}").write_text(text)
    with pytest.raises(config.InputError, match=f"p.{kind}: {named}"):
        open_rows(f"{kind}:{tmp_path}")


def test_files_side_by_side_must_have_as_many_lines(tmp_path):
    name = write(tmp_path, "lines")
    with (tmp_path / "p.1").open("a") as file:
        file.write("more\n")
    with pytest.raises(config.InputError, match=r"p.1 goes on at line 5, where the other file"):
        open_rows(name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "p.tsv").write_bytes(b"a\tb\nc\t\xff")
    with pytest.raises(config.InputError, match=r"p.tsv: line 2 is no UTF-8 text"):
        open_rows(f"tsv:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(source="lines:a"), "names 1 files"),
        (dict(source="text:a"), 'source "text:a" holds no pairs; allowed are python_stdlib'),
        (dict(source="tsv:missing.tsv"), 'source "missing.tsv"'),
        (dict(split="trian"), 'Did you mean "train"'),
        (dict(too_long="skp"), "data.too_long = 'skp': allowed are refuse, skip, cut."),
        (dict(empty="cut"), "data.empty = 'cut'"),
        (dict(length=1), "data.length = 1"),
    ],
)
def test_what_cannot_be_is_refused(options, named):
    with pytest.raises(config.InputError) as refused:
        open_rows(**{"source": "python_stdlib", **options})
    assert named in str(refused.value)


def test_splits_share_no_source_text_and_miss_none(tmp_path):
    many = [(f"text {n % 600}", f"target {n}") for n in range(1200)]
    name = write(tmp_path, "tsv", many)
    found = [read(open_rows(name, split=split)) for split in ("train", "validation", "test")]
    assert sorted(pair for some in found for pair in some) == sorted(many)
    sides = [{source for source, _ in some} for some in found]
    assert all(sides)
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_the_standard_library_gives_signatures_and_what_they_do():
    rows = open_rows("python_stdlib", split="test", too_long="skip", source_length=60, length=60)
    found = read(rows)
    assert len(found) > 50
    assert all(source.endswith(")") and "(" in source and target for source, target in found)
    assert rows.skipped > 0


def test_what_is_prepared_is_used_again_for_other_lengths(tmp_path, monkeypatch):
    name = write(tmp_path, "tsv")
    first = open_rows(name)
    monkeypatch.setattr(pairs, "_prepare", lambda *_: pytest.fail("prepared again"))
    again = open_rows(name, length=30)
    assert read(again) == read(first)


@pytest.mark.parametrize(("S", "T"), [(24, 24), (12, 40), (40, 17)])
def test_packed_rows_hold_each_pair_once_and_whole(tmp_path, S, T):
    draw = np.random.default_rng(0)
    texts = [("s" * draw.integers(1, 12), f"{n}" * draw.integers(1, 8)) for n in range(60)]
    name, lengths = write(tmp_path, "lines", texts), dict(source_length=S, length=T)
    plain, packed = open_rows(name, **lengths), open_rows(name, **lengths, packing="best_fit")
    assert len(packed) < 45
    assert packed.describe().endswith(f": 60 pairs in {len(packed)} rows")
    assert packed.fingerprint != plain.fingerprint
    assert packed.bytes_per_target == plain.bytes_per_target

    def every(rows):
        """Of each pair: its source, places in it, ids before the targets, targets, their places."""
        batch = rows.take(np.arange(len(rows)))
        assert ((batch["segments"] > 0) == (batch["weights"] > 0)).all()
        sides = {"source_segments": ("source", "source_positions")}
        sides["segments"] = ("tokens", "targets", "positions")
        return sorted(
            [batch[n][at][batch[of][at] == number].tolist() for of in sides for n in sides[of]]
            for at in range(len(rows))
            for number in range(1, batch["segments"][at].max() + 1)
        )

    assert every(packed) == every(plain)


def test_a_tokenizer_is_trained_on_both_sides_of_a_split(tmp_path):
    name = write(tmp_path, "tsv", [(f"source {n}", f"target {n}") for n in range(200)])
    fields = kinds.fields(pairs.open_rows) | dict(source=name, split="train")
    found = list(kinds.TEXTS["pairs"](fields))
    trained = read(pairs.open_rows(name, split="train", source_length=20, length=20))
    assert found == [text for pair in trained for text in pair]
    assert 0 < len(found) < 400
