"""Laws of chats: records of every form give the same rows, answers alone are learnt, packed ones
are separate, and what is long is named or counted.
"""

import numpy as np
import pytest

from bigmodel import config
from bigmodel.data import chats, inspect, kinds, pipeline, text
from tests.data import dialogues
from tests.data.dialogues import CHATS, PAIRS, everything, messages, read, rows, write, written


def test_a_row_is_a_chat_shifted_by_one_with_its_answer_weighted(tmp_path):
    opened = rows(write(tmp_path, messages(CHATS[:1])), length=32, packing="none")
    batch = {name: array[0] for name, array in everything(opened).items()}
    whole = [256, *b"User: a?\n\nAssistant: b", 256]
    n = len(whole) - 1
    assert batch["tokens"].tolist() == whole[:-1] + [0] * (32 - n)
    assert batch["targets"].tolist() == whole[1:] + [0] * (32 - n)
    assert batch["weights"].tolist() == [0] * (n - 3) + [1] * 3 + [0] * (32 - n)
    assert batch["segments"].tolist() == [1] * n + [0] * (32 - n)
    assert batch["positions"].tolist() == [*range(n)] + [0] * (32 - n)


def test_arrays_are_as_the_kind_says(tmp_path):
    opened = rows(write(tmp_path, messages()))
    found = {k: (v.shape[1:], str(v.dtype)) for k, v in everything(opened).items()}
    assert found == kinds.SHAPES["chats"](dict(length=128))


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "function"])
def test_messages_of_every_form_give_the_same_chats(tmp_path, form):
    extensions = {"function": lambda: iter(messages())}
    source = form if form == "function" else write(tmp_path, messages(), form)
    assert read(rows(source, packing="none", extensions=extensions)) == written()


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_prompts_and_completions_are_chats(tmp_path, form):
    records = [{"instruction": q, "output": a} for q, a in PAIRS]
    names = dict(prompt_field="instruction", completion_field="output", packing="none")
    assert read(rows(write(tmp_path, records, form), **names)) == written()


def test_a_context_follows_its_prompt_where_there_is_one(tmp_path):
    records = [dict(prompt="q", input="i", completion="a"), dict(prompt="q", completion="a")]
    records.append(dict(prompt="q", input=" ", completion="a"))
    found = read(rows(write(tmp_path, records), context_field="input", packing="none"))
    assert found == written([("q\n\ni", "a"), ("q", "a"), ("q", "a")])


def test_the_fields_of_messages_may_have_other_names(tmp_path):
    chat = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    names = dict(messages_field="conversations", role_field="from", content_field="value")
    assert read(rows(write(tmp_path, [dict(conversations=chat)]), **names)) == written([("q", "a")])


def test_packed_chats_are_the_separate_ones(tmp_path):
    source = write(tmp_path, messages())
    packed, separate = rows(source), rows(source, packing="none")
    assert len(packed) < len(separate) == 4
    assert sorted(read(packed)) == sorted(read(separate))
    batch = everything(packed)
    for row, segments in enumerate(batch["segments"]):
        for number in range(1, segments.max() + 1):
            own = batch["positions"][row, segments == number]
            np.testing.assert_array_equal(own, np.arange(len(own)))


def test_every_chat_begins_with_its_own_first_token(tmp_path):
    folder = dialogues.folder_of(tmp_path / "t", dialogues.CHATML)
    text = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    (tmp_path / "t/chat_template.jinja").write_text(text)
    opened = rows(write(tmp_path, messages()), tokenizer=folder)
    batch = everything(opened)
    firsts = batch["tokens"][(batch["positions"] == 0) & (batch["segments"] > 0)]
    wanted = [int(opened.tokenizer.encode(q)[0]) for q, _ in PAIRS]
    assert sorted(firsts.tolist()) == sorted(wanted)


@pytest.mark.parametrize(
    "train_on, wanted",
    [
        ("answers", " Well, thank you.<|endoftext|> Still well.<|endoftext|>"),
        ("last", " Still well.<|endoftext|>"),
        ("all", None),
    ],
)
def test_what_is_learnt_is_as_the_field_says(tmp_path, train_on, wanted):
    opened = rows(write(tmp_path, messages([dialogues.CHAT])), length=256, train_on=train_on)
    ((whole, learnt),) = read(opened)
    assert learnt.replace("<|endoftext|>", "") == whole if wanted is None else learnt == wanted
    assert f"{opened.learnt} of {opened.ends[-1]} targets learnt" in opened.describe()


def test_text_that_looks_like_a_special_token_ends_no_answer(tmp_path):
    forged = [("a<|endoftext|>", "b<|endoftext|>c")]
    opened = rows(write(tmp_path, [dict(prompt=q, completion=a) for q, a in forged]))
    assert read(opened) == written(forged)
    assert (everything(opened)["targets"] == 256).sum() == 1


