"""Corpora for the data room's tests: small, and nothing outside the test's own folder."""

import json

import hypothesis
import pytest

from tests import buckets
from tests.data.corpora import TEXTS

# Machines are slow when many tests run on them at once.
hypothesis.settings.register_profile("data", deadline=None, max_examples=40)
hypothesis.settings.load_profile("data")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def corpus(tmp_path):
    """A folder of JSON lines with TEXTS in three files; "jsonl:FOLDER" reads it."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        lines = [json.dumps({"text": text}) for text in TEXTS[number::3]]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def bucket(monkeypatch):
    """The name of an empty remote folder."""
    return buckets.make("s3", monkeypatch)
