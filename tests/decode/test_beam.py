"""Laws of beam search: against a search through all texts, and against the full forward."""

import functools
import itertools
import re

import jax
import numpy as np
import pytest

from bigmodel.config import InputError
from bigmodel.decode import beam
from bigmodel.decode.beam import search
from tests.decode.test_generate import MODEL, PARAMS, PROMPTS, full_logits
from tests.models.families import PAIRS, make, pairs, params

run = functools.partial(search, MODEL, PARAMS)
EOS, VOCAB = 2, 3  # two tokens that go on, and one that ends


def log_p(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


@functools.cache
def next_log_p(text):
    return log_p(full_logits(list(text))[:VOCAB])


def all_texts(limit):
    """Every text that ends with the end token, or is as long as the limit."""
    for n in range(1, limit + 1):
        for start in itertools.product(range(EOS), repeat=n - 1):
            yield *start, EOS
    yield from itertools.product(range(EOS), repeat=limit)


def exhaustive(prompt, limit, penalty):
    """(score, text) of every text, best first."""
    found = []
    for text in all_texts(limit):
        whole = (*map(int, prompt), *text)
        steps = range(len(prompt), len(whole))
        total = sum(next_log_p(whole[:n])[whole[n]] for n in steps)
        found.append((total / ((5 + len(text)) / 6) ** penalty, text))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 3.0, -1.0])
def test_with_beams_for_all_texts_the_search_is_exhaustive(penalty):
    """Prompts of different lengths, and so of different limits: 4, 4 and 3."""
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[3]]
    options = dict(max_length=8, max_new_tokens=4, num_beams=20, num_return_sequences=20)
    found = run(prompts, eos=EOS, vocab=VOCAB, length_penalty=penalty, **options)
    for prompt, hypotheses in zip(prompts, found, strict=True):
        wanted = exhaustive(prompt, min(4, 8 - len(prompt)), penalty)[:20]
        assert [tuple(h.tokens.tolist()) for h in hypotheses] == [text for _, text in wanted]
        np.testing.assert_allclose([h.score for h in hypotheses], [s for s, _ in wanted], rtol=1e-4)


def test_few_beams_find_what_a_search_by_hand_finds():
    """Of 2 beams: what each step keeps, from the full pass."""
    prompt, limit, N = PROMPTS[0], 6, 2
    alive, done = [(0.0, ())], []
    for n in range(1, limit + 1):
        options = [
            (score + next_log_p((*map(int, prompt), *text))[token], (*text, token))
            for score, text in alive
            for token in range(VOCAB)
        ]
        options = sorted(options, reverse=True)[: 2 * N]
        ended = [(s, t) for s, t in options if t[-1] == EOS or n == limit]
        done = sorted([*done, *((s / ((5 + n) / 6) ** 0.6, t) for s, t in ended)], reverse=True)[:N]
        alive = [option for option in options if option not in ended][:N]
    found = run([prompt], max_new_tokens=limit, num_beams=N, eos=EOS, vocab=VOCAB)
    assert tuple(found[0][0].tokens.tolist()) == done[0][1]
    assert found[0][0].score == pytest.approx(done[0][0], rel=1e-4)


def test_a_hypothesis_does_not_depend_on_the_rows_beside_it():
    options = dict(max_new_tokens=5, num_beams=3, num_return_sequences=3, eos=EOS)
    together = run(PROMPTS, **options)
    apart = run(PROMPTS, **options, rows=4, multiple=2)
    for one, other in zip(together, apart, strict=True):
        assert [h.tokens.tolist() for h in one] == [h.tokens.tolist() for h in other]
    assert len({tuple(h.tokens.tolist()) for h in together[0]}) == 3


def test_a_row_without_room_has_the_empty_text():
    found = run(PROMPTS, max_length=4, num_beams=2, eos=EOS)
    assert [len(hypotheses[0].tokens) for hypotheses in found][2:] == [0, 0]
    assert found[2][0].score == 0.0


@pytest.mark.parametrize("name", PAIRS)
def test_scores_of_what_is_found_for_a_source_are_those_of_the_full_forward(name):
    model, batch, first, end = make(name), pairs(2, 4), 1, 0
    source = {key: batch[key] for key in ("source", "source_segments")}
    how = dict(num_beams=3, num_return_sequences=3, max_new_tokens=5, eos=end, length_penalty=0.0)
    found = search(model, params(name), [np.array([first])] * 2, inputs=source, **how)
    apply = jax.jit(model.apply)
    for row, hypotheses in enumerate(found):
        alone = {key: array[row : row + 1] for key, array in source.items()}
        for tokens, score in hypotheses:
            padded = np.zeros((1, 6), np.int32)
            padded[0, : 1 + len(tokens)] = [first, *tokens]
            logits = apply(params(name), alone | {"tokens": padded})["logits"][0]
            total = sum(log_p(logits[n])[token] for n, token in enumerate(tokens))
            assert score == pytest.approx(total, rel=1e-3)
    assert found[0][0].score != pytest.approx(found[1][0].score, rel=1e-3)


def test_the_axis_of_rows_is_found_in_any_cache():
    model = make("t5")
    batch = {key: jax.numpy.asarray(array) for key, array in pairs(2, 0).items()}
    axes = beam.row_axes(model, params("t5"), batch, 8)
    wanted = dict.fromkeys(("key", "value", "memory_key", "memory_value"), 1)
    assert axes == {**wanted, "segments": 0, "memory_segments": 0, "index": -1}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "max_new_tokens, max_length"),
        ({"max_new_tokens": 1, "num_beams": 0}, "num_beams=0"),
        ({"max_new_tokens": 1, "num_return_sequences": 5}, "finds at most 4"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(options, named):
    with pytest.raises(InputError, match=re.escape(named)):
        run(PROMPTS, **options)
