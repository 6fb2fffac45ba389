"""Compiling in children: what comes of it, what fails and why, and what is kept."""

import importlib.util
import json
import pathlib
import stat
import time

import pytest

import bigmodel
from bigmodel import config
from bigmodel import plan as planning
from bigmodel.plan import compiling, requests

NEEDS_LIBTPU = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)
TINY = {"model.dtype": "bfloat16", "mesh.fsdp": -1, "batch": 8, "data.length": 128}


def request(where="cpu:8", changes=None, **options):
    loaded = bigmodel.load_config("configs/llama.py:tiny")
    loaded = planning.changed(loaded, list((TINY | (changes or {})).items()))
    return planning.make_request(loaded, where, **options)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "cache"))


# Children that do as they are told, to see what becomes of each


@pytest.fixture
def pretend(tmp_path, monkeypatch, own_cache):
    """Runs a shell script in the child's place; $F is its folder."""
    monkeypatch.setattr(compiling, "check_installed", lambda topology: None)

    def use(script):
        path = tmp_path / "child"
        path.write_text(f"#!/bin/sh\nF=$3\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(compiling.sys, "executable", str(path))

    return use


META = """echo '{"mesh": {}}' > $F/meta.json"""
WRITTEN = f"""{META}
echo 'ENTRY %main () -> f32[] {{' > $F/m.after_optimizations_after_buffer_assignment.txt
echo '}}' >> $F/m.after_optimizations_after_buffer_assignment.txt
echo 'BufferAssignment:' > $F/m-buffer-assignment.txt
echo 'Memory Space HBM' > $F/m-memory-usage-report.txt
"""


def error(kind, text):
    return f"""echo '{json.dumps(dict(kind=kind, text=text))}' > $F/error.json"""


OVERFULL = "RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM. Used 9G of 8G.\\nSee https://x"


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("echo start; echo boom >&2; exit 3", compiling.CompileError, "status 3: boom$"),
        ("kill -9 $$", compiling.CompileError, "status -9"),
        (f"{META}; exit 1", compiling.CompileError, "status 1"),
        (f"{META}; exit 0", compiling.CompileError, "it wrote no program"),
        (error("refused", "mesh: 3 does not divide"), config.InputError, "^mesh: 3 does not"),
        (
            f"{META}; {error('compiler', 'INTERNAL: no such thing')}; exit 1",
            *(compiling.CompileError, "^no such thing$"),
        ),
        (
            f"{META}; {error('memory', OVERFULL)}; exit 1",
            *(compiling.CompileError, "^Ran out of memory on HBM. Used 9G of 8G.$"),
        ),
    ],
)
def test_what_goes_wrong_is_told_in_the_words_of_who_refused(pretend, script, kind, said):
    pretend(script)
    with pytest.raises(kind, match=said):
        compiling.compile_one(request("v5e:2x4"))


def test_an_overfull_program_is_an_answer(pretend):
    pretend(f"{WRITTEN}{error('memory', OVERFULL)}; exit 1")
    found = compiling.compile_one(request("v5e:2x4"))
    assert found.overfull == "Ran out of memory on HBM. Used 9G of 8G."
    assert "ENTRY" in found.program


def test_the_schedule_is_taken_as_soon_as_it_is_there(pretend):
    pretend(f"{WRITTEN}exec sleep 1000")
    began = time.monotonic()
    found = compiling.compile_one(request("v5e:2x4"))
    assert time.monotonic() - began < 60
    assert found.program.rstrip().endswith("}")
    assert found.memory is None


def test_a_program_that_is_half_written_is_waited_for(pretend):
    half = WRITTEN.splitlines()
    pretend("\n".join([*half[:2], *half[3:], "sleep 1", half[2], "exec sleep 1000"]))
    assert compiling.compile_one(request("v5e:2x4")).program.rstrip().endswith("}")


@pytest.mark.parametrize("script", ["", META, f"{WRITTEN}"])
@pytest.mark.parametrize("full", [False, True], ids=["schedule", "full"])
def test_a_child_out_of_time_gives_no_answer(pretend, script, full):
    if script == WRITTEN and not full:
        return  # that is one
    pretend(f"{script}\nexec sleep 1000")
    one = compiling.Compiling(request("v5e:2x4", full=full), timeout=0.5)
    try:
        with pytest.raises(compiling.CompileError, match="nothing came of it in"):
            one.result()
    finally:
        one.close()


def alive(pid):
    path = pathlib.Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid):
    end = time.monotonic() + 10
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_closing_kills_what_the_child_started(pretend, tmp_path):
    pretend(f"sleep 1000 & echo $! > {tmp_path}/tmp; mv {tmp_path}/tmp {tmp_path}/pid; wait")
    one = compiling.Compiling(request("v5e:2x4"))
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    pids = (int((tmp_path / "pid").read_text()), one.process.pid)
    assert all(map(alive, pids))
    one.close()
    assert all(map(gone, pids))
    assert not one.folder.exists()


