"""Laws of corrupted text: nothing is lost, what is drawn is addressed, and all of it fits."""

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import corruption, kinds, spans, tokenizers
from bigmodel.data.corruption import UL2, Denoiser

BYTES = tokenizers.load("bytes")
TOP = 999


def mended(source, target, top=TOP, sentinels=200):
    """The text of a source and a target, by sentinels alone."""
    is_sentinel = lambda token: top - sentinels < token <= top  # noqa: E731
    if not any(map(is_sentinel, source)):
        return [*source, *target]
    spans_of, name = {}, None
    for token in target:
        if is_sentinel(token):
            name = token
            spans_of[name] = []
        else:
            spans_of[name].append(token)
    assert (
        [*spans_of]
        == [t for t in source if is_sentinel(t)]
        == [top - n for n in range(len(spans_of))]
    )
    return [t for token in source for t in (spans_of[token] if is_sentinel(token) else [token])]


@pytest.mark.parametrize("how", [*UL2, Denoiser(0.5, 0.0), Denoiser(0.99, 1.0)], ids=str)
def test_a_target_mends_its_source_and_both_are_as_long_as_said(how):
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 57, 200):
        text = np.arange(n)
        for _ in range(5):
            source, target = map(np.ndarray.tolist, corruption.corrupted(text, how, rng, TOP))
            assert mended(source, target) == text.tolist()
            most_source, most_target, _ = corruption.longest(n, how)
            assert len(source) <= most_source
            assert len(target) <= most_target
            assert (
                how.span == 0 or n < 2 or (len(source), len(target)) == (most_source, most_target)
            )


def test_the_shares_are_those_of_t5_and_a_stretch_is_568_tokens():
    how = (Denoiser(0.15, 3.0),)
    assert spans.fitting(how, ((),), 512, 114, 100) == 568
    assert corruption.sizes(568, how[0]) == (85, 28)


def test_every_cut_of_a_line_is_as_likely():
    rng = np.random.default_rng(1)
    found = [tuple(corruption.segments(5, 3, rng).tolist()) for _ in range(3000)]
    counts = {cut: found.count(cut) for cut in set(found)}
    assert len(counts) == 6
    assert all(sum(cut) == 5 and min(cut) > 0 for cut in counts)
    assert min(counts.values()) > 400


def open_rows(corpus, **options):
    given = dict(split="all", source_length=40, length=24, sentinels=20)
    return spans.open_rows(f"jsonl:{corpus}", **{**given, **options})


@pytest.mark.parametrize("task", spans.TASKS)
def test_rows_hold_the_text_and_nothing_else(corpus, task):
    rows = open_rows(corpus, task=task, length=40, sentinels=40)
    texts = rows.text.take(np.arange(len(rows)))
    batch = rows.take(np.arange(len(rows)), np.arange(len(rows)))
    marks = {bytes(mark) for mark in rows.marks}
    for at in range(len(rows)):
        source = batch["source"][at, batch["source_segments"][at] > 0].tolist()
        target = batch["targets"][at, batch["weights"][at] > 0].tolist()
        assert source.pop() == target.pop() == BYTES.eos
        mark = next(m for m in marks if source[: len(m)] == list(m))
        wanted = texts["targets"][at, texts["weights"][at] > 0].tolist()
        assert mended(source[len(mark) :], target, rows.sentinel, 40) == wanted
        tokens = batch["tokens"][at, batch["segments"][at] > 0]
        assert tokens.tolist() == [BYTES.bos, *target]
    shapes = {name: (array.shape[1:], str(array.dtype)) for name, array in batch.items()}
    assert shapes == kinds.SHAPES["spans"](dict(source_length=40, length=40))


def test_what_is_drawn_belongs_to_seed_epoch_and_row(corpus):
    rows, other = open_rows(corpus), open_rows(corpus, seed=1)
    indices, one = np.arange(3), np.ones(3, int)
    first = rows.take(indices, one)["source"]
    turned = rows.take(indices[::-1], one)["source"][::-1]
    np.testing.assert_array_equal(first, turned)
    assert not np.array_equal(first, rows.take(indices, 2 * one)["source"])
    assert not np.array_equal(first, other.take(indices, one)["source"])
    # Evaluation mends the same, whatever the seed.
    np.testing.assert_array_equal(rows.take(indices)["source"], other.take(indices)["source"])
    assert rows.fingerprint != other.fingerprint


def test_a_mixture_draws_the_same_whole_or_in_parts(corpus):
    name = f"jsonl:{corpus}"
    rows = open_rows(corpus, mixture={f"{name}/0.jsonl": 1.0, f"{name}/1.jsonl": 2.0})
    assert [len(part) for part in rows.parts] == [len(part) for part in rows.text.parts]
    assert rows.weights == (1.0, 2.0)
    assert len(rows.take(np.arange(len(rows)))["source"]) == len(rows)


def test_all_ids_are_below_what_is_said_of_them(corpus):
    for first in (0, 300):
        rows = open_rows(corpus, first_sentinel=first)
        most = max(int(array.max()) for array in rows.take(np.arange(len(rows))).values())
        said = kinds.IDS["spans"](dict(first_sentinel=first, sentinels=20), BYTES.size)
        assert most == rows.sentinel == said - 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(task="span"), 'Did you mean "spans"'),
        (dict(noise=0.0), "data.noise = 0.0"),
        (dict(span=0.5), "data.span = 0.5"),
        (dict(sentinels=0), "data.sentinels = 0"),
        (dict(first_sentinel=10, sentinels=20), "data.sentinels = 20: allowed are 1 to 11"),
        (dict(length=2), "no text of 2 tokens fits"),
        (dict(task="ul2", source_length=8), "the 6 that mark a task"),
    ],
)
def test_what_cannot_be_is_refused(corpus, options, named):
    with pytest.raises(config.InputError) as refused:
        open_rows(corpus, **options)
    assert named in str(refused.value)
