"""Laws of files of sound that a model is asked about: heard as rows of data are."""

import re

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import inputs, speech, tokenizers
from tests.data.tones import RATE, folder_of, tone, write

BYTES = tokenizers.load("bytes")
FIELDS = dict(frames=40, mels=20, rate=RATE)


@pytest.fixture
def manifest(tmp_path):
    return folder_of(tmp_path, "rows.jsonl")


READS = {"tokens": None, "audio": None}


@pytest.mark.parametrize("pad", ["mask", "silence"])
def test_a_file_is_heard_as_a_row_of_it_is(manifest, pad):
    data = {**FIELDS, "pad": pad, "too_long": "refuse"}
    (manifest.parent / "many.txt").write_text("0.wav\n2.wav\n")
    name, paths = inputs.parse(f"audio={manifest.parent}/many.txt")
    assert (name, len(paths)) == ("audio", 2)
    found = inputs.arrays({name: paths}, READS, BYTES, data)
    rows = speech.open_rows(f"audio:{manifest}", split="all", length=12, pad=pad, **FIELDS)
    row = rows.take(np.array([0, 2]))
    assert sorted(found) == ["audio", "audio_segments"]
    for name in found:
        np.testing.assert_array_equal(found[name], row[name])
    one = inputs.parse(f"audio={manifest.parent}/1.wav")
    assert one == ("audio", [f"{manifest.parent}/1.wav"])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("audio=FOLDER/9.wav", "no such file"),
        ("audio=some words", "no such file"),
        ("audio=FOLDER/rows.jsonl", "its name ends in none of .wav, .flac"),
        ("audio=FOLDER/none.txt", "the file is empty"),
        ("audio=FOLDER/more.txt", "9.wav: cannot be heard: there is no such file"),
        ("audio=FOLDER/long.wav", "0.41 seconds; this model hears 0.40 at a time"),
        ("audio=FOLDER/cut.wav", "cut.wav: cannot be heard: it is cut off"),
    ],
)
def test_a_file_that_cannot_be_heard_is_refused_by_its_name(manifest, given, named):
    folder = manifest.parent
    (folder / "none.txt").write_text("")
    (folder / "more.txt").write_text("0.wav\n9.wav\n")
    write(folder / "long.wav", np.tile(tone(0), 3)[:3320])
    (folder / "cut.wav").write_bytes((folder / "0.wav").read_bytes()[:500])
    data = {**FIELDS, "pad": "mask", "too_long": "refuse"}
    with pytest.raises(config.InputError, match=re.escape(named)):
        inputs.arrays(
            dict([inputs.parse(given.replace("FOLDER", str(folder)))]), READS, BYTES, data
        )
