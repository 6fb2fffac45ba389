"""Tokenizers of our own runs, as Hugging Face folders have them."""

import json

import numpy as np
import pytest

from bigmodel.data import tokenizer_files, tokenizers
from tests.convert import foreign_tokenizers

TEXT = foreign_tokenizers.PAGE


def bytes_(folder):
    return tokenizers.load("bytes")


def no_settings(folder):
    """A file alone, of which nothing says that anything is added."""
    library = foreign_tokenizers.byte_level()
    library.add_special_tokens(["<s>", "</s>"])
    library.save(str(folder / "own.json"))
    return tokenizers.load(str(folder / "own.json"))


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("make", [bytes_, no_settings])
def test_a_written_tokenizer_gives_the_ids_that_it_had(make, begins, tmp_path):
    ours = make(tmp_path)
    written = write(ours, tmp_path / "folder", begins=begins)
    again = tokenizers.load(str(written))
    assert (again.size, again.bos, again.eos) == (ours.size, ours.bos, ours.eos)
    assert again.starts is begins
    np.testing.assert_array_equal(again.encode(TEXT), ours.encode(TEXT))
    assert again.decode([*again.encode(TEXT), again.eos]) == TEXT
    assert json.loads((written / "tokenizer_config.json").read_text())["eos_token"]


def write(tokenizer, folder, **how):
    folder.mkdir()
    for name, content in tokenizer_files.files(tokenizer, **how).items():
        (folder / name).write_bytes(content)
    return folder


def test_every_byte_is_its_own_id(tmp_path):
    again = tokenizers.load(str(write(tokenizers.load("bytes"), tmp_path / "f", begins=True)))
    signs = [*range(0x800), 0x20AC, 0xFFFD, 0x1F600, 0x10FFFF]  # all that may stand in UTF-8
    text = "".join(map(chr, signs))
    np.testing.assert_array_equal(again.encode(text), list(text.encode()))


@pytest.mark.parity
@pytest.mark.parametrize("make", [bytes_, no_settings])
def test_transformers_reads_what_was_written(make, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(write(ours, tmp_path / "f", begins=True))
    assert theirs(TEXT)["input_ids"] == [ours.bos, *ours.encode(TEXT)]
    assert theirs.decode(ours.encode(TEXT)) == TEXT
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos, ours.eos)
