"""Slow hosts are named, and no others."""

import pytest

from bigmodel.train.stragglers import stragglers

HOSTS = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "seconds",
    [
        (0.1, 0.1, 0.1, 0.1),
        (0.1, 0.12, 0.14, 0.1),  # within the factor
        (1e-4, 1e-4, 1e-4, 5e-3),  # nobody waits for that
        (0.0, 0.0, 0.0, 0.0),
        (float("nan"), float("nan"), 0.1, float("nan")),  # nothing to hold it against
    ],
)
def test_hosts_that_are_alike_are_not_told_of(seconds):
    assert stragglers(seconds, HOSTS) is None
    assert stragglers((), ()) is None


def test_slow_hosts_are_named_the_slowest_first():
    told = stragglers((0.1, 0.4, 0.1, 0.9), HOSTS, factor=2.0)
    assert told == (
        "slow hosts, by the time that a step waits for its data: d 900 ms, b 400 ms; "
        "median of 4 hosts 100 ms"
    )


def test_of_two_hosts_the_slow_one_is_named():
    assert "b 300 ms;" in stragglers((0.1, 0.3), ("a", "b"))


def test_of_many_slow_hosts_the_first_few_are_named():
    names = [f"host{number}" for number in range(40)]
    told = stragglers([0.1] * 25 + [1.0] * 15, names)
    assert "and 7 more; median of 40 hosts 100 ms" in told
