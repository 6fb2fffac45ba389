"""Rows of a table of which `make test` has some, and another target the rest."""

import pytest


def rows(names, first, rest=pytest.mark.families):
    """Each of the names as a parameter; those that are not among the first bear the mark."""
    return [pytest.param(name, marks=[] if name in first else [rest]) for name in names]
