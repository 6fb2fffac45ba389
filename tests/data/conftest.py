"""Corpora for the data room's tests: small, and nothing outside the test's own folder."""

import json

import fsspec
import hypothesis
import pytest
from fsspec.implementations.memory import MemoryFileSystem

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


class Bucket(MemoryFileSystem):
    """Objects in memory under s3://, with no times and no rename, as an object store has them."""

    protocol = "s3"
    store: dict = {}  # noqa: RUF012  (the class is the bucket)
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("s3://").strip("/")

    def glob(self, path, **options):
        return [found.lstrip("/") for found in super().glob(path, **options)]

    def mv(self, *args, **options):
        raise NotImplementedError("an object store has no rename")


@pytest.fixture
def bucket(monkeypatch):
    """The name of an empty remote folder."""
    fsspec.register_implementation("s3", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    return "s3://bucket"