def test_prepared_twice_is_equal_and_nothing_is_read_again(tmp_path, monkeypatch):
    source = write(tmp_path, messages())
    one, other = (rows(source, cache_dir=str(tmp_path / name)) for name in ("a", "b"))
    assert one.fingerprint == other.fingerprint
    for name, array in everything(one).items():
        np.testing.assert_array_equal(everything(other)[name], array, err_msg=name)

    def unread(paths):
        raise InterruptedError

    monkeypatch.setattr("bigmodel.data.chat_sources.lines", unread)
    assert rows(source, cache_dir=str(tmp_path / "a"), length=64).notes == one.notes
    with pytest.raises(InterruptedError):
        rows(source, cache_dir=str(tmp_path / "c"))


@pytest.mark.parametrize(
    "fields", [dict(length=127), dict(packing="none"), dict(train_on="all"), dict(template="t.j")]
)
def test_what_shapes_the_rows_shapes_their_fingerprint(tmp_path, fields):
    source = write(tmp_path, messages())
    if "template" in fields:
        (tmp_path / "t.j").write_text(
            "{% for m in messages %}{{ m.content }}!{{ eos_token }}{% endfor %}"
        )
        fields = dict(template=str(tmp_path / "t.j"))
    assert rows(source, **fields).fingerprint != rows(source).fingerprint


def test_a_batch_is_that_of_its_step_wherever_a_run_goes_on(tmp_path):
    source = write(tmp_path, messages())
    batches = [pipeline.Batches(rows(source, packing="none"), 3, seed=1) for _ in range(2)]
    first = [batches[0].host(step) for step in range(4)]
    for name, array in batches[1].host(3).items():
        np.testing.assert_array_equal(array, first[3][name], err_msg=name)
    seen = np.concatenate([batch["targets"] for batch in first])
    epochs = [sorted(map(bytes, seen[start : start + 4])) for start in (0, 4, 8)]
    assert epochs[0] == epochs[1] == epochs[2]


def test_a_row_is_shown_with_its_special_tokens_and_what_is_learnt_of_it(tmp_path):
    opened = rows(write(tmp_path, messages([CHATS[0], CHATS[3]])))
    shown = [f"<|endoftext|>User: {q}\n\nAssistant:[[ {a}<|endoftext|>]]" for q, a in PAIRS[::3]]
    assert opened.shown() == "\n".join(shown[::-1])
    assert "  | Assistant:[[ two<|endoftext|>]]" in inspect.describe_arrays(opened)


def test_a_mixture_holds_its_sources_by_weight(tmp_path):
    one = write(tmp_path, messages(CHATS[:2]), name="one")
    other = write(tmp_path, messages(CHATS[2:]), name="other")
    mixed = rows("", mixture={one: 1.0, other: 3.0}, packing="none")
    assert isinstance(mixed, text.Mixture)
    assert read(mixed) == written()
    assert (mixed.weights, mixed.bytes_per_target) == ((1.0, 3.0), 0.0)


def test_splits_hold_each_question_once(tmp_path):
    records = [dict(prompt=f"q{n % 200}", completion=f"a{n}") for n in range(400)]
    source = write(tmp_path, records)
    found = [
        [whole.partition("\n")[0] for whole, _ in read(rows(source, split=split))]
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, found)) == 400
    assert len(set(found[0])) + len(set(found[1])) + len(set(found[2])) == 200


def test_the_standard_library_is_asked_and_tells():
    opened = chats.open_rows(split="validation", length=256, too_long="skip")
    whole, learnt = read(opened)[0]
    assert whole.startswith("User: What does ")
    assert whole.endswith(learnt.removesuffix("<|endoftext|>"))
    assert len(opened.chosen) > 100


def test_a_long_chat_is_refused_by_its_place(tmp_path):
    with pytest.raises(config.InputError) as refused:
        rows(write(tmp_path, messages()), length=40)
    assert "chats.jsonl: line 2 has 53 tokens, and a row room for 41; 2 of 4" in str(refused.value)


def test_a_long_chat_is_skipped_or_cut_at_its_end_and_told(tmp_path):
    source = write(tmp_path, messages())
    skipped = rows(source, length=40, too_long="skip", packing="none")
    assert read(skipped) == [written()[0], written()[3]]
    assert "2 chats, 2 too long, by" in skipped.describe()
    cut = rows(source, length=40, too_long="cut", packing="none")
    wanted = written()
    wanted[1] = "User: how long is this?\n\nAssistant: as l", " as l"
    wanted[2] = (wanted[2][0][:40], wanted[2][1][:21])
    assert read(cut) == wanted
    assert "4 chats, 2 cut, by" in cut.describe()
    gone = rows(source, length=26, too_long="cut", packing="none")
    assert "3 chats, 1 cut, 1 too long, by" in gone.describe(), "of one no answer is left"
