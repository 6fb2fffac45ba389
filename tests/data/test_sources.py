"""Sources: what is found and read, and the words for what is not there."""

import collections
import gzip
import itertools
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from etils import epath

from bigmodel import config
from bigmodel.data import files, sources
from tests.data.corpora import TEXTS


def documents(name, split="all", **options):
    found = sources.find(name, split, **options)
    return [text for part in found.parts for _, text in found.read(part)]


def compressed(ending, raw):
    if ending == ".gz":
        return gzip.compress(raw)
    return zstandard.ZstdCompressor().compress(raw) if ending == ".zst" else raw


def write(path, kind, texts, ending):
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), "text": texts}), path)
        raw = path.read_bytes()
    elif kind == "jsonl":
        raw = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    else:
        raw = texts[0].encode()
    path.with_name(path.name + ending).write_bytes(compressed(ending, raw))
    if ending:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_files_are_read_one_by_one_by_pattern_and_by_folder(tmp_path, kind, ending):
    suffix = {"text": "txt"}.get(kind, kind)
    groups = [TEXTS[:1], TEXTS[1:2]] if kind == "text" else [TEXTS[:5], TEXTS[5:]]
    (tmp_path / "deep").mkdir()
    write(tmp_path / f"a.{suffix}", kind, groups[0], ending)
    write(tmp_path / "deep" / f"b.{suffix}", kind, groups[1], ending)
    (tmp_path / "notes.md").write_text("not read")
    every = groups[0] + groups[1]
    assert documents(f"{kind}:{tmp_path}") == every
    assert documents(f"{kind}:{tmp_path}/**/*.{suffix}{ending}") == every
    assert documents(f"{kind}:{tmp_path}/a.{suffix}{ending}") == groups[0]


def test_a_large_file_is_cut_between_lines(tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", "jsonl", TEXTS, "")
    whole = documents(f"jsonl:{tmp_path}")
    for size in (1, 7, 100, 1000):
        monkeypatch.setattr(files, "PART_BYTES", size)
        monkeypatch.setattr(files, "MOST_PARTS", 10**9)
        found = sources.find(f"jsonl:{tmp_path}", "all")
        assert len(found.parts) > 1
        assert documents(f"jsonl:{tmp_path}") == whole == TEXTS


def test_the_splits_of_local_files_hold_each_document_once(tmp_path):
    texts = [f"document {i}" for i in range(3000)]
    write(tmp_path / "a.jsonl", "jsonl", texts, "")
    held = {}
    for split in ("train", "validation", "test"):
        found = sources.find(f"jsonl:{tmp_path}", split)
        read = (document for part in found.parts for document in found.read(part))
        held[split] = [text for text, _, _ in sources.texts(read, found.split, "NFC")]
    assert collections.Counter(itertools.chain(*held.values())) == collections.Counter(texts)
    assert len(held["train"]) == pytest.approx(0.98 * 3000, abs=30)
    assert min(len(held["validation"]), len(held["test"])) > 10


def test_equal_texts_are_in_one_split_however_they_are_composed():
    composed = [("a", "é 1"), ("b", "e\u0301 1")]
    assert len({digest for _, _, digest in sources.texts(composed, "all", "NFC")}) == 1
    assert len({digest for _, _, digest in sources.texts(composed, "all", "none")}) == 2


def test_half_of_a_surrogate_pair_does_no_harm():
    [(text, size, _)] = sources.texts([("a", "x\ud83dy")], "all", "NFC")
    assert (text, size) == ("x?y", 3)


def test_a_users_function_is_a_source():
    def mine():
        yield "one"
        yield {"text": "two", "name": "b"}

    assert documents("mine", extensions={"mine": mine}) == ["one", "two"]
    before = sources.find("mine", "all", extensions={"mine": mine}).fingerprint
    mine.fingerprint = "second edition"  # type: ignore[attr-defined]
    assert sources.find("mine", "all", extensions={"mine": mine}).fingerprint != before


def test_a_users_function_that_gives_something_else_is_refused():
    with pytest.raises(config.InputError, match='"mine": document 1 has no text; it gave int'):
        documents("mine", extensions={"mine": lambda: ["one", 2]})


def test_a_changed_file_changes_the_fingerprint(corpus):
    def fingerprint():
        return sources.find(f"jsonl:{corpus}", "all").fingerprint

    before = fingerprint()
    assert fingerprint() == before
    path = corpus / "1.jsonl"
    os.utime(path, ns=(1, 1))
    assert fingerprint() != before
    os.rename(path, corpus / "9.jsonl")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python_stdlb", 'allowed are python_stdlib, .*Did you mean "python_stdlib"'),
        ("jsnl:x", 'Did you mean "jsonl"'),
        ("text:", "is unknown"),
        ("jsonl:{folder}/nothing", "no file or folder there"),
        ("jsonl:{folder}/3.jsonl", 'Did you mean "[0-2].jsonl"'),
        ("parquet:{folder}", r"no .parquet files"),
        ("text:{folder}/*.txt", "no .txt files"),
        ("text:s3://{folder}/**/*.txt", "name the folder"),
    ],
)
def test_a_missing_source_is_an_error_that_names_it(corpus, bucket, name, message):
    name = name.format(folder=corpus)
    with pytest.raises(config.InputError, match=message) as caught:
        sources.find(name, "all")
    assert name.partition(":")[2] in str(caught.value)


def test_an_unknown_split_is_refused_with_the_nearest(corpus):
    with pytest.raises(config.InputError, match=r'"valid" is unknown.*Did you mean "validation"'):
        sources.find(f"jsonl:{corpus}", "valid")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"txt": "a"}', 'no text in "text"; it has txt. Did you mean "txt"'),
        ('{"text": 3}', 'no text in "text"'),
        ("hello", "is not JSON"),
    ],
)
def test_a_bad_line_is_named_by_file_and_place(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(config.InputError, match=message) as caught:
        documents(f"jsonl:{tmp_path}")
    assert f"{tmp_path}/a.jsonl: the line at byte 17" in str(caught.value)


def test_a_parquet_file_without_the_field_names_its_columns(tmp_path):
    write(tmp_path / "a.parquet", "parquet", TEXTS, "")
    with pytest.raises(config.InputError, match=r'no text in "texts"; it has id, text. Did you'):
        documents(f"parquet:{tmp_path}", field="texts")
    with pytest.raises(config.InputError, match='"id" holds no text'):
        documents(f"parquet:{tmp_path}", field="id")


def test_a_file_that_is_gone_when_it_is_read_is_named(corpus):
    found = sources.find(f"jsonl:{corpus}", "all")
    (corpus / "1.jsonl").unlink()
    with pytest.raises(config.InputError, match=r"1\.jsonl: the file was listed and is gone"):
        list(found.read(found.parts[0]))


def test_remote_files_are_found_read_and_known_by_content(bucket):
    folder = epath.Path(bucket) / "corpus"
    folder.mkdir(parents=True)
    for name, text in (("a.txt", "one"), ("b.txt.gz", "two")):
        (folder / name).write_bytes(compressed(os.path.splitext(name)[1], text.encode()))
    assert documents(f"text:{folder}") == ["one", "two"]
    assert documents(f"text:{folder}/*.txt") == ["one"]
    before = sources.find(f"text:{folder}", "all").fingerprint
    (folder / "a.txt").write_text("six")
    assert sources.find(f"text:{folder}", "all").fingerprint != before
