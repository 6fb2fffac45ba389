"""A shared link: work is neither lost nor gained, and nobody waits for all who came before."""

import itertools

import pytest

from bigmodel.plan.sharing import Shared


def ends(transfers, order):
    """When each of (start, seconds) is through, asked for in some order at the end."""
    link = Shared()
    numbers = [link.start(at, seconds) for at, seconds in transfers]
    return {n: link.end(numbers[n], transfers[-1][0]) for n in order}


def test_alone_a_transfer_takes_its_own_time():
    assert ends([(2.0, 3.0)], [0]) == {0: 5.0}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_equal_transfers_are_through_together_after_all_their_time(count):
    found = ends([(0.0, 1.5)] * count, range(count))
    assert found == {n: pytest.approx(1.5 * count) for n in range(count)}


def test_a_small_one_that_starts_last_does_not_wait_for_the_large_ones():
    found = ends([(0.0, 10.0), (0.0, 10.0), (0.0, 1.0)], [2, 0, 1])
    assert found[2] == 3.0
    assert found[1] == 21.0


def test_what_was_sent_before_another_started_counts():
    link = Shared()
    large, small = link.start(0.0, 4.0), link.start(2.0, 1.0)
    assert link.end(small, 2.0) == 4.0
    assert link.end(large, 4.0) == 5.0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_the_last_is_through_when_all_work_is_done_whatever_is_waited_for(order):
    transfers = [(0.0, 0.1), (0.05, 0.7), (0.06, 0.3)]
    assert max(ends(transfers, order).values()) == pytest.approx(1.1)


def test_nothing_is_through_before_it_is_asked_for():
    link = Shared()
    number = link.start(0.0, 1.0)
    assert link.end(number, 3.0) == 3.0
    assert link.end(link.start(5.0, 1.0), 5.0) == 6.0
