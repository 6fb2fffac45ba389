"""Children that do as they are told instead of compiling, and a cache of each test's own."""

import stat

import pytest

from bigmodel.plan import compiling


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pretend(tmp_path, monkeypatch, own_cache):
    """Runs a shell script in the child's place; $F is its folder."""
    monkeypatch.setattr(compiling, "check_installed", lambda topology: None)

    def use(script):
        path = tmp_path / "child"
        path.write_text(f"#!/bin/sh\nF=$3\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(compiling.sys, "executable", str(path))

    return use
