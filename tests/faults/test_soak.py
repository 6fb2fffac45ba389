"""Hosts killed at random moments, on changing numbers of them: the long form is `make soak`."""

from tests.faults import soak


def test_a_job_that_is_killed_again_and_again_loses_nothing(tmp_path):
    soak.soak(tmp_path, kills=3, steps=36)
