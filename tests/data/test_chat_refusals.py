"""Laws of records that are no chats: refused by their place, or counted. And of wrong fields."""

import pytest

from bigmodel import config
from tests.data.dialogues import CHATS, messages, read, rows, write, written

GOOD = dict(prompt="q", completion="a")
BAD = [
    ('{"prompt": ', "it is not JSON"),
    ("[1]", "it is no JSON object"),
    (dict(promt="q", completion="a"), 'it has neither "messages" nor both "prompt" and'),
    (dict(promt="q", completion="a"), 'Did you mean "promt"'),
    (dict(prompt="q", completion=""), 'it has no text in "completion"'),
    (dict(prompt=3, completion="a"), 'it has no text in "prompt"'),
    (dict(messages=[]), 'no list of messages in "messages"'),
    (dict(messages="hello"), 'no list of messages in "messages"'),
    (dict(messages=["hello"]), "its message 0 is str"),
    (dict(messages=CHATS[0][:1]), "it has no answer"),
    (dict(messages=[dict(role="usr", content="q")]), "'usr' in \"role\"; allowed are system, user"),
    (dict(messages=[dict(role="usr", content="q")]), 'Did you mean "user"'),
    (dict(messages=[dict(rol="user", content="q")]), 'Did you mean "rol"'),
    (dict(messages=[dict(role="user", contents="q")]), 'Did you mean "contents"'),
    (dict(messages=[dict(role="user", content=None)]), 'its message 0 has no text in "content"'),
    (dict(messages=[dict(role="user", content=[dict(text="q")])]), "has no text in"),
    (dict(messages=[*CHATS[0], dict(role="assistant", content="c", tool_calls=[1])]), "tool_calls"),
    (dict(messages=[dict(role="tool", content="t"), *CHATS[0]]), "refuses it: it has no role tool"),
    (dict(prompt="a\ufdd0", completion="b"), "no characters of any text"),
]


@pytest.mark.parametrize("bad, words", BAD)
def test_a_record_that_is_no_chat_is_refused_by_its_place_or_counted(tmp_path, bad, words):
    source = write(tmp_path, [GOOD, bad])
    with pytest.raises(config.InputError) as refused:
        rows(source)
    assert (
        f"{source.partition(':')[2]}: line 2 is no chat: it" in str(refused.value)
        or ("its message" in str(refused.value))
        or "refuses it" in str(refused.value)
    )
    assert words in str(refused.value)
    opened = rows(source, broken="skip")
    assert read(opened) == written([("q", "a")])
    assert "1 chats, 1 broken, by" in opened.describe()


def test_a_source_without_chats_says_why(tmp_path):
    with pytest.raises(config.InputError, match=r"1 are broken, the first as .*line 1: it has no"):
        rows(write(tmp_path, [dict(prompt="q", completion=" ")]), broken="skip")
    with pytest.raises(config.InputError, match="no chats in the split .* an answer stands"):
        rows(write(tmp_path, messages()), length=3, too_long="cut")


def test_a_template_that_is_at_fault_itself_is_refused_though_broken_records_are_not(tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ messages | length }}{% endfor %}")
    chat = [dict(role="assistant", content="a"), dict(role="assistant", content="b")]
    source, where = write(tmp_path, messages([chat])), f"{tmp_path}/t.jinja"
    with pytest.raises(config.InputError, match=r"line 1: the template .* in two ways"):
        rows(source, template=where, broken="skip")


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(packing="concat"), "data.packing = 'concat': allowed are best_fit, none"),
        (dict(train_on="answer"), 'Did you mean "answers"'),
        (dict(too_long="drop"), "data.too_long = 'drop': allowed are refuse, skip, cut"),
        (dict(broken="cut"), "data.broken = 'cut': allowed are refuse, skip"),
        (dict(normalize="nfc"), "data.normalize = 'nfc': allowed are"),
        (dict(length=0), "data.length = 0: a row needs at least 1"),
        (dict(template="chatlm"), "data.template = 'chatlm': no such file"),
        (dict(date="yesterday"), "data.date = 'yesterday'"),
        (dict(split="al"), 'split "al" is unknown'),
    ],
)
def test_fields_that_no_chats_have_are_refused(tmp_path, fields, words):
    with pytest.raises(config.InputError) as refused:
        rows(write(tmp_path, messages()), **fields)
    assert words in str(refused.value)
