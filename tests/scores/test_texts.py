"""Scores of texts are those of their libraries, and of nothing what is said."""

import sys

import jiwer
import pytest
import sacrebleu

from bigmodel import config, scores

TRUE = ["the cat sat on the mat", "there is a dog", "a b c d e"]
TOLD = ["the cat sat on a mat", "there is the dog", "a b c d e"]


def test_texts_are_scored_as_their_libraries_do():
    assert scores.bleu(TRUE, TOLD) == sacrebleu.corpus_bleu(TOLD, [TRUE]).score
    assert scores.chrf(TRUE, TOLD) == sacrebleu.corpus_chrf(TOLD, [TRUE]).score
    assert scores.word_error_rate(TRUE, TOLD) == jiwer.wer(TRUE, TOLD) == 2 / 15
    assert scores.exact_match(TRUE, TOLD) == 1 / 3


@pytest.mark.parametrize(
    ("true", "told", "words", "characters", "same"),
    [
        (["a b", ""], ["a c", ""], 1 / 2, 1 / 3, 1 / 2),
        (["a b", ""], ["a b", "x"], 1 / 2, 1 / 3, 1 / 2),  # what is said of silence is put in
        (["a b"], [""], 1.0, 1.0, 0.0),
        ([""], ["x y"], 2.0, 3.0, 0.0),
        ([""], [""], 0.0, 0.0, 1.0),
        (["a"], ["a b c"], 2.0, 4.0, 0.0),
        (["a b"], [" a b\n"], 0.0, None, 1.0),
    ],
)
def test_errors_are_counted_for_each_word_of_the_references(true, told, words, characters, same):
    assert scores.word_error_rate(true, told) == pytest.approx(words)
    if characters is not None:
        assert scores.character_error_rate(true, told) == pytest.approx(characters)
    assert scores.exact_match(true, told) == same


def test_equal_texts_have_the_highest_scores_and_empty_ones_the_lowest():
    assert scores.bleu(TRUE, TRUE) == pytest.approx(100)
    assert scores.chrf(TRUE, TRUE) == pytest.approx(100)
    for score in (scores.bleu, scores.chrf):
        assert score(TRUE, [""] * 3) == score([""] * 3, TRUE) == score([""], [""]) == 0


def test_a_library_that_is_not_here_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(config.InputError, match=r"sacreBLEU.*pip install 'bigmodel\[scores\]'"):
        scores.bleu(TRUE, TOLD)
