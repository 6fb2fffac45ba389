"""Scores of a split: each row once, whatever the batch and the mesh, and of the run's own kind."""

import dataclasses

import jax
import numpy as np
import pytest

import bigmodel
from bigmodel import config, run, scoring
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.decode import beam
from bigmodel.evaluate import evaluate
from bigmodel.scoring import texts
from bigmodel.train import state, writers
from tests import runs, tables


class First:
    """The first of some rows."""

    def __init__(self, rows, most):
        self.rows, self.most = rows, most

    def __len__(self):
        return self.most

    def __getattr__(self, name):
        return getattr(self.rows, name)

    def take(self, indices, epochs=None):
        return self.rows.take(indices, epochs)


def made(name, **fields):
    loaded = config.load(f"{runs.ROOT}/configs/{name}", {"batch": 8, **fields})
    return recipes.make(loaded, devices=jax.devices()[: fields.get("mesh.data", 1)])


def evaluation(recipe, most, **fields):
    """An entry of the first rows of the split."""
    entry = recipes.evaluation(recipe, "validation", {"split": "validation", **fields})
    few = pipeline.Batches(
        First(entry.batches.rows, most), entry.batches.batch, shuffle=False, repeat=False
    )
    return dataclasses.replace(entry, batches=few, chosen=range(len(few)))


# 11 rows divide by neither 8, 4 nor 3.
KINDS = {
    "vit.py:tiny": ("accuracy", "f1_macro", "recall_weighted", "matthews"),
    "bert_label.py:tiny": ("accuracy", "f1_micro"),
    "sasrec.py:tiny": ("hit_rate_10", "ndcg_10", "mrr_20"),
    "clip.py:tiny": ("recall_at_1", "recall_at_5"),
    "ctc.py:tiny": ("wer", "cer"),
    "transformer.py:tiny": ("bleu", "chrf", "exact_match"),
}


FIRST = ("vit.py:tiny",)  # all of them: `make test-families`


@pytest.mark.parametrize("name", tables.rows(KINDS, FIRST))
def test_each_row_counts_once_whatever_the_batch_and_mesh(name):
    found = []
    for fields in ({"batch": 3}, {"mesh.data": 4}):
        recipe = made(name, **fields)
        entry = evaluation(recipe, 11, scores=KINDS[name], max_new_tokens=4)
        found.append(scoring.score(recipe, state.create(recipe).params, entry))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0]["scored"] == 11 or name == "bert_label.py:tiny"  # sentences of words


def test_what_sums_tell_of_ranks_and_classes_scores_tell_too():
    for name, same in (
        ("sasrec.py:tiny", ("hit_rate_10", "ndcg_10")),
        ("vit.py:tiny", ("accuracy",)),
    ):
        recipe = made(name)
        params = state.create(recipe).params
        entry = evaluation(recipe, 50, scores=same)
        sums, found = evaluate(recipe, params, entry), scoring.score(recipe, params, entry)
        assert found == pytest.approx({"scored": sums["targets"]} | {n: sums[n] for n in same})


def test_the_texts_that_are_scored_are_those_that_the_run_writes(monkeypatch):
    recipe = made("transformer.py:tiny")
    params = state.create(recipe).params
    entry = evaluation(recipe, 3, scores=("cer",), max_new_tokens=5)
    found = texts.texts(recipe, params, entry)
    batch, decode = entry.batches.host(0), recipe.tokenizer.decode
    assert found.true == [decode(ids[ids > 0]) for ids in batch["targets"][:3]]
    sources = {"source": [decode(ids[ids > 0]) for ids in batch["source"][:3]]}
    one = run.Run("/runs/fresh", recipe, params, 0)
    wanted = run.sample(one, inputs=sources, max_new_tokens=5, temperature=0.0)
    assert found.told == [text for (text,) in wanted]

    def search(model, params, prompts, *, num_beams, rows, multiple, **how):
        assert (num_beams, rows, multiple, how["max_new_tokens"]) == (4, 32, 8, 5)
        return [[beam.Hypothesis(np.array([65 + n]), 0.0)] * 4 for n in range(len(prompts))]

    monkeypatch.setattr(beam, "search", search)
    searched = dataclasses.replace(entry, num_beams=4)
    assert texts.texts(recipe, params, searched).told == ["A", "B", "C"]


def test_an_answer_of_packed_pairs_is_written_from_its_own_source(monkeypatch):
    fields = {"data.packing": "best_fit", "data.length": 256, "data.source_length": 256}
    recipe = made("transformer.py:tiny", **fields)
    entry = evaluation(recipe, 5, scores=("bleu",))
    rows, decode = entry.batches.rows, recipe.tokenizer.decode
    pairs = {decode(t): decode(s) for s, t in map(rows.pair, rows.chosen[: rows.first[5]])}

    def write(recipe, params, prompts, *, inputs, **how):
        shown = [ids[of == 1] for ids, of in zip(*inputs.values(), strict=True)]
        return [[decode(source)] for source in shown]

    both = ("source", "source_segments")
    monkeypatch.setattr(texts, "beside", lambda batch: {name: batch[name] for name in both})
    monkeypatch.setattr(texts.writing, "write", write)
    found = texts.texts(recipe, None, entry)
    assert len(found.true) == rows.first[5] > 10
    assert found.told == [pairs[answer] for answer in found.true]


