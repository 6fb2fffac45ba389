"""The report of a workdir: what it gathers, what it refuses, and that it runs none of its code."""

import json

import pytest
from etils import epath

from bigmodel import __main__, reporting, run
from bigmodel.config import load_text
from bigmodel.train import attempts, workdir, writers
from tests import buckets, runs

PROVENANCE = {"device": "cpu", "devices": 2, "mesh": {"data": 2, "fsdp": 1}, "git": "abc"}
TRAP = "raise SystemExit('code of the workdir was run')\n"


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path, monkeypatch):
    if request.param == "local":
        return epath.Path(tmp_path) / "run"
    return epath.Path(buckets.make("gs", monkeypatch)) / "run"


def fill(folder, *, resumed=True):
    """A workdir as a run leaves it, that was stopped at step 6 and went on from step 4."""
    workdir.write(folder, load_text(runs.CONFIG), PROVENANCE)
    text = (folder / "config.py").read_text()
    (folder / "config.py").write_text(text + TRAP)
    for first, last in ((0, 6), (4, 9)) if resumed else ((0, 6),):
        with writers.jsonl(folder, step=first) as write:
            for step in range(first + 1, last + 1):
                skipped = {"train/skipped": float(step == 5)}
                write(step, {"train/loss": float(first + step), **skipped})
        marks = [(first, 0.0), (last, 1.0 * (last - first))]
        seconds = {"start": 4.0, "steps": float(last - first)}
        one = attempts.Record(100.0 * first, 100.0 * first + 4 + last - first, seconds)
        one = one._replace(first=first, last=last, marks=marks, ended="Stopped")
        attempts.write(folder / attempts.FOLDER / f"{first}.json", one)
    return folder


def test_a_report_is_made_of_what_the_workdir_holds(place):
    found = reporting.gathered(fill(place), 0)
    assert [row["train/loss"] for row in found["rows"]] == [1, 2, 3, 4, 9, 10, 11, 12, 13]
    assert (found["step"], found["steps"]) == (9, 30)
    assert found["goodput"]["seconds"]["lost"] == 2
    assert [step for step, _ in found["faults"]] == [5]
    changed = {name: default for name, value, default in found["config"] if value != default}
    assert changed["steps"] == "1000"
    assert "seed" not in changed
    assert found["provenance"]["mesh.data"] == "2"
    page = reporting.report(place)
    assert page == place / "report.html"
    assert "Stopped at step 9 of 30" in page.read_text()


def test_the_command_says_where_the_page_is(tmp_path, capsys):
    folder = fill(epath.Path(tmp_path) / "run", resumed=False)
    out = tmp_path / "page.html"
    assert __main__.main(["report", f"--workdir={folder}", f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert not (folder / "report.html").exists()


def test_samples_are_drawn_when_they_are_asked_for(tmp_path, monkeypatch):
    folder = fill(epath.Path(tmp_path) / "run")
    asked = []

    def generate(*given, **options):
        asked.append(options["num_return_sequences"])
        return [["once <b>", "twice"]]

    monkeypatch.setattr(run, "generate", generate)
    assert "once &lt;b&gt;" in reporting.report(folder, samples=2).read_text()
    assert "Samples" not in reporting.report(folder).read_text()
    assert asked == [2]


def test_dumps_are_told_whatever_is_in_them(tmp_path):
    folder = fill(epath.Path(tmp_path) / "run", resumed=False)
    for name, text in (("step_7", json.dumps({"metrics": {"loss": "nan"}})), ("odd", "[]")):
        (folder / "debug" / name).mkdir(parents=True)
        (folder / "debug" / name / "report.json").write_text(text)
    told = dict(reporting.gathered(folder, 0)["faults"])
    assert told[7] == "loss nan (see debug/step_7)."
    assert told[0] == "debug/odd was left behind."


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("nothing there", "there is no such folder"),
        ("config.json", "holds no config.json"),
        ("metrics.jsonl", "holds no metrics"),
        ("garbage", "config.json cannot be read"),
        ("out", "--out="),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_status_2(tmp_path, capsys, spoil, words):
    folder = epath.Path(tmp_path) / "run"
    line = ["report", f"--workdir={folder}"]
    if spoil != "nothing there":
        fill(folder, resumed=False)
    if spoil == "garbage":
        (folder / "config.json").write_text("{")
    elif spoil == "out":
        line.append(f"--out={tmp_path}/no/such/folder/page.html")
    elif (folder / spoil).exists():
        (folder / spoil).unlink()
    assert __main__.main(line) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1
    assert not (folder / "report.html").exists()


def test_rows_with_what_is_no_number_are_read_without_it():
    row = {"step": 3, "train/loss": "<b>", "x": None, "y": float("inf"), "z": 1.5}
    assert reporting.clean(row) == {"step": 3, "x": None, "z": 1.5}
    assert reporting.clean({"step": "3"}) is None


def test_defaults_of_a_config_with_its_own_builders_are_unknown_and_told(tmp_path):
    folder = fill(epath.Path(tmp_path) / "run", resumed=False)
    values = json.loads((folder / "config.json").read_text())
    values["optimizer"]["name"] = "mine"
    (folder / "config.json").write_text(json.dumps(values))
    assert {default for _, _, default in reporting.gathered(folder, 0)["config"]} == {None}
    assert "builders of its own" in reporting.report(folder).read_text()


def test_the_flags_of_the_report_are_checked(capsys):
    assert __main__.main(["report", "--workdir=x", "--samples=-1"]) == 2
    assert __main__.main(["report"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
