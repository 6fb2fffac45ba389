"""One live run to a workdir, and none that is dead keeps it."""

import json
import os

import pytest
from etils import epath

from bigmodel import config
from bigmodel.train import lock


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path / "run")


def silent(text):
    raise AssertionError(text)


def test_a_second_run_is_refused_until_the_first_gives_it_back(folder):
    first = lock.Lock(folder)
    first.take(silent)
    with pytest.raises(config.InputError, match=f"a run is live in it, process {os.getpid()}"):
        lock.Lock(folder).take(silent)
    first.release()
    assert not folder.exists()  # it was made for the lock alone
    lock.Lock(folder).take(silent)


def written(folder, **changed):
    lock.Lock(folder).take(silent)
    path = folder / lock.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return path


@pytest.mark.parametrize("changed", [{"pid": 2**22 + 1}, {"began": "1"}], ids=["ended", "reused"])
def test_a_run_of_this_host_that_has_ended_is_no_hindrance(folder, changed):
    written(folder, **changed)
    lock.Lock(folder).take(silent)


def test_a_run_of_another_host_is_watched_and_counts_if_it_lives(folder):
    path = written(folder, host="elsewhere", machine="x")
    told = []
    lock.Lock(folder).take(told.append, seconds=0.3)  # nothing moves
    assert "elsewhere" in told[0]

    path = written_by_another(folder)

    def counts(_):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 7}))

    with pytest.raises(config.InputError, match="on elsewhere"):
        lock.Lock(folder).take(counts, seconds=5.0)


def written_by_another(folder):
    path = folder / lock.NAME
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "machine": "x", "id": "x"})
    )
    return path


def test_a_run_whose_workdir_was_taken_is_told(folder, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.0)
    first = lock.Lock(folder)
    assert first.beat() == ""  # it has nothing yet
    first.take(silent)
    assert first.beat() == ""
    written_by_another(folder)
    assert "another run has begun in it" in first.beat()
    first.release()
    assert (folder / lock.NAME).exists()  # it is the other's


def test_a_file_cut_short_keeps_nobody_out(folder):
    folder.mkdir()
    (folder / lock.NAME).write_text('{"id": "a", "ho')
    lock.Lock(folder).take(silent)