def test_the_answers_of_a_row_are_its_runs_of_targets_that_count():
    """Two segments; the first asks twice, the second once, right where the first has ended."""
    batch = {
        "tokens": np.array([[9, 1, 2, 3, 4, 8, 5, 6, 0]]),
        "targets": np.array([[1, 2, 3, 4, 7, 5, 6, 7, 0]]),
        "segments": np.array([[1, 1, 1, 1, 1, 2, 2, 2, 0]]),
        "weights": np.array([[0, 1, 0, 1, 1, 1, 1, 1, 0]]),
    }
    found = texts.asked_of(batch, np.ones(1, bool), whole=False)
    pairs = [(one.prompt.tolist(), one.answer.tolist()) for one in found]
    assert pairs == [([9, 1], [2]), ([9, 1, 2, 3], [4, 7]), ([8], [5, 6, 7])]
    assert not texts.asked_of(batch, np.zeros(1, bool), whole=False)
    (whole,) = texts.asked_of(batch, np.ones(1, bool), whole=True)
    assert whole.answer.tolist() == [2, 4, 7, 5, 6, 7]


def test_logits_that_are_no_numbers_are_of_no_class():
    recipe = made("vit.py:tiny")
    params = jax.tree.map(lambda x: x * np.nan, state.create(recipe).params)
    entry = evaluation(recipe, 5, scores=("accuracy", "matthews", "f1_weighted"))
    assert scoring.score(recipe, params, entry) == {
        "scored": 5,
        "accuracy": 0,
        "matthews": 0,
        "f1_weighted": 0,
    }


@pytest.mark.parametrize(
    ("name", "score", "words"),
    [
        ("vit.py:tiny", "bleu", r"'bleu' is of texts, and the objective 'classify'.*fit: accuracy"),
        ("vit.py:tiny", "acuracy", r'no score \'acuracy\'.*Did you mean "accuracy"'),
        ("gpt.py:tiny", "bleu", r"data.kind = 'text' tells none of that; those that fit: none"),
        ("transformer.py:tiny", "f1", r"fit: bleu, chrf, wer, cer, exact_match"),
    ],
)
def test_a_score_that_does_not_fit_is_refused_before_anything_is_compiled(name, score, words):
    with pytest.raises(config.InputError, match=words):
        scoring.check(made(name), "test", {"scores": (score,)})


def test_a_score_that_wants_other_classes_is_refused_before_anything_is_compiled():
    for name, score, words in (
        ("vit.py:tiny", "f1", "'f1' is of class 1 of two, and here are 10 classes"),
        ("bert_label.py:tiny", "span_f1", "'span_f1' is of tags O, B-X and I-X, and the labels"),
    ):
        recipe = made(name)
        with pytest.raises(config.InputError, match=words):
            scoring.check_rows(recipe, evaluation(recipe, 5, scores=(score,)))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same run without evaluations and with scores at every second step."""
    folder = tmp_path_factory.mktemp("scored")
    entry = dict(split="validation", every=2, batches=1, scores=("accuracy", "f1_macro"))
    for name, evals in (("without", {}), ("with", {"validation": entry})):
        fields = {"steps": 4, "batch": 8, "log.tensorboard": False, "log.every": 1}
        loaded = config.load(f"{runs.ROOT}/configs/vit.py:tiny", fields)
        values = loaded.config.copy_and_resolve_references().unlock()
        values.evals = evals
        bigmodel.train(dataclasses.replace(loaded, config=values.lock()), folder / name)
    return folder


def test_scores_inside_training_change_no_bit_of_it(both):
    assert runs.losses(both / "with") == runs.losses(both / "without")
    assert runs.checksums(both / "with", 4) == runs.checksums(both / "without", 4)


def test_scores_and_what_they_cost_are_told_with_the_metrics(both):
    rows = [row for row in writers.rows(both / "with") if "validation/f1_macro" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert row["validation/seconds"] > 0
        assert row["validation/scored"] == 8
        assert 0 <= row["validation/f1_macro"] <= 1


def test_the_command_tells_the_scores_that_it_is_asked_for(both, capsys):
    from bigmodel import __main__ as door

    capsys.readouterr()
    call = ["evaluate", "--workdir", str(both / "with"), "--split"]
    assert door.main([*call, "validation", "--scores", "matthews,f1_macro"]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert {"validation/matthews", "validation/f1_macro", "validation/loss"} <= set(shown)
    found = bigmodel.evaluate(both / "with", scores=("f1_macro",))
    assert found["validation/f1_macro"] == pytest.approx(
        float(shown["validation/f1_macro"]), rel=1e-4
    )
    assert door.main([*call, "validation", "--scores", "wer"]) == 2
    assert "'wer' is of texts" in capsys.readouterr().err
    assert door.main([*call, "valid"]) == 2
    assert "validation" in capsys.readouterr().err
