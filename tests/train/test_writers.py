"""Metrics are written once, whole, and never twice for a step that ran twice."""

import json
import math
import sys
import threading

import pytest
from etils import epath

from bigmodel.train import writers
from tests import buckets


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, monkeypatch):
    """A workdir, in turn treated as a local and as a remote one."""
    monkeypatch.setattr(writers, "is_local", lambda _: request.param == "local")
    monkeypatch.setattr(writers, "PART_SECONDS", 0.0)
    monkeypatch.setattr(writers, "PART_LINES", 3)
    return epath.Path(tmp_path)


def write(folder, steps, resumed=0, loss=1.0):
    with writers.jsonl(folder, step=resumed) as writer:
        for step in steps:
            writer(step, {"train/loss": loss})


def steps_of(folder):
    return [row["step"] for row in writers.rows(folder)]


def test_rows_come_back_as_written(folder):
    with writers.jsonl(folder) as writer:
        writer(1, {"train/loss": 2.5, "tokens": 7})
        writer(2, {"train/loss": math.nan, "grad_norm": math.inf})
    assert writers.rows(folder) == [
        {"step": 1, "train/loss": 2.5, "tokens": 7},
        {"step": 2, "train/loss": None, "grad_norm": None},
    ]


def test_a_resumed_run_leaves_no_row_of_later_steps(folder):
    write(folder, range(0, 100, 10), loss=1.0)
    write(folder, [57, 67], resumed=50, loss=2.0)
    assert steps_of(folder) == [0, 10, 20, 30, 40, 50, 57, 67]
    write(folder, [], resumed=20)
    assert steps_of(folder) == [0, 10, 20]


def test_a_line_cut_by_a_crash_does_not_count_and_spoils_no_other(folder):
    write(folder, [1, 2])
    path = max(folder.glob("metrics*.jsonl"))
    path.write_text(path.read_text()[:-5])
    assert steps_of(folder) == [1]
    write(folder, [3], resumed=2)
    assert steps_of(folder) == [1, 3]


def test_local_lines_are_on_disk_at_once(tmp_path):
    with writers.jsonl(epath.Path(tmp_path)) as writer:
        writer(1, {"x": 1.0})
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "x": 1.0}


def test_remote_parts_are_many_and_none_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "is_local", lambda _: False)
    monkeypatch.setattr(writers, "PART_SECONDS", 0.0)
    monkeypatch.setattr(writers, "PART_LINES", 3)
    write(epath.Path(tmp_path), range(10))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"metrics-{number:09d}.jsonl" for number in range(4)]
    assert steps_of(tmp_path) == list(range(10))


@pytest.fixture
def bucket(monkeypatch):
    """A remote workdir, each of whose writes is at once due."""
    monkeypatch.setattr(writers, "PART_SECONDS", 0.0)
    return epath.Path(buckets.make("gs", monkeypatch)) / "run"


def events_of(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.glob("events.out.tfevents.*")))


def test_a_bucket_gets_rows_and_event_files(bucket, monkeypatch):
    monkeypatch.setattr(writers, "PART_LINES", 2)
    for start in (0, 3):
        with writers.open_writers(bucket, step=start) as write_all:
            for step in range(start + 1, start + 4):
                write_all(step, {f"loss/{step}": 2.5})
    assert steps_of(bucket) == [1, 2, 3, 4, 5, 6]
    found = events_of(bucket)
    assert all(found.count(f"loss/{step}".encode()) == 1 for step in range(1, 7))


def test_a_slow_bucket_keeps_no_step_waiting(bucket, monkeypatch):
    released = threading.Event()
    upload = buckets.Bucket.open

    def slow(*args, **options):
        released.wait(timeout=60)
        return upload(*args, **options)

    with writers.open_writers(bucket) as write_all:
        monkeypatch.setattr(buckets.Bucket, "open", slow)
        for step in (1, 2, 3):
            write_all(step, {"x": 1.0})
        released.set()
    assert steps_of(bucket) == [1, 2, 3]
    assert b"x" in events_of(bucket)


