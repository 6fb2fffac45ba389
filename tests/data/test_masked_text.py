"""Laws of masked text: what is hidden is drawn by row and epoch, as often as it should be."""

import json

import numpy as np
import pytest
import tokenizers as library

from bigmodel import config
from bigmodel.data import kinds, masked_text, masking, pipeline, tokenizers

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "unhappy", "newts")


@pytest.fixture
def source(tmp_path):
    """Documents of words, JSON lines."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size)) for size in draw.integers(20, 200, 40)]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return f"jsonl:{path}"


def rows(source, **fields):
    return masked_text.open_rows(source, **{**dict(split="all", length=64), **fields})


def first(opened, epoch=0, many=200):
    indices = np.arange(min(many, len(opened)))
    return opened.take(indices, None if epoch is None else np.full_like(indices, epoch))


FORMS = [
    dict(), dict(whole_word=True), dict(packing="best_fit"), dict(packing="none"),
    dict(pairs=True), dict(pairs=True, whole_word=True),
]  # fmt: skip
over_forms = pytest.mark.parametrize("form", FORMS, ids=str)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@over_forms
def test_a_row_is_drawn_by_seed_epoch_and_row_alone(source, form):
    opened = rows(source, seed=3, **form)
    whole = first(opened, epoch=2)
    assert same(whole, first(rows(source, seed=3, **form), epoch=2))
    alone = opened.take(np.array([5, 2]), np.array([2, 2]))
    assert same(alone, {name: array[[5, 2]] for name, array in whole.items()})
    assert not same(whole, first(opened, epoch=1))
    assert not same(whole, first(rows(source, seed=4, **form), epoch=2))


@over_forms
def test_in_evaluation_a_row_is_always_the_same_and_knows_no_seed(source, form):
    assert same(first(rows(source, seed=3, **form), None), first(rows(source, **form), None))
    assert same(first(rows(source, seed=3, **form), None), first(rows(source, **form), 0))


@over_forms
def test_arrays_are_as_the_kind_says(source, form):
    opened = rows(source, **form)
    signature = dict(length=64, pairs=False) | form
    said = kinds.SHAPES["masked_text"](signature)
    found = {k: (v.shape[1:], str(v.dtype)) for k, v in opened.take(np.zeros(1, int)).items()}
    assert found == said


@over_forms
def test_only_hidden_tokens_are_to_be_told_and_neither_start_end_nor_padding(source, form):
    opened = rows(source, **form)
    batch = first(opened)
    tokens, targets, told = batch["tokens"], batch["targets"], batch["weights"] > 0
    assert (tokens == targets)[~told].all()
    assert (batch["segments"] > 0)[told].all()
    assert not np.isin(targets[told], [opened.tokenizer.bos, opened.tokenizer.eos]).any()
    assert told.any(1).all()
    assert (targets[:, 0] == opened.tokenizer.bos).all()


@over_forms
def test_as_many_tokens_are_to_be_told_as_the_rate_says(source, form):
    opened = rows(source, **form)
    batch = first(opened)
    plain = (batch["segments"] > 0) & (batch["targets"] != opened.tokenizer.eos)
    wanted = np.maximum(1, np.round(0.15 * plain.sum(1)))
    told = batch["weights"].sum(1)
    assert (told <= wanted + 6 * bool(form.get("whole_word"))).all()
    if not form.get("whole_word"):
        np.testing.assert_array_equal(told, wanted)
    assert told.sum() > 0.9 * wanted.sum()


def test_of_what_is_to_be_told_80_parts_are_masked_10_anything_and_10_as_they_are(source):
    opened = rows(source, mask_rate=0.5)
    found = [first(opened, epoch) for epoch in range(20)]
    shown, meant = (
        np.concatenate([b[name][b["weights"] > 0] for b in found]) for name in ("tokens", "targets")
    )
    n = len(shown)
    assert n > 20_000
    masked, kept = (shown == opened.tokenizer.mask).mean(), (shown == meant).mean()
    assert masked == pytest.approx(0.8, abs=4 * (0.16 / n) ** 0.5)
    assert kept == pytest.approx(0.1 + 0.1 / 257, abs=4 * (0.09 / n) ** 0.5)
    anything = shown[(shown != opened.tokenizer.mask) & (shown != meant)]
    assert len(np.unique(anything)) > 200


def test_every_token_is_to_be_told_some_time(source):
    opened = rows(source, mask_rate=0.3)
    told = sum(first(opened, epoch)["weights"] for epoch in range(40)) > 0
    batch = first(opened)
    plain = (batch["segments"] > 0) & (batch["targets"] != opened.tokenizer.eos)
    plain[:, 0] = False
    np.testing.assert_array_equal(told, plain)


@pytest.mark.parametrize("pairs", [False, True])
def test_whole_words_are_hidden_whole(source, pairs):
    batch = first(rows(source, whole_word=True, pairs=pairs))
    for targets, weights in zip(batch["targets"], batch["weights"], strict=True):
        letter = (targets >= ord("a")) & (targets <= ord("z"))
        together = letter[1:] & letter[:-1]  # two letters of one word
        assert (weights[1:] == weights[:-1])[together].all()


def of_library(tmp_path, model, **parts):
    made = library.Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def word_piece(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return of_library(
        tmp_path,
        library.models.WordPiece(vocab, unk_token="[UNK]"),
        pre_tokenizer=library.pre_tokenizers.Whitespace(),
    )


def test_a_tokenizers_own_start_end_and_mask_are_taken(tmp_path, source):
    opened = rows(source, tokenizer=word_piece(tmp_path), pairs=True)
    assert (opened.tokenizer.bos, opened.tokenizer.eos, opened.tokenizer.mask) == (2, 3, 4)
    batch = first(opened)
    assert (batch["tokens"][:, 0] == 2).all()
    assert ((batch["targets"] == 3).sum(1) == 2).all()
    assert (batch["tokens"] == 4).sum() > 0
    assert batch["tokens"].max() < opened.tokenizer.size


def test_words_of_word_pieces_are_hidden_whole(tmp_path, source):
    opened = rows(source, tokenizer=word_piece(tmp_path), whole_word=True)
    batch = first(opened)
    goes_on = batch["targets"] >= 5 + 26
    goes_on[:, 1] = False  # a row may begin inside a word
    weights = batch["weights"]
    assert (weights[:, 1:] == weights[:, :-1])[goes_on[:, 1:]].all()


def test_without_a_mask_of_its_own_a_tokenizer_has_one_more_id(tmp_path):
    assert tokenizers.load("bytes").mask == 257
    vocab = {"</s>": 0, "a": 1}
    path = of_library(tmp_path, library.models.WordLevel(vocab, unk_token="a"))
    assert tokenizers.load(path).mask == 2


def test_whole_words_of_a_tokenizer_that_marks_none_are_refused(tmp_path, source):
    path = of_library(tmp_path, library.models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(config.InputError, match="does not mark where words begin"):
        rows(source, tokenizer=path, whole_word=True)


def test_a_pair_is_one_stretch_cut_in_two_or_goes_on_with_another_document(tmp_path):
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(list("abcdefghij"), 900)) for _ in range(4)]
    path = tmp_path / "letters.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    opened = rows(f"jsonl:{path}", pairs=True)
    batch = first(opened, epoch=1)
    flat = bytes(np.minimum(opened.rows.cache.tokens, 255).astype(np.uint8))
    for targets, types, label in zip(
        batch["targets"], batch["token_types"], batch["labels"], strict=True
    ):
        one = bytes(targets[(types == 0) & (targets < 256) & (targets > 0)].astype(np.uint8))
        two = bytes(targets[(types == 1) & (targets < 256)].astype(np.uint8))
        assert one
        assert two
        assert one in flat
        assert two in flat
        own = {n for n, text in enumerate(texts) if one.decode() in text}
        others = {n for n, text in enumerate(texts) if two.decode() in text}
        if label == 0:
            assert one + two in flat
        elif len(one) > 4 and len(two) > 4:  # long enough to stand in one document only
            assert not own & others
    shares = [first(opened, epoch)["labels"].mean() for epoch in range(10)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_every_token_of_a_document_stands_in_one_stretch(source):
    opened = rows(source, pairs=True)
    assert opened.sizes.sum() == opened.rows.tokens - opened.rows.documents
    assert opened.sizes.max() <= 64 - 3
    assert opened.sizes.min() >= 1


def test_packed_documents_are_segments_and_the_first_begins_with_the_start(source):
    batch = first(rows(source, length=300, packing="best_fit"))
    assert batch["segments"].max() > 1
    for segments, positions in zip(batch["segments"], batch["positions"], strict=True):
        for number in range(1, segments.max() + 1):
            own = positions[segments == number]
            np.testing.assert_array_equal(own, np.arange(len(own)))


def test_a_mixture_is_its_sources_one_after_the_other(source, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "something else " * 50}))
    mixed = rows("", mixture={source: 1.0, f"jsonl:{other}": 2.0})
    parts = [rows(source), rows(f"jsonl:{other}")]
    assert [len(part) for part in mixed.parts] == [len(part) for part in parts]
    last = mixed.take(np.array([len(parts[0])]), np.array([1]))
    assert same(last, parts[1].take(np.array([0]), np.array([1])))
    batches = pipeline.Batches(mixed, 4, seed=1)
    assert same(batches.host(3), batches.host(3))


def test_rows_of_other_masks_have_other_fingerprints(source):
    prints = [
        rows(source, **form).fingerprint
        for form in (*FORMS, dict(mask_rate=0.2), dict(pairs=True, length=65))
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(mask_rate=0.0), "data.mask_rate = 0.0: allowed is a share"),
        (dict(mask_rate=1.0), "data.mask_rate = 1.0: allowed is a share"),
        (dict(length=1), "data.length = 1: allowed are 2 and more"),
        (dict(length=4, pairs=True), "data.length = 4: allowed are 5 and more"),
    ],
)
def test_fields_that_no_data_has_are_refused(source, fields, words):
    with pytest.raises(config.InputError) as refused:
        rows(source, **fields)
    assert words in str(refused.value)


def test_pairs_of_one_document_are_refused(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"text": "alone " * 100}))
    with pytest.raises(config.InputError, match="one document"):
        rows(f"jsonl:{path}", pairs=True)


def test_where_all_words_are_longer_than_the_share_one_is_told():
    tokens = np.frombuffer(b"abcdefghij klmnopqrst", np.uint8).astype(np.int32)
    hiding = masking.Masking(tokenizers.load("bytes"), 0.01, True)
    _, chosen = hiding.hide(tokens, tokens != 32, np.random.default_rng(0))
    assert chosen.sum() == 10
