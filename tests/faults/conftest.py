"""The job that nothing happens to, once for all that are held against it."""

import pytest

from tests import runs
from tests.faults import jobs


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    runs.write_config(folder)
    assert jobs.run(folder, "undisturbed").status == 0
    return folder
