"""Laws of tokenizers: text comes back, ids stay in range, streams are whole."""

import json

import hypothesis
import numpy as np
import pytest
import sentencepiece
from hypothesis import strategies as st

from bigmodel import config
from bigmodel.data import tokenizers, train_tokenizer
from tests.data.corpora import CHINESE, TEXTS

SPECIAL_LOOK = "<|endoftext|></s><s>"


@pytest.fixture(scope="module")
def lossless(tmp_path_factory):
    """name -> a tokenizer that gives any text back."""
    folder = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer.train(TEXTS, folder / "bpe.json", algorithm="bpe", size=400)
    train_tokenizer.train(TEXTS, folder / "unigram.json", algorithm="unigram", size=300)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CHINESE * 5 + TEXTS),
        model_prefix=str(folder / "sp"),
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    names = {"bpe": "bpe.json", "unigram": "unigram.json", "sentencepiece": "sp.model"}
    loaded = {name: tokenizers.load(str(folder / file)) for name, file in names.items()}
    return {"bytes": tokenizers.load("bytes"), **loaded}


KINDS = ("bytes", "bpe", "unigram", "sentencepiece")

# SentencePiece writes U+2581 for a space, so text that holds it does not come back.
texts = st.text(max_size=80).map(lambda text: text.replace("\u2581", "_").replace("\0", ""))


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(text=texts | st.sampled_from([*TEXTS, SPECIAL_LOOK, ""]))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_text_comes_back(lossless, kind, text):
    tokenizer = lossless[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert not len(ids) or (ids.min() >= 0 and ids.max() < tokenizer.size)
    assert tokenizer.eos not in ids, "text that looks like a special token is text"


@pytest.mark.parametrize("kind", KINDS)
def test_many_are_encoded_as_one_by_one(lossless, kind):
    many = lossless[kind].encode_many(TEXTS)
    for ids, text in zip(many, TEXTS, strict=True):
        np.testing.assert_array_equal(ids, lossless[kind].encode(text))


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(data=st.data())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_stream_gives_the_text_of_any_ids_and_never_half_a_character(lossless, kind, data):
    tokenizer = lossless[kind]
    some_text = data.draw(st.sampled_from(TEXTS) | texts)
    ids = tokenizer.encode(some_text).tolist()
    stream = tokenizers.Stream(tokenizer.decode)
    pieces = [stream.push(i) for i in ids]
    if "\ufffd" not in some_text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(numbers=st.lists(st.integers(0, 1000), max_size=30))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_stream_gives_the_text_of_ids_that_make_no_sense(lossless, kind, numbers):
    tokenizer = lossless[kind]
    ids = [number % tokenizer.size for number in numbers]
    stream = tokenizers.Stream(tokenizer.decode)
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


@hypothesis.given(st.lists(st.integers(0, 256), max_size=30))
def test_bytes_that_are_not_utf8_are_replaced(ids):
    expected = bytes(i for i in ids if i < 256).decode("utf-8", "replace")
    assert tokenizers.load("bytes").decode(ids) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_special_ids_decode_to_nothing_even_within_a_stream(lossless, kind):
    tokenizer = lossless[kind]
    whole = tokenizer.encode("one two three").tolist()
    for cut in range(len(whole)):
        ids = [*whole[:cut], tokenizer.eos, *whole[cut:]]
        assert tokenizer.decode(ids) == "one two three"
        stream = tokenizers.Stream(tokenizer.decode)
        assert "".join([*map(stream.push, ids), stream.finish()]) == "one two three"


def test_bytes_are_the_ids_of_the_default():
    tokenizer = tokenizers.load("bytes")
    assert (tokenizer.size, tokenizer.eos, tokenizer.bos) == (257, 256, 256)
    np.testing.assert_array_equal(tokenizer.encode("é中"), list("é中".encode()))


@pytest.mark.parametrize(
    ("algorithm", "size"), [("bpe", 300), ("unigram", 300), ("wordpiece", 260)]
)
def test_training_twice_gives_the_same_file(tmp_path, algorithm, size):
    files = []
    for name in ("a.json", "b.json"):
        train_tokenizer.train(TEXTS, tmp_path / name, algorithm=algorithm, size=size)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert len(list(tmp_path.iterdir())) == 2, "nothing else is left there"
    tokenizer = tokenizers.load(str(tmp_path / "a.json"))
    assert tokenizer.size <= size
    assert isinstance(tokenizer, tokenizers.Json)
    assert tokenizer.library.id_to_token(tokenizer.eos) == train_tokenizer.EOS


def test_a_wordpiece_knows_words_and_their_endings(tmp_path):
    train_tokenizer.train(TEXTS, tmp_path / "t.json", algorithm="wordpiece", size=260)
    tokenizer = tokenizers.load(str(tmp_path / "t.json"))
    assert tokenizer.decode(tokenizer.encode("text 12 你好")) == "text 12 你好"
    kept = json.loads((tmp_path / "t.json").read_text())["added_tokens"]
    assert [token["content"] for token in kept if "##" in token["content"]] == []


def test_a_hugging_face_folder_names_its_own_end(tmp_path, lossless):
    made = json.loads(lossless["bpe"].library.to_str())
    first = {**made["added_tokens"][0], "id": 400, "content": "<my_end>"}
    made["added_tokens"].append(first)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<my_end>"}}')
    tokenizer = tokenizers.load(str(tmp_path))
    assert (tokenizer.eos, tokenizer.size) == (400, 401)
    assert tokenizer.fingerprint != lossless["bpe"].fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("byte", None, 'no such file.*Did you mean "bytes"'),
        ("t.txt", "hello", "must end in .json or .model"),
        ("t.json", "{}", "is no tokenizer.json"),
        ("t.model", "hello", "is no SentencePiece model"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
        name = str(tmp_path / name)
    with pytest.raises(config.InputError, match=message) as caught:
        tokenizers.load(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "size", "message"),
    [("bpee", 300, '"bpe"'), ("bpe", 256, "257"), ("wordpiece", 20, "WordPiece needs at least")],
)
def test_a_vocabulary_that_cannot_be_is_refused(tmp_path, algorithm, size, message):
    with pytest.raises(config.InputError, match=message):
        train_tokenizer.train(TEXTS, tmp_path / "t.json", algorithm=algorithm, size=size)
    assert not list(tmp_path.glob("t.json*"))
