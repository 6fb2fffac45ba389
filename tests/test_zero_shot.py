"""Classes and neighbours from embeddings, on cases worked out by hand."""

import numpy as np
import pytest

from bigmodel import scores


def test_a_class_is_the_direction_of_the_mean_of_its_prompts_made_of_length_one():
    """The long prompt counts no more than the short one: (1, 0) and (0, 1) give 45 degrees."""
    found = scores.class_vectors([np.array([[10.0, 0], [0, 1]]), np.array([[0, -3.0]])])
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, -1]])


def test_an_image_is_of_the_class_whose_angle_is_least_however_long_vectors_are():
    classes = np.array([[100.0, 0], [0, 1]])
    images = np.array([[3.0, 1], [1, 3], [0.001, 0], [0, 5]])
    np.testing.assert_array_equal(scores.classify(images, classes), [0, 1, 0, 1])


def test_recall_counts_queries_whose_own_item_is_among_the_nearest():
    """Cosines of query 0 are 1, 0.8, 0 and of query 1 are 0, 0.6, 1."""
    items = np.array([[1.0, 0], [0.8, 0.6], [0, 1]])
    queries, own = np.array([[2.0, 0], [0, 1]]), np.array([0, 1])
    found = [scores.recall(queries, items, own, at=n) for n in (1, 2, 3)]
    assert found == [0.5, 1.0, 1.0]
    assert scores.recall(queries, items, np.array([2, 0]), at=2) == 0.0


def test_equal_items_do_not_push_each_other_out():
    items = np.array([[1.0, 0], [1, 0]])
    assert scores.recall(items, items, np.array([0, 1])) == 1.0


def test_more_neighbours_than_items_are_refused():
    with pytest.raises(ValueError, match="allowed are 1 to 2"):
        scores.recall(np.eye(2), np.eye(2), np.arange(2), at=3)
