"""Near-duplicates: what is similar by hand is similar, and the first of two is kept, always."""

import json
import random

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import cache, files, near_duplicates, sources, text, tokenizers

WORDS = [f"word{n}" for n in range(4000)]


def texts(count, length=200):
    return [" ".join(random.Random(n).choices(WORDS, k=length)) for n in range(count)]


def changed(text, at):
    """One word is another: of the runs of five words that it has, five are."""
    words = text.split()
    return " ".join([*words[:at], "changed", *words[at + 1 :]])


def write(folder, lines, name="0.jsonl"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return f"jsonl:{folder}"


def build(source, near, **options):
    found = sources.find(source, "all")
    return cache.open_cache(found, "all", tokenizers.load("bytes"), near=near, **options)


def similarity(one, two):
    return len(one & two) / len(one | two)


def test_a_similarity_by_hand():
    one, two = (near_duplicates.shingles(t) for t in ("a b c d e f g h", "A B, c d e f g x."))
    assert one == {"a b c d e", "b c d e f", "c d e f g", "d e f g h"}
    assert similarity(one, two) == 3 / 5
    assert near_duplicates.shingles("天地玄黃，宇宙") == {"天 地 玄 黃 宇", "地 玄 黃 宇 宙"}
    assert near_duplicates.shingles("a b") == {"a b"}
    assert near_duplicates.shingles("???") == {"???"}


@pytest.mark.parametrize("changes", [1, 4, 10])
def test_signatures_tell_the_similarity(changes):
    [first] = texts(1)
    second = first
    for at in range(changes):
        second = changed(second, 15 * at + 10)
    true = similarity(*map(near_duplicates.shingles, (first, second)))
    assert true == (196 - 5 * changes) / (196 + 5 * changes)
    one, two = map(near_duplicates.signature, (first, second))
    spread = np.sqrt(true * (1 - true) / near_duplicates.PERMUTATIONS)
    assert (one == two).mean() == pytest.approx(true, abs=3 * spread)


def test_planted_copies_are_dropped_the_first_is_kept_and_what_differs_stays(tmp_path):
    made = texts(60)
    copies = [changed(text, 3 * n + 2) for n, text in enumerate(made[:20])]
    lines = [*made, *copies, made[0], " ".join(made[40].split()[:100] + made[41].split()[:100])]
    tokens = build(write(tmp_path / "c", lines), 0.8)
    assert (tokens.documents, tokens.duplicates, tokens.near_duplicates) == (61, 1, 20)
    held = bytes(tokens.tokens[tokens.tokens < 256].astype(np.uint8)).decode()
    assert "changed" not in held
    assert all(text in held for text in made)
    assert tokens.dropped() == "1 duplicates, 0 empty, 20 near-duplicates"
    looser = build(f"jsonl:{tmp_path}/c", 0.2)
    assert looser.documents == 60, "half of another is like it, to 0.33"


def test_any_number_of_workers_makes_the_same_cache(tmp_path, monkeypatch):
    made = texts(30, 60)
    for name in range(3):
        lines = [changed(text, 7 * name + 3) for text in made[name::2]]
        write(tmp_path / "c", lines, f"{name}.jsonl")
    monkeypatch.setattr(files, "PART_BYTES", 4000)
    caches = [
        build(f"jsonl:{tmp_path}/c", 0.5, workers=n, folder=f"{tmp_path}/{n}") for n in (1, 2)
    ]
    one, two = ({p.name: p.read_bytes() for p in c.folder.glob("*.npy")} for c in caches)
    assert one == two
    assert set(one) == {"tokens.npy", "offsets.npy"}
    assert caches[0].near_duplicates == caches[1].near_duplicates == 14


def test_off_is_as_before_and_each_similarity_has_a_cache_of_its_own(tmp_path):
    source = write(tmp_path / "c", texts(3))
    plain = cache.open_cache(sources.find(source, "all"), "all", tokenizers.load("bytes"))
    assert build(source, 0.0).folder == plain.folder
    assert len({build(source, near).folder for near in (0.0, 0.7, 0.8)}) == 3
    # The counts of a cache that an older version has made.
    notes = json.loads((plain.folder / "meta.json").read_text())
    del notes["near_duplicates"], notes["filtered"]
    (plain.folder / "meta.json").write_text(json.dumps(notes))
    assert build(source, 0.0).dropped() == "0 duplicates, 0 empty"


def test_a_similarity_out_of_range_is_refused_and_a_config_reaches_it(tmp_path):
    source = write(tmp_path / "c", [*texts(3), changed(texts(1)[0], 9)])
    with pytest.raises(config.InputError, match=r"data\.near_duplicates = 1\.5: allowed are 0"):
        text.open_rows(source, split="all", near_duplicates=1.5)
    rows = text.open_rows(source, split="all", near_duplicates=0.8)
    assert "3 documents (dropped: 0 duplicates, 0 empty, 1 near-duplicates)" in rows.describe()


def test_what_only_a_band_has_in_common_is_no_copy():
    one = near_duplicates.signature(texts(1)[0])
    half = np.where(np.arange(len(one)) < 64, one, one + 1)
    most = np.where(np.arange(len(one)) < 110, one, one + 1)
    kept = near_duplicates.first_of_each(np.stack([one, half, most]), np.ones(3, bool), 0.8)
    assert kept.tolist() == [True, True, False]
    none = near_duplicates.first_of_each(np.stack([one, one]), np.array([False, True]), 0.8)
    assert none.tolist() == [False, True], "a document that is dropped drops no other"
