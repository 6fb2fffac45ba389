"""What is wrong with a host is named before anything is compiled."""

import contextlib
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import config
from bigmodel.checkpoint import agreement
from bigmodel.train import preflight

GOOD = {"devices": 4, "kind": "v5p", "clock": 1000.0, "fault": "", "faulty": ""}


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    monkeypatch.setattr(preflight.agreement, "HOSTS", dict(enumerate("abc")))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"devices": 3}, "one number of devices: 4 on most, 3 on process 1 (b)"),
        ({"kind": "v4"}, "one kind of device: v5p on most, v4 on process 1 (b)"),
        ({"faulty": "b, process 1, device 3 (v5p)"}, "device 3 (v5p): a fixed chain of products"),
        ({"clock": 1100.0}, "that of process 1 (b) is +100 s off that of process 0 (a)"),
        ({"clock": 969.0}, "that of process 1 (b) is -31 s off"),
        ({"fault": "cannot write into the workdir x: full"}, "process 1 (b) cannot write into"),
    ],
)
def test_a_host_that_is_unlike_the_others_is_named(changed, words):
    hosts = [GOOD, {**GOOD, **changed}, GOOD]
    (found,) = preflight.refusals(hosts)
    assert words in found


def test_equal_hosts_are_fit():
    assert preflight.refusals([GOOD] * 3) == []


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(config.InputError, match=r"process 0 .* cannot write into the workdir"):
        preflight.check(epath.Path(tmp_path / "file" / "run"))


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(5, "Input/output error"), agreement.OthersError),
        (RuntimeError("503"), agreement.OthersError),
        (PermissionError(13, "Permission denied"), agreement.AgreedError),
        (OSError(30, "Read-only file system"), agreement.AgreedError),
    ],
)
def test_storage_that_fails_for_once_is_no_refusal(tmp_path, monkeypatch, error, raised):
    monkeypatch.setattr(preflight.files, "absent", mock.Mock(side_effect=error))
    with pytest.raises(raised, match=r"process 0 \(a\) cannot look for the data"):
        preflight.check(epath.Path(tmp_path), ["text:x"])
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "here").touch()
    sources = [f"jsonl:{tmp_path}/here", f"lines:{tmp_path}/here,{tmp_path}/away/*.txt"]
    with pytest.raises(config.InputError, match=rf"process 0 .*: {tmp_path}/away is not there"):
        preflight.check(epath.Path(tmp_path / "run"), sources)


def test_nothing_is_left_of_a_look(tmp_path):
    mine = ["tfds:lm1b", "python_stdlib", f"text:{tmp_path}/*", str(tmp_path), "my:corpus"]
    preflight.check(epath.Path(tmp_path), mine)
    assert list(tmp_path.iterdir()) == []


def state(mesh):
    """1 MiB, halves of it on two devices each."""
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    return {"kernel": jax.ShapeDtypeStruct((2**18,), np.float32, sharding=sharding)}


@pytest.mark.parametrize(
    ("free", "memory", "told"),
    [
        (2**19, 2**30, r"--workdir = .*run: a checkpoint takes 1.00 MiB, and 512 KiB are free"),
        (2**30, 2**20, r"process 0 \(a\) has 1.00 MiB of memory free.* takes 2.00 MiB"),
        (2**20, 2**21, ""),
    ],
)
def test_there_is_room_for_the_checkpoints_of_a_state(tmp_path, monkeypatch, free, memory, told):
    usage = SimpleNamespace(total=2**40, free=free)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(preflight, "memory", lambda: float(memory))
    made = state(jax.make_mesh((2, 2), ("x", "y")))
    with pytest.raises(config.InputError, match=told) if told else contextlib.nullcontext():
        preflight.check_room(made, epath.Path(tmp_path / "run"), local="")


def test_a_host_has_room_for_the_parts_of_all_its_processes(monkeypatch, tmp_path):
    made, local = state(jax.make_mesh((2, 2), ("x", "y"))), str(tmp_path / "local" / "a")
    usage = mock.Mock(return_value=SimpleNamespace(total=2**40, free=2**21))
    monkeypatch.setattr(preflight.shutil, "disk_usage", usage)
    preflight.check_room(made, epath.Path("gs://bucket/run"), local)
    usage.assert_called_once_with(tmp_path)
    monkeypatch.setattr(preflight, "gathered", lambda what, own: [own] * 3)
    told = r"checkpoint.local = .*a: .* process 0 \(a\) has 2.00 MiB free .* takes 3.00 MiB"
    with pytest.raises(config.InputError, match=told):
        preflight.check_room(made, None, local)
    preflight.check_room(made, None, local, full=True)  # the oldest makes room
    usage.return_value = SimpleNamespace(total=0, free=0)  # a file system that does not say
    preflight.check_room(made, epath.Path(tmp_path), local)


def test_the_system_says_how_much_memory_there_is():
    assert 2**20 < preflight.memory() < 2**50