def failing(monkeypatch, times):
    """The next uploads fail, so many of them."""
    left, upload = [times], buckets.Bucket.open

    def fails(self, path, mode="rb", **options):
        if mode == "wb" and left[0]:
            left[0] -= 1
            raise OSError("the network is away")
        return upload(self, path, mode, **options)

    monkeypatch.setattr(buckets.Bucket, "open", fails)


@pytest.mark.parametrize("open_one", [writers.jsonl, writers.tensorboard_events])
def test_an_upload_that_failed_is_told_and_made_again(bucket, open_one, monkeypatch, capsys):
    with open_one(bucket) as writer:
        failing(monkeypatch, times=1)
        writer(1, {"loss/1": 1.0})
    assert "could not be written: OSError: the network is away" in capsys.readouterr().err
    assert b"loss/1" in b"".join(path.read_bytes() for path in bucket.iterdir())


@pytest.mark.parametrize("open_one", [writers.jsonl, writers.tensorboard_events])
def test_what_is_missing_in_the_end_is_an_error(bucket, open_one, monkeypatch):
    opened = open_one(bucket)
    opened.__enter__()(1, {"loss/1": 1.0})
    failing(monkeypatch, times=-1)
    with pytest.raises(OSError, match="run/.* could not be written"):
        opened.__exit__(None, None, None)


def test_what_is_missing_hides_no_other_error(bucket, monkeypatch, capsys):
    failing(monkeypatch, times=-1)
    with pytest.raises(KeyError), writers.jsonl(bucket):
        raise KeyError("the reason")
    assert "could not be written" in capsys.readouterr().err


def test_only_process_0_writes(tmp_path):
    with writers.open_writers(tmp_path / "w", process=1) as write_all:
        write_all(1, {"x": 1.0})
    assert not (tmp_path / "w").exists()


def test_all_writers_get_each_call(tmp_path):
    seen = []
    with writers.open_writers(tmp_path, extra=[lambda *call: seen.append(call)]) as write_all:
        write_all(1, {"train/loss": 2.0})
    assert seen == [(1, {"train/loss": 2.0})]
    assert steps_of(tmp_path) == [1]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_event_files_hold_the_values(tmp_path):
    with writers.tensorboard_events(epath.Path(tmp_path)) as writer:
        writer(3, {"train/loss": 2.5})
    (path,) = tmp_path.iterdir()
    assert b"train/loss" in path.read_bytes()


def test_an_absent_wandb_is_said_and_harmless(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with writers.weights_and_biases(epath.Path(tmp_path), "project", {}) as writer:
        writer(1, {"x": 1.0})
    assert "wandb is not installed" in capsys.readouterr().err


@pytest.fixture
def wandb(monkeypatch):
    """What an installed wandb without a key is called with."""
    calls: list = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finished")

    class FakeWandb:
        class api:
            api_key = None

        @staticmethod
        def init(**settings):
            calls.append(settings)
            return Run()

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb)
    return calls


def test_wandb_without_a_key_stays_offline(tmp_path, wandb):
    with writers.weights_and_biases(epath.Path(tmp_path), "project", {}) as writer:
        writer(1, {"x": 1.0})
    assert wandb[0]["mode"] == "offline"
    assert wandb[1:] == [(1, {"x": 1.0}), "finished"]


def test_a_workdir_is_one_wandb_run_and_another_of_its_name_another(tmp_path, wandb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a/run", tmp_path / "a" / "run", "b/run", "gs://a/run", "gs://b/run"):
        with writers.weights_and_biases(epath.Path(folder), "project", {}):
            pass
    started = [call for call in wandb if isinstance(call, dict)]
    assert {settings["name"] for settings in started} == {"run"}
    first, again, *others = [settings["id"] for settings in started]
    assert first == again
    assert len({first, *others}) == 4
