"""Laws of preparation by Apache Beam: the cache is that of this machine's processes."""

import json

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import beam, cache, files, text


def corpus(folder, files=3, documents=40):
    for number in range(files):
        lines = [
            json.dumps({"text": f"document {k % 30} of file {number % 2} " * 12})
            for k in range(documents)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{folder}/*.jsonl"


def long(text):
    return "document 7 " not in text


def opened(source, place, **fields):
    return text.open_rows(source, split="all", length=32, cache_dir=str(place), **fields)


def prepared(runner, *args, **fields):
    before = cache.ELSEWHERE.set(runner)
    try:
        return opened(*args, **fields)
    finally:
        cache.ELSEWHERE.reset(before)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 1000)


def written(rows):
    return {path.name: path.read_bytes() for path in rows.cache.folder.iterdir()}


@pytest.mark.parametrize("between", ["", "between"])
def test_a_cache_by_beam_is_the_cache_without_it_byte_for_byte(tmp_path, between):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    source = corpus(tmp_path)
    cleaning = dict(near_duplicates=0.9, filters=("long",), own_filters={"long": long})
    plain = opened(source, tmp_path / "plain", **cleaning)
    place = str(tmp_path / between) if between else ""
    run = beam.Runner("DirectRunner", place=place).run
    by_beam = prepared(run, source, tmp_path / "beam", **cleaning)
    assert written(by_beam) == written(plain)
    assert by_beam.cache.filtered == {"long": 6}
    np.testing.assert_array_equal(by_beam[0]["tokens"], plain[0]["tokens"])
    assert not between or not list((tmp_path / between).iterdir())


def test_what_prepares_elsewhere_is_asked_for_every_part(tmp_path):
    """With what stands in for a runner, so that it holds where Beam is not installed."""
    source, asked = corpus(tmp_path), []

    def run(parts, preparation, folder, done):
        asked.extend(range(len(parts)))
        for numbered in reversed(list(enumerate(parts))):
            beam.Task(preparation.packed(), str(tmp_path / "between"))(numbered)
        runner = beam.Runner("any", place=str(tmp_path))
        return list(runner.fetched(beam.epath.Path(tmp_path / "between"), folder, len(parts), done))

    (tmp_path / "between").mkdir()
    elsewhere = prepared(run, source, tmp_path / "elsewhere")
    assert asked == list(range(len(asked)))
    assert len(asked) > 3
    assert written(elsewhere) == written(opened(source, tmp_path / "here"))
    assert not (tmp_path / "between").exists()


def test_a_function_is_no_matter_of_a_runner(tmp_path):
    with pytest.raises(config.InputError, match="which this process alone can read"):
        prepared(lambda *_: [], "mine", tmp_path, extensions={"mine": lambda: iter(["text"])})
