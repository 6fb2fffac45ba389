"""Ids are those of `transformers`, and prompts begin as its do."""

import json

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import inputs, tokenizers
from tests.convert import foreign_tokenizers

PAGE = foreign_tokenizers.PAGE


@pytest.fixture
def written(tmp_path):
    """name -> the folder of a case, or a skipped test."""

    def write(name):
        if name in foreign_tokenizers.REAL and not foreign_tokenizers.ARCHIVE.exists():
            pytest.skip(f"needs {foreign_tokenizers.ARCHIVE} (BIGMODEL_DATA names another folder)")
        foreign_tokenizers.write(name, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", foreign_tokenizers.CASES)
def test_ids_of_a_page_of_all_scripts_are_those_of_transformers(name, written):
    tokenizer, wanted = tokenizers.load(str(written(name))), foreign_tokenizers.recorded()[name]
    assert tokenizer.encode(PAGE).tolist() == wanted["plain"]
    assert tokenizer.encode_many([PAGE])[0].tolist() == wanted["plain"]
    assert tokenizer.decode(wanted["plain"]) == wanted["text"]


@pytest.mark.parametrize("name", foreign_tokenizers.CASES)
def test_a_prompt_begins_as_the_folder_says(name, written):
    tokenizer, wanted = tokenizers.load(str(written(name))), foreign_tokenizers.recorded()[name]
    prompt, empty = inputs.prompt_ids([PAGE, ""], tokenizer, {"kind": "text"})
    ended = wanted["special"][-1:] == [tokenizer.eos]  # a text that goes on is not ended
    assert prompt.tolist() == wanted["special"][: -1 if ended else None]
    assert tokenizer.starts == (len(prompt) > len(wanted["plain"]))
    assert empty.tolist() == [tokenizer.bos]
    (pair,) = inputs.prompt_ids([PAGE], tokenizer, {"kind": "pairs"})
    assert pair.tolist() == [tokenizer.bos, *wanted["plain"]]
    (other,) = inputs.prompt_ids([PAGE], tokenizer, {"kind": "pairs"}, 0)
    assert other.tolist() == [0, *wanted["plain"]]


def test_a_tokenizer_of_no_folder_begins_with_bos_and_a_folder_changes_no_fingerprint(written):
    place = written("gpt2")
    foreign = tokenizers.load(str(place))
    (place / "tokenizer_config.json").unlink()
    own = tokenizers.load(str(place / "tokenizer.json"))
    assert (own.starts, foreign.starts) == (True, False)
    assert own.fingerprint == foreign.fingerprint
    assert tokenizers.load("bytes").starts


@pytest.mark.parametrize("text", ["{", "[]"])
def test_settings_that_are_none_are_refused_by_name(text, written):
    place = written("gpt2")
    (place / "tokenizer_config.json").write_text(text)
    with pytest.raises(config.InputError, match=r"tokenizer_config\.json: is no JSON"):
        tokenizers.load(str(place))


@pytest.mark.parity
@pytest.mark.parametrize("name", foreign_tokenizers.CASES)
def test_what_was_recorded_is_what_transformers_gives_today(name, written):
    pytest.importorskip("transformers")
    place = written(name)
    wanted = json.loads(json.dumps(foreign_tokenizers.record(name, place)))
    assert wanted == foreign_tokenizers.recorded()[name]


@pytest.mark.parity
@pytest.mark.parametrize("name", foreign_tokenizers.SMALL)
def test_texts_drawn_anew_have_the_ids_of_transformers(name, written):
    transformers = pytest.importorskip("transformers")
    place, draw = written(name), np.random.default_rng(0)
    ours, theirs = tokenizers.load(str(place)), transformers.AutoTokenizer.from_pretrained(place)
    for _ in range(50):
        text = "".join(draw.choice(list(PAGE), size=draw.integers(1, 60)))
        assert ours.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]
