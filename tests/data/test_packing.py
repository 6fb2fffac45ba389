"""Laws of packing: every token a target once, in order, and rows say truly what they hold."""

import itertools
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel import config
from bigmodel.data import packing

BOS = 999

documents = st.lists(st.integers(1, 40), min_size=1, max_size=30)
lengths = st.integers(1, 17)


def flat(sizes):
    """Documents whose tokens are all different: token = its place in the stream."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return np.arange(offsets[-1], dtype=np.uint32), offsets


def rows_of(sizes, length, name, rows=None):
    tokens, offsets = flat(sizes)
    plan = packing.plan(offsets, length, name)
    chosen = np.arange(len(plan)) if rows is None else np.asarray(rows)
    return packing.fill(plan.pieces(chosen), len(chosen), length, tokens, offsets, BOS), offsets


@pytest.mark.parametrize("name", packing.PACKINGS)
@hypothesis.given(documents, lengths)
def test_rows_say_truly_what_they_hold(name, sizes, length):
    rows, offsets = rows_of(sizes, length, name)
    real = rows["segments"] > 0
    np.testing.assert_array_equal(rows["weights"], real)
    for field in ("tokens", "targets", "positions"):
        assert not rows[field][~real].any(), f"padding has {field}"
    document_of = np.searchsorted(offsets, rows["targets"], "right") - 1
    for r in range(len(real)):
        used = int(real[r].sum())
        assert real[r, :used].all(), "padding comes last"
        segments = rows["segments"][r, :used]
        np.testing.assert_array_equal(np.unique(segments), np.arange(1, segments.max() + 1))
        for segment in np.unique(segments):
            at = np.flatnonzero(segments == segment)
            targets = rows["targets"][r, at]
            np.testing.assert_array_equal(at, np.arange(at[0], at[0] + len(at)))
            np.testing.assert_array_equal(targets, np.arange(targets[0], targets[0] + len(at)))
            np.testing.assert_array_equal(rows["positions"][r, at], np.arange(len(at)))
            np.testing.assert_array_equal(rows["tokens"][r, at[1:]], targets[:-1])
            assert len(np.unique(document_of[r, at])) == 1, "two documents in one segment"
            opening = targets[0] in offsets
            assert rows["tokens"][r, at[0]] == (BOS if opening else targets[0] - 1)


@pytest.mark.parametrize("name", ["concat", "best_fit"])
@hypothesis.given(documents, lengths)
def test_every_token_is_a_target_once(name, sizes, length):
    rows, offsets = rows_of(sizes, length, name)
    targets = np.sort(rows["targets"][rows["segments"] > 0])
    np.testing.assert_array_equal(targets, np.arange(offsets[-1]))
    assert packing.plan(offsets, length, name).pairs == offsets[-1]


@hypothesis.given(documents, lengths)
def test_concat_keeps_the_stream_in_order_and_pads_only_its_end(sizes, length):
    rows, offsets = rows_of(sizes, length, "concat")
    stream = rows["targets"].reshape(-1)[: offsets[-1]]
    np.testing.assert_array_equal(stream, np.arange(offsets[-1]))
    assert rows["weights"].sum() == offsets[-1]


@hypothesis.given(documents, lengths)
def test_best_fit_cuts_no_document_that_fits_in_a_row(sizes, length):
    rows, offsets = rows_of(sizes, length, "best_fit")
    row_of = np.empty(offsets[-1], int)
    at = np.nonzero(rows["segments"])
    row_of[rows["targets"][at]] = at[0]
    for start, stop in itertools.pairwise(offsets):
        pieces = 1 + np.count_nonzero(np.diff(row_of[start:stop]))
        assert pieces == -(-(stop - start) // length)


@hypothesis.given(documents, lengths)
def test_best_fit_places_each_piece_in_the_fullest_row_that_has_room(sizes, length):
    """Against the definition of best-fit decreasing, one piece at a time."""
    _, offsets = flat(sizes)
    pieces = np.sort(packing._cut(offsets, length)[1])[::-1]
    free: list[int] = []
    for piece in pieces:
        fits = [room for room in free if room >= piece]
        if fits:
            free.remove(min(fits))
        free.append((min(fits) if fits else length) - piece)
    plan = packing.best_fit(offsets, length)
    used = np.add.reduceat(plan.lengths, plan.first[:-1])
    np.testing.assert_array_equal(np.sort(length - used), np.sort(free))


@hypothesis.given(documents, lengths)
def test_none_holds_the_start_of_each_document(sizes, length):
    rows, offsets = rows_of(sizes, length, "none")
    assert len(rows["targets"]) == len(sizes)
    for row, size in enumerate(sizes):
        kept = rows["targets"][row][rows["segments"][row] > 0]
        np.testing.assert_array_equal(kept, offsets[row] + np.arange(min(size, length)))
    assert packing.plan(offsets, length, "none").pairs == rows["weights"].sum()


@pytest.mark.parametrize("name", packing.PACKINGS)
@hypothesis.given(documents, lengths, st.randoms())
def test_a_row_is_the_same_in_any_company(name, sizes, length, random):
    whole, _ = rows_of(sizes, length, name)
    chosen = [random.randrange(len(whole["tokens"])) for _ in range(5)]
    some, _ = rows_of(sizes, length, name, chosen)
    for field, array in some.items():
        np.testing.assert_array_equal(array, whole[field][chosen], field)


def test_best_fit_packs_a_million_documents_in_seconds():
    sizes = np.random.default_rng(0).geometric(1 / 600, 1_000_000)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    began = time.perf_counter()
    plan = packing.plan(offsets, 2048, "best_fit")
    assert time.perf_counter() - began < 10  # 0.4 s on a quiet core
    assert plan.pairs / (len(plan) * 2048) > 0.99


def test_an_unknown_packing_is_refused_with_the_nearest_name():
    with pytest.raises(config.InputError, match=r'allowed are concat, best_fit, none.*"best_fit"'):
        packing.plan(np.array([0, 3]), 4, "bestfit")