def test_an_interrupt_kills_the_children(pretend, monkeypatch):
    pretend("exec sleep 1000")
    started = []
    init = compiling.Compiling.__init__

    def noted(self, *given):
        init(self, *given)
        started.append(self.process.pid)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(compiling.Compiling, "__init__", noted)
    monkeypatch.setattr(compiling.time, "sleep", interrupted)
    every = [request("v5e:2x4", {"seed": seed}) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        list(compiling.compile_all(every, workers=2))
    monkeypatch.undo()
    assert len(started) == 2
    assert all(map(gone, started))


def test_one_that_fails_stops_no_other(pretend):
    pretend(f'grep -q \'"argument": "tiny"\' $F/request.json || exit 1\n{WRITTEN}')
    bad = planning.make_request(bigmodel.load_config("configs/llama.py:1b"), "v5e:2x4")
    found = dict(compiling.compile_all([bad, request("v5e:2x4")], workers=1))
    assert isinstance(found[0], compiling.CompileError)
    assert isinstance(found[1], requests.Found)


# What is kept


def test_an_answer_is_kept_and_taken(pretend, tmp_path):
    pretend(WRITTEN)
    first = compiling.compile_one(request("v5e:2x4"))
    pretend("exit 1")
    assert compiling.compile_one(request("v5e:2x4")) == first
    for other in (request("v5e:4x4"), request("v5e:2x4", {"batch": 16})):
        with pytest.raises(compiling.CompileError):
            compiling.compile_one(other)
    with pytest.raises(compiling.CompileError):
        compiling.compile_one(request("v5e:2x4"), cached=False)


def test_a_damaged_answer_is_made_anew(pretend):
    one = request("v5e:2x4")
    path = requests.place(one)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no gzip")
    pretend(WRITTEN)
    assert compiling.compile_one(one) == requests.load(one)


def test_a_cache_that_cannot_be_written_is_none(pretend, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path / "file"))
    pretend(WRITTEN)
    assert compiling.compile_one(request("v5e:2x4")).program


def test_a_key_holds_all_that_the_answer_depends_on(monkeypatch):
    first = request("v5e:2x4")
    others = [
        request("v5e:2x4", {"batch": 16}),
        request("v5e:4x4"),
        request("v5e:2x4", slices=2),
        request("v5e:2x4", task="evaluate"),
        request("v5e:2x4", full=True),
        request("v5e:2x4", prompt=64),
    ]
    keys = {one.key for one in (first, *others)}
    assert len(keys) == len(others) + 1
    assert request("v5e:2x4").key == first.key
    monkeypatch.setattr(requests, "version", lambda package: f"{package} 99")
    assert request("v5e:2x4").key not in keys


# Refusals


@pytest.mark.parametrize(
    ("where", "module", "line"),
    [
        ("v5e:2x4", "libtpu", r"pip install 'bigmodel\[plan\]'"),
        ("gpu:h100:1x8", "jax_cuda12_plugin", r"pip install 'bigmodel\[plan-gpu\]'"),
    ],
)
def test_a_compiler_that_is_not_here_is_named_with_the_line_that_installs_it(
    monkeypatch, where, module, line
):
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        config.InputError, match=f"{module}.*not installed. Install it with: {line}$"
    ):
        compiling.compile_one(request(where))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("INTERNAL: Mosaic failed", "Mosaic failed"),
        (OVERFULL.replace("\\n", "\n"), "Ran out of memory on HBM. Used 9G of 8G."),
        ("INVALID_ARGUMENT: bad\n  option\n==== here\nmore", "bad option"),
        ("INTERNAL: during\n    at foo.cc:3", "during"),
        ("x" * 5000, "x" * 1000),
    ],
)
def test_the_compilers_reason_is_one_line(text, sentence):
    assert compiling.sentence(text) == sentence


# Real compilers


def test_simulated_devices_compile_to_the_end(own_cache):
    plan = planning.plan(request("cpu:8").loaded, "cpu:8", task="evaluate")
    assert (plan["compiled"], plan["device"], plan["devices"]) == ("full", "cpu", 8)
    assert plan["hbm_bytes"] > 0
    assert sum(plan["memory"].values()) == plan["hbm_bytes"]
    for unknown in ("fits", "hbm_limit_bytes", "step_seconds", "mfu", "time"):
        assert plan[unknown] is None, unknown
    assert plan["flops_per_step"] > 0
    assert any("simulated" in said for said in plan["warnings"])


@NEEDS_LIBTPU
def test_a_step_compiles_and_says_which_options_it_does_not_know(own_cache):
    options = {"compiler.xla_tpu_no_such_thing": True}
    one = request("v5e:2x2", options)
    found = compiling.compile_one(one)
    assert found.refused == ["xla_tpu_no_such_thing"]
    assert found.memory is None
    assert not found.overfull
    plan = planning.answer.plan(one, found)
    assert plan["fits"] is True
    assert plan["flags_refused"] == ["xla_tpu_no_such_thing"]
    parts = {name: s for name, s in plan["time"].items() if name != "collectives_hidden"}
    assert sum(parts.values()) == pytest.approx(plan["step_seconds"])
    assert sum(plan["memory"].values()) == plan["hbm_bytes"]
    assert sum(c["exposed_seconds"] for c in plan["collectives"]) == pytest.approx(
        plan["time"]["collectives_exposed"]
    )


@pytest.mark.tpu
@NEEDS_LIBTPU
def test_an_overfull_memory_is_told_with_the_compilers_own_sizes(own_cache):
    large = bigmodel.load_config("configs/llama.py:1b")
    changes = [("batch", 512), ("data.length", 4096), ("model.remat", "none")]
    plan = planning.plan(planning.changed(large, changes), "v5e:2x2", full=True)
    assert plan["fits"] is False
    assert plan["hbm_bytes"] > plan["hbm_limit_bytes"]
    assert any("exceeds available HBM (15.75G)" in said for said in plan["warnings"])


@pytest.mark.tpu
@NEEDS_LIBTPU
def test_an_option_that_the_compiler_does_not_take_is_told_in_its_words(own_cache):
    changes = {"compiler.xla_tpu_scoped_vmem_limit_kib": "many"}
    with pytest.raises(compiling.CompileError, match="xla_tpu_scoped_vmem_limit_kib") as error:
        compiling.compile_one(request("v5e:2x2", changes))
    assert "Traceback" not in str(error.value)
    assert "\n" not in str(error.value)
