"""TFDS: the embedded corpus and any other data set, without TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bigmodel import config
from bigmodel.data import python_stdlib, sources, tfds_source


class TinyTalks(tfds.core.GeneratorBasedBuilder):
    """A data set with two configs and a feature that is not text."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=n, version="1.0.0") for n in ("en", "zh")]  # noqa: RUF012
    url_infos: dict = {}  # noqa: RUF012

    def _info(self):
        features = {"text": tfds.features.Text(), "length": tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({**features, "title": features["text"]}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "validation": self._generate_examples(5)}

    def _generate_examples(self, count):
        for i in range(count):
            text = f"{self.builder_config.name} 你好 {i}"
            yield i, {"text": text, "length": len(text), "title": f"title {i}"}


@pytest.fixture
def talks(tmp_path, monkeypatch):
    """TFDS_DATA_DIR with "tiny_talks" in it, prepared as ArrayRecord."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for name in ("en", "zh"):
        builder = TinyTalks(config=name, data_dir=str(tmp_path / "tfds"))
        tfds_source._prepare(builder, "tiny_talks", sys.stderr)
    return tmp_path / "tfds"


def documents(name, split, **options):
    found = sources.find(name, split, **options)
    return sorted(text for part in found.parts for _, text in found.read(part))


def test_any_data_set_with_text_is_a_source(talks):
    train = sorted(f"zh 你好 {i}" for i in range(20))
    assert documents("tfds:tiny_talks/zh", "train") == train
    assert len(documents("tfds:tiny_talks/en", "validation")) == 5
    assert len(documents("tfds:tiny_talks/en", "all")) == 25
    assert len(documents("tfds:tiny_talks/en", "train[:25%]")) == 5
    assert documents("tfds:tiny_talks/en", "validation", field="title")[0] == "title 0"


def test_it_is_cut_into_parts_that_hold_each_example_once(talks, monkeypatch):
    whole = documents("tfds:tiny_talks/zh", "train")
    monkeypatch.setattr(tfds_source, "PART_BYTES", 100)
    monkeypatch.setattr(tfds_source, "MOST_PARTS", 10**9)
    assert len(sources.find("tfds:tiny_talks/zh", "train").parts) > 3
    assert documents("tfds:tiny_talks/zh", "train") == whole


@pytest.mark.parametrize(
    ("name", "split", "options", "message"),
    [
        ("tfds:lm1bb", "train", {}, 'knows no such data set.*Did you mean "lm1b"'),
        ("tfds:tiny_talks/fr", "train", {}, "tiny_talks/fr"),
        ("tfds:tiny_talks/en", "trian", {}, 'allowed are train, validation, .*mean "train"'),
        ("tfds:tiny_talks/en", "test[:5]", {}, '"test.*allowed are train, validation'),
        (
            "tfds:tiny_talks/en",
            "train",
            {"field": "txt"},
            'allowed are .*text.* Did you mean "text"',
        ),
        ("tfds:tiny_talks/en", "train", {"field": "length"}, 'no text feature "length"'),
    ],
)
def test_what_is_not_there_is_named_with_what_is(talks, name, split, options, message):
    with pytest.raises(config.InputError, match=message):
        sources.find(name, split, **options)


def test_tfrecord_is_refused_with_the_line_that_converts_it(talks):
    info = talks / "tiny_talks" / "en" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(config.InputError) as caught:
        sources.find("tfds:tiny_talks/en", "train")
    assert "is stored as tfrecord" in str(caught.value)
    assert "tensorflow_datasets.scripts.convert_format" in str(caught.value)
    assert f"--dataset_version_dir={info.parent}" in str(caught.value)


def test_a_data_set_that_was_prepared_anew_has_another_fingerprint(talks):
    before = sources.find("tfds:tiny_talks/en", "train").fingerprint
    info = talks / "tiny_talks" / "en" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"20"', '"19"'))
    assert sources.find("tfds:tiny_talks/en", "train").fingerprint != before


def test_the_splits_of_the_embedded_corpus_are_sensible():
    """Names alone: sizes differ between Python versions, the split of a name does not."""
    held: dict[str, list[str]] = {split: [] for split in ("train", "validation", "test")}
    for name, _ in python_stdlib.files():
        assert not name.startswith("test/")
        assert "site-packages" not in name
        held[python_stdlib.split_of(name)].append(name)
    assert 400 < len(held["train"]) < 1000
    assert 15 < len(held["validation"]) < 80
    assert 15 < len(held["test"]) < 80
    assert python_stdlib.split_of("argparse.py") == "test"


PREPARE_AND_READ = """
import sys
from bigmodel.data import text
rows = text.open_rows(
    "python_stdlib", split="validation", tokenizer="bytes", length=128, packing="concat"
)
assert "tensorflow_datasets" in sys.modules or sys.argv[1] == "warm cache"
assert "tensorflow_datasets" not in sys.modules or sys.argv[1] != "warm cache"
from bigmodel.data import pipeline
batch = pipeline.Batches(rows, 4).host(0)
assert "grain" in sys.modules
for module in ("tensorflow", "torch"):
    assert not any(name.partition(".")[0] == module for name in sys.modules), module
print(rows.fingerprint, rows.documents, rows.tokenizer.decode(batch["targets"][0])[:20])
"""


def test_the_embedded_corpus_is_prepared_and_read_without_tensorflow(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "tfds")}
    answers = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PREPARE_AND_READ, state],
            env={**environment, "BIGMODEL_CACHE": str(tmp_path / state.removeprefix("warm "))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for state in ("cache", "warm cache")
    ]
    assert len(set(answers)) == 1, "another cache of the same data is equal; stdout has no more"
