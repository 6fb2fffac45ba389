"""Laws of a run on chats: what it has learnt it says, when it is asked as it was trained."""

import json

import jax
import pytest

import bigmodel
from bigmodel import config, run
from tests import runs

PAIRS = {"2+2?": "4", "Who are you?": "a model"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    lines = [json.dumps(dict(prompt=q, completion=a)) for q, a in PAIRS.items()]
    (folder / "chats.jsonl").write_text("\n".join(lines))
    text = (
        runs.CONFIG.replace("default_config()", 'default_config(data="chats")')
        .replace(f"jsonl:{runs.TEXT}", f"jsonl:{folder}/chats.jsonl")
        .replace("length=32,", "length=64,")
        .replace("dropout=0.1", "dropout=0.0")
    )
    path = runs.write_config(folder, text)
    bigmodel.train(config.load(str(path), ["steps=60", "batch=4"]), folder / "run")
    return bigmodel.load(folder / "run")


def test_a_chat_is_answered_as_it_was_learnt_and_ends_there(trained):
    told = run.sample(trained, list(PAIRS), chat=True, max_new_tokens=20, temperature=0.0)
    assert told == [[f" {answer}"] for answer in PAIRS.values()]
    found = run.sample(trained, list(PAIRS), chat=True, max_new_tokens=20, num_beams=2)
    assert found == told


def test_only_answers_were_learnt(trained):
    prompt = trained.tokenizer.encode("User: 2+2?\n\nAssistant:")
    ids = jax.numpy.array([[trained.tokenizer.bos, *prompt, *b" 4"]])
    logits = trained.apply(trained.params, {"tokens": ids})["logits"]
    log_p = jax.nn.log_softmax(logits[0])
    targets = jax.numpy.array([*prompt, *b" 4", trained.tokenizer.eos])
    nats = -jax.numpy.take_along_axis(log_p, targets[:, None], -1)[:, 0]
    assert nats[len(prompt) :].max() < 0.5 < 3 < nats[: len(prompt)].mean()


def test_a_prompt_that_is_no_message_is_refused(trained):
    with pytest.raises(config.InputError, match="a prompt is no message of a user: it has U"):
        run.sample(trained, ["\ufdd0"], chat=True)
