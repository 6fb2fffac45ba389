"""Goodput: each second of a run counts once, under its own name, and a killed attempt is told."""

import contextlib
import json
import time

import pytest
from etils import epath

import bigmodel
from bigmodel import config
from bigmodel.train import attempts, goodput, processes, safety, writers
from tests import runs


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now

    time = monotonic = perf_counter

    def pass_(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(goodput, "time", made)
    return made


def record(began, seen, *, first=0, last=0, step_seconds=1.0, ended="", **seconds):
    done = (last - first) * step_seconds
    marks = [(first, 0.0), (last, done)]
    seconds = {"start": seen - began - done, "steps": done, **seconds}
    return attempts.Record(began, seen, seconds, first, last, marks, ended=ended)


# One attempt


def test_the_inner_of_two_spans_counts_and_the_outer_one_goes_on_after_it(clock):
    ledger = goodput.Ledger(spent=2.0)
    clock.pass_(1)
    with ledger.span("steps"):
        clock.pass_(10)
        with ledger.span("saving"):
            clock.pass_(3)
        clock.pass_(5)
    ledger.phase("other")
    clock.pass_(4)
    found = ledger.record()
    assert found.seconds == {"start/imports": 2, "start": 1, "steps": 15, "saving": 3, "other": 4}
    assert found.seen - found.began == sum(found.seconds.values()) == 25


def test_a_span_that_is_open_is_told_as_well_and_one_that_an_error_ends_is_closed(clock):
    ledger = goodput.Ledger()
    with contextlib.suppress(ValueError), ledger.span("compile"):
        clock.pass_(7)
        assert ledger.record().seconds["compile"] == 7
        raise ValueError("planted")
    clock.pass_(1)
    assert ledger.record().seconds == {"start/imports": 0, "start": 1, "compile": 7}


def test_waiting_for_data_and_the_excess_of_a_slow_step_are_stalls(clock):
    ledger, waited = goodput.Ledger(), 0.5
    with ledger.steps(0):
        for step in range(1, 21):
            clock.pass_(0.5 if step == 1 else 0)  # the pipeline's start
            waited += 0.25 if step == 10 else 0
            clock.pass_(0.25 if step == 10 else 0)
            clock.pass_(9.0 if step == 15 else 1.0)
            ledger.step(step, waited)
    assert ledger.seconds["start/data"] == 0.5
    assert ledger.seconds["stalls/data"] == 0.25
    assert ledger.seconds["stalls/slow"] == 8.0
    assert ledger.seconds["steps"] == 20.0
    assert ledger.to_first["steps"] == 1.0
    assert ledger.record().marks[-1] == (20, 20.0)


def test_steps_that_are_done_again_within_an_attempt_are_lost(clock):
    ledger = goodput.Ledger()
    with ledger.steps(0):
        for step in (1, 2, 3, 4, 3, 4, 5):
            clock.pass_(1)
            ledger.step(step, 0.0)
    assert ledger.seconds["lost"] == 2
    assert ledger.seconds["steps"] == 5
    assert ledger.record().marks[-1] == (5, 5.0)


def test_what_comes_after_an_error_is_no_start(clock):
    ledger = goodput.Ledger()
    with contextlib.suppress(ValueError), ledger.steps(0):
        raise ValueError("planted")
    clock.pass_(1)
    assert ledger.record().seconds["other"] == 1


def test_the_record_is_there_from_the_start_and_only_of_process_0(tmp_path, monkeypatch):
    monkeypatch.setattr(goodput, "WRITE_SECONDS", 0.01)
    folder = epath.Path(tmp_path)
    goodput.Ledger().keep(folder / "other", 1)
    ledger = goodput.Ledger()
    ledger.keep(folder, 0)
    with ledger.span("compile"):
        deadline, known = time.time() + 10, 0.0
        while known < 0.01:
            assert time.time() < deadline
            found = attempts.read(folder)[0]
            known = found[0].seconds.get("compile", 0.0) if found else 0.0
    assert found[0].ended == ""
    with ledger:
        pass
    assert attempts.read(folder)[0][0].ended == "finished"
    assert [path.name for path in folder.iterdir()] == [attempts.FOLDER]


def test_a_record_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / attempts.FOLDER).write_text("a file where a folder should be")
    ledger = goodput.Ledger()
    ledger.keep(epath.Path(tmp_path), 0)
    with ledger:
        pass
    assert capsys.readouterr().err.count("could not be written") == 1


