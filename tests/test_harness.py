"""A run as a model of lm-eval: likelihoods by hand, windows that tell each token once, tasks."""

import json

import jax
import numpy as np
import pytest

from bigmodel import config, harness, run
from bigmodel import recipe as recipes
from bigmodel.train import state
from tests import runs


@pytest.fixture(scope="module")
def fresh():
    """A decoder of bytes that nobody trained, with 32 positions."""
    fields = {"model.length": 32, "data.length": 32, "model.init_std": 0.3}
    loaded = config.load(f"{runs.ROOT}/configs/gpt.py:tiny", fields)
    recipe = recipes.make(loaded, devices=jax.devices()[:1])
    return run.Run("/runs/fresh", recipe, state.create(recipe).params, 0)


def by_hand(fresh, context, continuation):
    """Summed log p in float64, one text at a time, and whether all tokens are the likeliest."""
    ids = np.array([*context, *continuation], np.int32)[-33:]
    logits = np.asarray(fresh.apply(fresh.params, {"tokens": ids[None, :-1]})["logits"][0])
    own = np.float64(logits[-len(continuation) :])
    log_p = own - np.log(np.exp(own).sum(-1, keepdims=True))
    return (
        log_p[np.arange(len(continuation)), continuation].sum(),
        (own.argmax(-1) == continuation).all(),
    )


def greedy(fresh, context, length):
    ids = list(context)
    for _ in range(length):
        logits = fresh.apply(fresh.params, {"tokens": np.array([ids], np.int32)})["logits"]
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(context) :]


def test_likelihoods_are_those_of_each_text_alone(fresh):
    draw = np.random.default_rng(0)
    sizes = [(1, 1), (5, 3), (20, 9), (31, 2), (60, 4), (1, 32), (3, 14)]
    asked = [
        harness.Asked(*(draw.integers(0, 256, size).tolist() for size in pair)) for pair in sizes
    ]
    start = [256, 10, 20]
    asked.append(harness.Asked(start, greedy(fresh, start, 2)))
    found = harness.likelihoods(fresh, asked)
    for (value, likeliest), one in zip(found, asked, strict=True):
        wanted, best = by_hand(fresh, *one)
        assert value == pytest.approx(wanted, rel=1e-5)
        assert likeliest == best
    assert [likeliest for _, likeliest in found][-1] is True
    assert not found[0][1]
    with pytest.raises(config.InputError, match="continuation of 33 tokens: the model has 32"):
        harness.likelihoods(fresh, [harness.Asked([1], [2] * 33)])


@pytest.mark.parametrize("tokens", [0, 1, 7, 8, 9, 23, 24])
def test_windows_tell_each_token_once_after_as_much_as_has_room(tokens):
    ids = list(range(100, 100 + tokens))
    parts = harness.windows(ids, first=0, L=8)
    assert [token for part in parts for token in part.continuation] == ids
    for part in parts:
        assert len(part.context) + len(part.continuation) <= 8 + 1
        both = [*part.context, *part.continuation]
        assert both == [0, *ids][(end := [0, *ids].index(both[-1])) - len(both) + 1 : end + 1]
    assert not parts or len(parts[-1].context) + len(parts[-1].continuation) == min(tokens, 8) + 1


def test_text_ends_before_the_first_of_the_stops(fresh):
    assert harness.before("ab\ncd. e", [". ", "\n"]) == "ab"
    assert harness.before("abc", ["", "x"]) == "abc"
    prompts = ["def f", "x" * 100]
    whole = harness.written(fresh, prompts, {"max_gen_toks": 6})
    assert whole[0] == run.sample(fresh, prompts[:1], max_new_tokens=6, temperature=0.0)[0][0]
    stop = whole[1][2:3]
    stopped = harness.written(fresh, prompts, {"max_gen_toks": 6, "until": [stop]})
    assert stopped[1] == whole[1][: whole[1].find(stop)]


def test_a_run_that_does_not_go_on_with_text_is_refused():
    recipe = recipes.make(config.load(f"{runs.ROOT}/configs/vit.py:tiny"), jax.devices()[:1])
    with pytest.raises(config.InputError, match="model 'vit' with the objective 'classify'"):
        harness.model(run.Run("/runs/vit", recipe, {}, 0))


@pytest.mark.parity
@pytest.mark.filterwarnings("default")  # its own libraries warn
def test_lm_eval_asks_a_run(fresh, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    docs = [
        {"question": f"{a} and {b} are", "choices": [" one", " two", " many"], "answer": a % 3}
        for a in range(3)
        for b in range(4)
    ]
    lines = "\n".join(map(json.dumps, docs))
    (tmp_path / "test.jsonl").write_text(lines + "\n")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    choice = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    writes = {
        "task": "writes",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    rolls = {
        "task": "rolls",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    tasks = [common | task for task in (choice, writes, rolls)]
    found = lm_eval.simple_evaluate(
        model=harness.model(fresh), tasks=tasks, bootstrap_iters=0, log_samples=True
    )
    ids = fresh.tokenizer.encode
    right = 0
    for doc in docs:
        context = [256, *ids(doc["question"])]
        likely = [by_hand(fresh, context, ids(text))[0] for text in doc["choices"]]
        right += int(np.argmax(likely)) == doc["answer"]
    assert found["results"]["choice"]["acc,none"] == pytest.approx(right / len(docs))
    nats = sum(by_hand(fresh, [256], ids(doc["question"]))[0] for doc in docs)
    size = sum(len(doc["question"]) for doc in docs)
    bits = found["results"]["rolls"]["bits_per_byte,none"]
    assert bits == pytest.approx(-nats / np.log(2) / size, rel=1e-5)
    assert found["results"]["writes"]["exact_match,none"] == 0
