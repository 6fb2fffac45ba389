"""Laws of labelled tokens: a word's class stands at its first token, and nowhere else."""

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import kinds, labelled_tokens

TEXT = """-DOCSTART- -X- O

Ada NNP PER
met VBD O
Alan NNP PER

in IN O
London NNP LOC
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "words.conll"
    path.write_text(TEXT)
    return f"conll:{path}"


def rows(source, **fields):
    return labelled_tokens.open_rows(source, **{**dict(split="all", length=20), **fields})


def everything(opened):
    return opened.take(np.arange(len(opened)))


def test_a_word_is_told_at_its_first_token(source):
    opened = rows(source)
    assert opened.classes == ("LOC", "O", "PER")
    batch = everything(opened)
    sentence = [256, *b"Ada met Alan", 256]
    np.testing.assert_array_equal(batch["tokens"][0], sentence + [0] * 6)
    told = np.flatnonzero(batch["weights"][0])
    np.testing.assert_array_equal(told, [1, 4, 8])  # a word has the space before it
    np.testing.assert_array_equal(batch["targets"][0][told], [2, 1, 2])
    assert (batch["targets"] * (batch["weights"] == 0) == 0).all()
    np.testing.assert_array_equal(batch["segments"].sum(1), [14, 11])
    assert "2 sentences, classes of words LOC 1, O 2, PER 2" in opened.describe()


def test_arrays_are_as_the_kind_says(source):
    found = {k: (v.shape[1:], str(v.dtype)) for k, v in everything(rows(source)).items()}
    assert found == kinds.SHAPES["labelled_tokens"](dict(length=20))


def test_a_users_function_gives_the_same_sentences(source):
    wanted = everything(rows(source))
    sentences = [
        dict(words=["Ada", "met", "Alan"], labels=["PER", "O", "PER"]),
        dict(words=("in", "London"), labels=("O", "LOC")),
    ]
    found = everything(rows("own", extensions={"own": lambda: sentences}))
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_classes_are_those_of_the_training_split_whatever_is_evaluated(source, tmp_path):
    path = tmp_path / "other.conll"
    path.write_text("Oslo LOC\n")
    opened = rows(f"conll:{path}", training=(source, "all"))
    assert opened.classes == ("LOC", "O", "PER")
    path.write_text("Oslo CITY\n")
    with pytest.raises(config.InputError, match="line 1: 'CITY' is none of the classes LOC, O"):
        rows(f"conll:{path}", training=(source, "all"))


def test_what_does_not_fit_is_refused_cut_or_skipped_and_told(source):
    with pytest.raises(config.InputError, match="line 3 has 12 tokens, and a row room for 9"):
        rows(source, length=11)
    skipped = rows(source, length=11, unfit="skip")
    assert len(skipped) == 1
    assert "1 skipped" in skipped.describe()
    cut = rows(source, length=11, unfit="cut")
    assert "1 cut" in cut.describe()
    batch = everything(cut)
    np.testing.assert_array_equal(batch["tokens"][0], [256, *b"Ada met A", 256])
    np.testing.assert_array_equal(np.flatnonzero(batch["weights"][0]), [1, 4, 8])
    short = everything(rows(source, length=9, unfit="cut"))
    np.testing.assert_array_equal(short["targets"][0], [0, 2, 0, 0, 1, 0, 0, 0, 0])


def test_lines_of_the_embedded_corpus_have_kinds_of_tokens():
    opened = labelled_tokens.open_rows("python_stdlib", split="validation", unfit="cut")
    assert opened.classes == ("comment", "keyword", "name", "number", "operator", "string")


@pytest.mark.parametrize(
    "text, words",
    [
        ("Ada PER\nmet\n", "line 2 has the word 'met' and no label"),
        ("\n\n", "has no sentences in the split"),
    ],
)
def test_a_bad_file_is_refused_by_its_place(tmp_path, text, words):
    path = tmp_path / "bad.conll"
    path.write_text(text)
    with pytest.raises(config.InputError) as refused:
        rows(f"conll:{path}")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "sentence",
    [dict(words=["a"], labels=[]), dict(words=[], labels=[]), dict(words=[1], labels=[1])],
)
def test_a_users_sentence_that_is_none_is_refused(sentence):
    with pytest.raises(config.InputError, match=r"own\[0\] has"):
        rows("own", extensions={"own": lambda: [sentence]})


def test_a_word_without_tokens_is_refused():
    class Silent:
        name, size, eos, bos, mask, fingerprint = "silent", 4, 0, 0, 3, "silent"

        def encode_many(self, texts):
            return [np.zeros(0, np.int32) for _ in texts]

    given = {"own": lambda: [dict(words=["a"], labels=["b"])]}
    with pytest.raises(config.InputError, match="'a' has no tokens"):
        rows("own", tokenizer=Silent(), extensions=given)


def test_a_tokenizer_is_trained_on_the_words_of_a_sentence(source):
    fields = kinds.fields(labelled_tokens.open_rows) | dict(source=source, split="all")
    assert list(kinds.TEXTS["labelled_tokens"](fields)) == ["Ada met Alan", "in London"]
