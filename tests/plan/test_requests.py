"""What is kept of an answer, and by what."""

import pytest

from bigmodel.plan import compiling, requests
from tests.plan import children


def test_an_answer_is_kept_and_taken(pretend, tmp_path):
    pretend(children.WRITTEN)
    first = compiling.compile_one(children.request("v5e:2x4"))
    pretend("exit 1")
    assert compiling.compile_one(children.request("v5e:2x4")) == first
    for other in (children.request("v5e:4x4"), children.request("v5e:2x4", {"batch": 16})):
        with pytest.raises(compiling.CompileError):
            compiling.compile_one(other)
    with pytest.raises(compiling.CompileError):
        compiling.compile_one(children.request("v5e:2x4"), cached=False)


def test_a_damaged_answer_is_made_anew(pretend):
    one = children.request("v5e:2x4")
    path = requests.place(one)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no gzip")
    pretend(children.WRITTEN)
    assert compiling.compile_one(one) == requests.load(one)


def test_a_cache_that_cannot_be_written_is_none(pretend, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "file"))
    pretend(children.WRITTEN)
    assert compiling.compile_one(children.request("v5e:2x4")).program


def test_a_key_holds_all_that_the_answer_depends_on(monkeypatch):
    first = children.request("v5e:2x4")
    others = [
        children.request("v5e:2x4", {"batch": 16}),
        children.request("v5e:4x4"),
        children.request("v5e:2x4", slices=2),
        children.request("v5e:2x4", task="evaluate"),
        children.request("v5e:2x4", full=True),
        children.request("v5e:2x4", prompt=64),
    ]
    keys = {one.key for one in (first, *others)}
    assert len(keys) == len(others) + 1
    assert children.request("v5e:2x4").key == first.key
    monkeypatch.setattr(requests, "version", lambda package: f"{package} 99")
    assert children.request("v5e:2x4").key not in keys
