"""Laws of `bigmodel plan`: what it prints, writes, refuses, and its exit status."""

import json

import pytest

from bigmodel import __main__, compat
from bigmodel.plan import calibrate, compiling, search
from bigmodel.plan.compiling import CompileError
from tests import runs
from tests.plan import programs

CONFIG = f"{runs.ROOT}/configs/llama.py:1b"
STEP = ["plan", f"--config={CONFIG}", "--config.batch=8", "--config.mesh.fsdp=4"]
STEP += ["--config.mesh.tensor=2", "--topology=v5e:2x4"]


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch, tmp_path):
    """A kept program stands for whatever is asked; figures of another config, all the same."""
    found, _ = programs.load("llama_1b_libtpu_52")
    monkeypatch.setattr(compat, "tune_process", lambda: None)
    monkeypatch.setattr(compiling, "compile_one", lambda request, **_: found)
    monkeypatch.setattr(
        compiling, "compile_all", lambda requests, **_: ((i, found) for i in range(len(requests)))
    )
    monkeypatch.setattr(search, "REMATS", search.REMATS[-4:-1])  # fewer layouts to rank
    monkeypatch.setenv("BIGMODEL_CALIBRATION", str(tmp_path / "own.json"))
    return found


def told(capsys, *flags):
    status = __main__.main([*STEP, *flags])
    return status, *capsys.readouterr()


def test_a_plan_is_one_screen(capsys):
    status, out, _ = told(capsys)
    assert status == 0
    assert "Fits" in out
    assert "all-reduce" in out
    assert len(out.splitlines()) <= 60
    assert max(map(len, out.splitlines())) <= 100


def test_json_holds_the_documented_fields_and_nothing_else(capsys):
    documented = (runs.ROOT / "docs" / "plan.md").read_text().split("## Fields")[1]
    status, out, _ = told(capsys, "--json")
    plan = json.loads(out)
    assert status == 0
    missing = [name for name in plan if f"`{name}`" not in documented]
    assert not missing, f"fields that docs/plan.md does not name: {missing}"


def test_parts_of_time_and_memory_add_up(capsys):
    plan = json.loads(told(capsys, "--json")[1])
    time = sum(v for name, v in plan["time"].items() if name != "collectives_hidden")
    assert time == pytest.approx(plan["step_seconds"])
    assert sum(plan["memory"].values()) == plan["hbm_bytes"]


def test_a_page_is_written(capsys, tmp_path):
    path = tmp_path / "plan.html"
    assert told(capsys, f"--report={path}")[0] == 0
    assert "<svg" in path.read_text()


def test_a_search_ranks_what_fits_first_and_tells_how_far_it_is(capsys):
    status, out, err = told(capsys, "--search", "--json", "--compiled=2")
    found = json.loads(out)["search"]
    assert status == 0
    assert "compiled 2 of 2" in err
    kinds = [row["compiled"] for row in found["layouts"]]
    assert kinds[:2] == ["schedule"] * 2
    assert set(kinds[2:]) == {"analytic"}
    goals = [row["step_seconds"] for row in found["layouts"][2:]]
    assert goals == sorted(goals)


def test_a_search_that_is_interrupted_keeps_what_there_is(capsys, monkeypatch, nothing_is_compiled):
    def interrupted(requests, **_):
        yield 0, nothing_is_compiled
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling, "compile_all", interrupted)
    status, out, _ = told(capsys, "--search", "--json", "--compiled=3")
    found = json.loads(out)["search"]
    assert status == 0
    assert not found["complete"]
    assert sum(row["compiled"] != "analytic" for row in found["layouts"]) == 1


def test_dollars_rank_where_there_is_a_price(capsys):
    status, _, err = told(capsys, "--search", "--objective=cost")
    assert status == 2
    assert "config.prices" in err
    price = "--config.prices={'v5e': 1.2}"
    status, out, _ = told(capsys, "--search", "--objective=cost", "--json", price)
    assert status == 0
    assert json.loads(out)["dollars_per_million_tokens"] > 0


def test_fewest_chips_are_looked_for_among_the_slices(capsys):
    status, out, _ = told(capsys, "--search", "--objective=chips", "--json", "--compiled=0")
    chips = [row["chips"] for row in json.loads(out)["search"]["layouts"]]
    assert status == 0
    assert chips == sorted(chips)
    assert chips[0] < 8


def test_a_budget_that_holds_is_status_0_and_one_that_does_not_1(capsys, tmp_path):
    path = tmp_path / "budget.json"
    path.write_text(told(capsys, "--json")[1])
    assert told(capsys, f"--budget={path}")[0] == 0
    plan = json.loads(path.read_text())
    plan["collectives"] = [row for row in plan["collectives"] if row["axes"] != ["tensor"]]
    path.write_text(json.dumps(plan))
    status, _, err = told(capsys, f"--budget={path}")
    assert status == 1
    assert "over mesh tensor" in err
    assert "layers/" in err


def test_two_plans_are_compared(capsys, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(told(capsys, "--json")[1])
    assert __main__.main(["plan", "--compare", str(path), str(path)]) == 0
    assert "->" in capsys.readouterr().out


def test_a_measured_step_is_kept_as_a_constant(capsys):
    before = json.loads(told(capsys, "--json")[1])["step_seconds"]
    status, out, err = told(capsys, f"--calibrate={1.2 * before}", "--json")
    assert status == 0
    assert "efficiency" in err
    assert json.loads(out)["step_seconds"] == pytest.approx(1.2 * before, rel=1e-3)
    assert calibrate.own()


REFUSED = {
    "--topology=v5q:2x4": "no hardware 'v5q'",
    "--topology=v5e:3x3": "The nearest is v5e:",
    "--config.mesh.fsdp=3": "set one axis to -1",
    "--budget=none.json": "no such file",
    "--objective=speed": "wants one of time, cost, chips",
    "--task=sing": "wants one of train, evaluate",
    "--calibrate=1e-9": "measured: 1e-09 s",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_a_wrong_flag_is_one_message_and_status_2(capsys, flag):
    status, out, err = told(capsys, flag)
    assert (status, out) == (2, "")
    assert REFUSED[flag] in err
    assert "Traceback" not in err


def test_what_is_missing_is_said(capsys):
    for flags, words in ((STEP[:2], "--topology"), (["plan", "--topology=v5e:2x4"], "--config")):
        assert __main__.main(flags) == 2
        assert f"plan needs {words}" in capsys.readouterr().err


def test_the_compilers_own_reason_is_told(capsys, monkeypatch):
    def refuse(request, **_):
        raise CompileError("no such layout")

    monkeypatch.setattr(compiling, "compile_one", refuse)
    status, _, err = told(capsys)
    assert status == 1
    assert "the compiler refuses this step: no such layout" in err
