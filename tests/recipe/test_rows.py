"""Laws of a run's data: what is prepared is told, and by the names of its sources."""

import json

import pytest

from bigmodel import __main__, config, recipe
from bigmodel.recipe import rows
from tests import runs


def loaded(**overrides):
    return config.Loaded(runs.config(**overrides), "", "")


def test_preparation_is_told_every_few_seconds_in_plain_lines():
    seconds, lines = iter([0.0, 1.0, 5.1, 5.1, 6.0, 10.3, 10.3]), []
    report = rows.preparing(lines.append, now=lambda: next(seconds))
    report("a train", 1, 100)
    report("a train", 20, 100)
    report("a train", 30, 100)
    report("b train", 3 * 2**20, 0)
    assert lines == ["preparing a train: 20%", "preparing b train: 3 MiB"]


@pytest.mark.parametrize("line", ["data prepare", "data inspect", "bench"])
def test_a_command_that_prepares_data_tells_of_it(line, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rows, "SECONDS_BETWEEN_LINES", -1)
    if line == "bench":
        monkeypatch.setattr("bigmodel.train.state.abstract", stopped)
    path = runs.write_config(tmp_path)
    status = __main__.main([*line.split(), f"--config={path}"])
    out, err = capsys.readouterr()
    assert f"preparing jsonl:{runs.TEXT} all: 100%\n" in err
    assert "preparing" not in out
    assert status == (2 if line == "bench" else 0)


def stopped(_):
    raise config.InputError("the data are there; the rest is not asked for here")


def test_the_caches_of_a_mixture_are_told_by_its_sources(tmp_path):
    for name in "ab":
        text = "\n".join(json.dumps({"text": f"{name} {n}"}) for n in range(40))
        (tmp_path / f"{name}.jsonl").write_text(text)
    sources = [f"jsonl:{tmp_path}/{name}.jsonl" for name in "ab"]
    mixture = {"x": {"source": sources[0], "weight": 1}, sources[1]: 2.0}
    evals = {"v": {"split": "all"}, "w": {"split": "all", "source": sources[0]}}
    said = recipe.prepare_data(loaded(data=dict(source="unused", mixture=mixture), evals=evals))
    told = [line.partition(" all: 40 documents")[0] for line in said.splitlines()]
    assert sorted(told) == sources


def test_only_what_is_there_or_small_is_opened_in_passing(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"text": "{n}"}}' for n in range(400)))
    source, there = f"jsonl:{tmp_path}/a.jsonl", tmp_path / "cache"
    values = loaded(data=dict(cache_dir=str(there)))

    def opened(split, tokens=10**6):
        return recipe.open_small_rows(values, source, split, tokens=tokens) is not None

    monkeypatch.setattr(rows, "QUICK_BYTES", 10)
    assert not opened("train")
    assert not there.exists()  # nothing was prepared for it
    recipe.open_rows(values, source, "train")
    assert opened("train")
    assert not opened("train", tokens=10)
    monkeypatch.undo()
    assert opened("all")
    assert not opened("train[:90%]")  # the split of a run on another kind of source


def test_a_source_of_unknown_size_is_not_prepared_in_passing():
    extensions = {"source": {"mine": lambda: ["text"]}}
    values = config.Loaded(runs.config(), "", "", extensions=extensions)
    assert recipe.open_small_rows(values, "mine", "all", tokens=100) is None
