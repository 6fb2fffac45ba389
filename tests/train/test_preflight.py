"""What is wrong with a host is named before anything is compiled."""

import pytest
from etils import epath

from bigmodel import config
from bigmodel.train import preflight

GOOD = {"host": "a", "devices": 4, "kind": "v5p", "memory": 2**34, "clock": 1000.0, "fault": ""}
GOOD["faulty"] = ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"devices": 3}, "one number of devices: 4 on most, 3 on process 1 (b)"),
        ({"kind": "v4"}, "one kind of device: v5p on most, v4 on process 1 (b)"),
        ({"faulty": "b, process 1, device 3 (v5p)"}, "device 3 (v5p): a fixed chain of products"),
        ({"clock": 1100.0}, "that of process 1 (b) is +100 s off"),
        ({"fault": "cannot write into the workdir x: full"}, "process 1 (b) cannot write into"),
    ],
)
def test_a_host_that_is_unlike_the_others_is_named(changed, words):
    hosts = [GOOD, {**GOOD, "host": "b", **changed}, {**GOOD, "host": "c"}]
    (found,) = preflight.refusals(hosts)
    assert words in found


def test_equal_hosts_are_fit():
    assert preflight.refusals([GOOD] * 3) == []


def test_little_memory_is_told_of_and_no_reason_to_stop(tmp_path):
    hosts = [GOOD, {**GOOD, "host": "b", "memory": 2**20}]
    told = preflight.warnings(hosts, is_local=False, folder=epath.Path(tmp_path))
    assert told == ["little memory is left on process 1 (b)"]


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(config.InputError, match=r"process 0 .* cannot write into the workdir"):
        preflight.check(epath.Path(tmp_path / "file" / "run"))


def test_nothing_is_left_of_a_look(tmp_path):
    assert preflight.check(epath.Path(tmp_path)) is not None
    assert list(tmp_path.iterdir()) == []
