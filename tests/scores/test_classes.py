"""Scores of classes, numbers, labels of words, and ranks, by hand and by the libraries."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from bigmodel import scores

TRUE = np.array([0, 1, 1, 0, 1, 1])
TOLD = np.array([0, 1, 0, 1, 1, 1])


def test_precision_recall_and_f1_are_of_class_one():
    """Of four that are told three are right, and of four that are there as well."""
    for name in ("precision", "recall", "f1"):
        assert scores.of_classes(name, TRUE, TOLD, average="binary") == 3 / 4
    assert scores.accuracy(TRUE, TOLD) == 4 / 6


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_averages_are_those_of_the_library(average):
    draw = np.random.default_rng(0)
    true, told = draw.integers(0, 4, (2, 50))
    for name in ("precision", "recall", "f1"):
        wanted = getattr(metrics, f"{name}_score")(true, told, average=average)
        assert scores.of_classes(name, true, told, average=average) == wanted
    assert scores.matthews(true, told) == metrics.matthews_corrcoef(true, told)
    if average == "micro":
        assert scores.of_classes("f1", true, told, average=average) == pytest.approx(
            scores.accuracy(true, told)
        )


def test_a_class_that_nobody_tells_has_no_precision_and_one_that_is_not_there_no_recall():
    true, told = np.array([0, 0, 2, 2]), np.array([0, 0, 1, 1])
    for name in ("precision", "recall", "f1"):
        assert scores.of_classes(name, true, told, average="macro") == pytest.approx(1 / 3)
    none = np.zeros(4, int)
    for name in ("precision", "recall", "f1"):
        assert scores.of_classes(name, none, none, average="binary") == 0


@pytest.mark.parametrize(
    ("true", "told", "wanted"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], 1),
        ([0, 1, 0, 1], [1, 0, 1, 0], -1),
        ([0, 1, 0, 1], [1, 1, 1, 1], 0),
        ([1, 1, 1, 1], [0, 1, 0, 1], 0),
        ([1, 1, 1, 1], [1, 1, 1, 1], 0),
        ([0, 1, 0, 1], [-1, -1, -1, -1], 0),
    ],
)
def test_matthews_is_nothing_where_a_side_is_all_of_one_class(true, told, wanted):
    assert scores.matthews(np.array(true), np.array(told)) == wanted


def test_what_is_no_class_is_wrong():
    told = np.array([-1, 1, -1, 0, 1, 1])
    assert scores.accuracy(TRUE, told) == 4 / 6
    assert scores.of_classes("recall", TRUE, told, average="binary") == 3 / 4


def test_numbers_are_scored_as_their_libraries_do():
    true = np.array([1.0, 2.0, 2.0, 4.0])[:, None]  # a tie
    told = np.array([0.9, 1.5, 3.0, 2.5])[:, None]
    both = true[:, 0], told[:, 0]
    assert scores.correlation("pearson", true, told) == stats.pearsonr(*both).statistic
    assert scores.correlation("spearman", true, told) == stats.spearmanr(*both).statistic
    assert scores.mean_squared_error(true, told) == pytest.approx((0.01 + 0.25 + 1 + 2.25) / 4)
    two = np.concatenate([true, true], 1), np.concatenate([told, -told], 1)
    assert scores.correlation("pearson", *two) == pytest.approx(0)


@pytest.mark.parametrize("told", [[1, 1, 1], [1, math.nan, 2], [1, math.inf, 2]])
def test_a_correlation_with_what_is_constant_or_no_number_is_none(told):
    true, told = np.arange(3.0)[:, None], np.float32(told)[:, None]
    for name in ("pearson", "spearman"):
        assert math.isnan(scores.correlation(name, true, told))
        assert math.isnan(scores.correlation(name, true[:1], told[:1]))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O O", set()),
        ("B-a I-a O", {("a", 0, 2)}),
        ("B-a B-a", {("a", 0, 1), ("a", 1, 2)}),
        ("B-a I-b", {("a", 0, 1), ("b", 1, 2)}),
        ("O I-a I-a B-b", {("a", 1, 3), ("b", 3, 4)}),
        ("I-a-x I-a-x", {("a-x", 0, 2)}),
        ("B-a ? I-a", {("a", 0, 1), ("a", 2, 3)}),
        ("", set()),
    ],
)
def test_entities_begin_and_end_where_tags_say(tags, found):
    assert scores.spans(tags.split()) == found


def test_an_entity_counts_where_its_type_begin_and_end_are_right():
    """Of three that are told one is right; of two that are there, one."""
    true = [["B-a", "I-a", "O", "B-b"], ["O"]]
    told = [["B-a", "I-a", "O", "B-a"], ["B-b"]]
    assert scores.of_spans("precision", true, told) == 1 / 3
    assert scores.of_spans("recall", true, told) == 1 / 2
    assert scores.of_spans("f1", true, told) == pytest.approx(2 / 5)
    # An entity ends with its sentence.
    assert scores.of_spans("f1", [["B-a"], ["I-a"]], [["B-a", "I-a"], []]) == 0
    for name in ("precision", "recall", "f1"):
        assert scores.of_spans(name, [["O"]], [["O"]]) == 0


def test_ranks_are_scored_by_how_many_stand_above():
    ranks = np.array([0, 1, 4, 9, 10])
    assert scores.hit_rate(ranks, 1) == 1 / 5
    assert scores.hit_rate(ranks, 10) == 4 / 5
    assert scores.mrr(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 10) / 5)
    gains = [1, 1 / math.log2(3), 1 / math.log2(6), 1 / math.log2(11)]
    assert scores.ndcg(ranks, 10) == pytest.approx(sum(gains) / 5)
    # As scikit-learn's, of one true item among twelve.
    table = np.arange(12, 0, -1)[None]
    of_each = [metrics.ndcg_score(np.eye(12)[[rank]], table, k=10) for rank in ranks]
    assert scores.ndcg(ranks, 10) == pytest.approx(np.mean(of_each))
