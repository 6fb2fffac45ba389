"""Laws of what a model reads besides prompts."""

import re

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import inputs, tokenizers

BYTES = tokenizers.load("bytes")
READS = {"tokens": None, "source": None}


def test_a_file_is_a_text_a_line_and_anything_else_is_a_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\n\nzwei Wörter\r\n".encode())
    assert inputs.parse(f"source={path}") == ("source", ["one", "", "zwei Wörter"])
    path.write_text("last")
    assert inputs.parse(f"source={path}") == ("source", ["last"])
    assert inputs.parse("source=a/b = c.d") == ("source", ["a/b = c.d"])
    assert inputs.parse("source=word") == ("source", ["word"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("source", "wants NAME=FILE or NAME=TEXT"),
        ("source=", "wants NAME=FILE or NAME=TEXT"),
        ("=x", "wants NAME=FILE or NAME=TEXT"),
        ("source=missing.txt", "no such file"),
        ("source=FOLDER/lin.txt", 'no such file. Did you mean "FOLDER/line.txt"'),
        ("source=FOLDER/line.txt", "the file is empty"),
        ("source=FOLDER/latin.txt", "is no UTF-8 text"),
    ],
)
def test_what_is_no_input_is_refused(tmp_path, given, named):
    (tmp_path / "line.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    with pytest.raises(config.InputError) as refused:
        inputs.parse(given.replace("FOLDER", str(tmp_path)))
    assert named.replace("FOLDER", str(tmp_path)) in str(refused.value)


def test_sources_end_with_their_token_and_are_padded_behind_it():
    found = inputs.arrays({"source": ["ab", "", "x" * 20]}, READS, BYTES, {})
    assert found["source"].shape == (3, 32)
    assert found["source"][0, :4].tolist() == [97, 98, BYTES.eos, 0]
    assert found["source_segments"].sum(1).tolist() == [3, 1, 21]
    assert (found["source"][found["source_segments"] == 0] == 0).all()
    assert found["source"].dtype == np.int32


@pytest.mark.parametrize(
    ("given", "example", "named"),
    [
        ({}, READS, "this model reads a source besides prompts"),
        ({"sorce": ["x"]}, READS, 'takes source. Did you mean "source"'),
        ({"source": ["x"]}, {"tokens": None}, "takes none: it reads prompts alone"),
    ],
)
def test_a_model_takes_the_inputs_that_it_reads(given, example, named):
    with pytest.raises(config.InputError, match=re.escape(named)):
        inputs.arrays(given, example, BYTES, {})