def test_a_long_run_keeps_few_marks(clock):
    ledger = goodput.Ledger()
    with ledger.steps(0):
        for step in range(1, 20_001):
            clock.pass_(1)
            ledger.step(step, 0.0)
    marks = ledger.record().marks
    assert len(marks) < 300
    assert attempts.after(12_345, marks) == pytest.approx(20_000 - 12_345)


def test_a_step_costs_the_ledger_microseconds():
    ledger = goodput.Ledger()
    with ledger.steps(0):
        began = time.process_time()
        for step in range(2000):
            ledger.step(step + 1, 0.0)
    assert (time.process_time() - began) / 2000 < 200e-6  # about 5; a loaded machine is slow


# Several attempts


def test_attempts_add_up_to_the_time_from_the_first_start_until_now():
    rows = [record(100, 160, first=0, last=50), record(175, 220, first=50, last=90)]
    found = attempts.account(rows)
    assert found.wall == 120 == sum(found.seconds.values())
    assert found.seconds["down"] == 15
    assert found.share == 90 / 120
    assert found.notes == []


def test_steps_beyond_the_checkpoint_that_the_next_attempt_began_from_are_lost():
    rows = [
        record(0, 60, first=0, last=50),
        record(60, 80, first=40, last=45),
        record(80, 100, first=30, last=40),
    ]
    found = attempts.account(rows)
    assert [seconds["lost"] for _, seconds in found.attempts] == [20, 5, 0]
    assert found.seconds["steps"] == 40  # each of them once
    assert sum(found.seconds.values()) == found.wall == 100


def test_an_overlap_is_told_and_makes_no_negative_number():
    found = attempts.account([record(0, 60, last=5), record(50, 90, first=5, last=9)])
    assert found.seconds["down"] == 0
    assert "began 10.0 s before the one before it was last seen" in found.notes[0]


@pytest.mark.parametrize(("seen", "word"), [(30.0, "back"), (100.0, "forward")])
def test_a_clock_that_was_set_is_told(seen, word):
    moved = record(0, 60, last=5)._replace(seen=seen)
    (note,) = attempts.account([moved]).notes
    assert word in note


def test_a_call_that_found_the_run_finished_is_no_attempt():
    done = record(0, 60, last=5, ended="finished")
    again = record(1000, 1010, first=5, last=5, ended="finished")
    assert attempts.account([done, again]).wall == 60
    assert attempts.account([done, again._replace(last=9)]).seconds["down"] == 940


@pytest.mark.parametrize("text", ["", "[]", '{"began": 1}', "null", "{}", "\x00"])
def test_what_is_no_record_is_told_and_left_out(tmp_path, text):
    folder = epath.Path(tmp_path)
    attempts.write(folder / attempts.FOLDER / "1.json", record(0, 60, last=5))
    (folder / attempts.FOLDER / "2.json").write_text(text)
    records, notes = attempts.read(folder)
    assert [r.seen for r in records] == [60]
    assert "2.json is no record" in notes[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", None, True])
def test_a_record_with_what_is_no_number_is_none(bad):
    found = json.loads(json.dumps(record(0, 60, last=5)._asdict()))
    with pytest.raises(ValueError, match="is no number"):
        attempts.parsed(found | {"seen": bad})


# A run


def test_the_kinds_of_a_stopped_and_resumed_run_make_up_its_wall_time(tmp_path, monkeypatch):
    overrides = ["steps=8", "checkpoint.every=3", "evals={}"]
    loaded = config.load(str(runs.write_config(tmp_path)), overrides)
    place = epath.Path(tmp_path) / "run"
    asked = iter([False] * 3 + [True] + [False] * 20)
    began = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(processes.StopRequest, "agreed", lambda *_: next(asked))
        with pytest.raises(safety.Stopped):
            bigmodel.train(loaded, place)
    last = bigmodel.train(loaded, place)
    took = time.time() - began
    records, notes = attempts.read(place)
    found = attempts.account(records, notes)
    assert [(r.first, r.last, r.ended) for r in records] == [(0, 4, "Stopped"), (4, 8, "finished")]
    assert found.notes == []
    assert sum(found.seconds.values()) == pytest.approx(found.wall, rel=0.01)
    assert found.wall == pytest.approx(took, rel=0.01)
    assert found.seconds["other"] < 0.05 * found.wall
    for kind in ("start", "compile", "steps", "saving"):
        assert found.seconds[kind] > 0
    assert "restore" in records[1].seconds
    assert 0 < last["goodput/share"] < 1
    rows = [row for row in writers.rows(place) if "goodput/share" in row]
    assert {f"goodput/{kind}_seconds" for kind in attempts.KINDS} <= set(rows[-1])
