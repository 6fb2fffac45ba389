"""Faults in jobs of real processes: the culprit is named in a minute, and the job comes back.

What can be survived ends in the bits of the job that nothing happened to.
"""

import pytest

from tests import tables
from tests.faults import jobs

# fmt: off
SURVIVED = {  # name: (what happens, words that name the culprit)
    "killed":        ({"what": "killed"}, ("host 1", "SIGKILL")),
    "first-killed":  ({"what": "killed", "process": 0}, ("host 0", "SIGKILL")),
    "crashed":       ({"what": "crashed"}, ("host 1", "SIGSEGV")),
    "frozen":        ({"what": "frozen"}, ("process 1", "silent")),
    "first-frozen":  ({"what": "frozen", "process": 0}, ("process 0", "does not answer")),
    "broken":        ({"what": "broken"}, ("host 1", "the wheel came off")),
    "first-broken":  ({"what": "broken", "process": 0}, ("host 0", "the wheel came off")),
    "exhausted":     ({"what": "exhausted"}, ("host 1", "MemoryError")),
    "unreadable":    ({"what": "unreadable"}, ("host 1", "tokens.npy")),
    "full":          ({"what": "full"}, ("host 1", "File too large")),
    "terminated":    ({"what": "terminated"}, ("asked to stop", "is saved")),
    "no-device":     ({"what": "no-device"}, ("host 1", "absent")),
    "late":          ({"what": "late"}, ("missing 1",)),
    "first-late":    ({"what": "late", "process": 0}, ("process 1", "no process 0")),
}
REFUSED = {
    "clock":         ({"what": "clock"}, ("clock", "process 1", "off")),
    "versions":      ({"what": "versions"}, ("jax's version", "0.0.1 on process 1")),
    "overridden":    ({"what": "overridden"}, ("config.schedule.peak", "0.5 on process 1")),
    "unmounted":     ({"what": "unmounted"}, ("text.jsonl", "not there", "process 1")),
    "no-disk":       ({"what": "no-disk", "process": 0}, ("--workdir", "1.00 KiB are free")),
    "no-tokenizer":  ({"what": "no-tokenizer"}, ("data.tokenizer", "no such file")),
    "unagreed":      ({"what": "unagreed"}, ("no place on this host",)),
    "no-memory":     ({"what": "no-memory"}, ("process 1", "1.00 KiB of memory")),
    "elsewhere":     ({"what": "elsewhere"}, ("one folder for all hosts", "process 1")),
}
# fmt: on
# One of each class; the rest by `make test-faults`.
ALWAYS = ("killed", "frozen", "versions", "late")


@pytest.mark.parametrize("name", tables.rows(SURVIVED, ALWAYS, pytest.mark.faults))
def test_a_job_names_who_failed_and_goes_on(folder, name):
    fault, words = SURVIVED[name]
    found = jobs.run(folder, name, **fault)
    assert found.status == 0, found.told
    assert all(word in found.told[0] for word in words), found.told
    assert found.seconds is not None
    assert found.seconds < 60
    jobs.assert_same(folder / name, folder / "undisturbed")


@pytest.mark.faults
@pytest.mark.parametrize("hosts", [4, 8])
def test_one_of_many_hosts_is_killed(folder, hosts):
    flags = (f"--config.mesh.fsdp={hosts}", "--config.watch.silent_seconds=20")
    one, many = f"one instead of {hosts}", f"{hosts} hosts"
    assert jobs.run(folder, one, *flags, hosts=1, devices=hosts).status == 0
    last = hosts - 1
    found = jobs.run(folder, many, *flags, what="killed", process=last, hosts=hosts, devices=hosts)
    assert found.status == 0, found.told
    assert f"host {last}" in found.told[0], found.told
    assert "SIGKILL" in found.told[0]
    assert found.seconds < 60
    jobs.assert_same(folder / many, folder / one)


@pytest.mark.parametrize("name", tables.rows(REFUSED, ALWAYS, pytest.mark.faults))
def test_a_job_that_cannot_be_right_is_refused_and_not_started_again(folder, name):
    fault, words = REFUSED[name]
    found = jobs.run(folder, name, **fault)
    assert found.status == 2, found.told
    assert len(found.told) == 1
    assert all(word in found.told[0] for word in words), found.told
    assert found.seconds < 60
