"""Compiling in children: what comes of it, what fails, and in whose words."""

import importlib.util
import pathlib
import time

import pytest

import bigmodel
from bigmodel import config
from bigmodel import plan as planning
from bigmodel.plan import compiling, requests
from tests.plan import children

NEEDS_LIBTPU = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)

# Children that do as they are told, to see what becomes of each


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("echo start; echo boom >&2; exit 3", compiling.CompileError, "status 3: boom$"),
        ("kill -9 $$", compiling.CompileError, "status -9"),
        (f"{children.META}; exit 1", compiling.CompileError, "status 1"),
        (f"{children.META}; exit 0", compiling.CompileError, "it wrote no program"),
        (
            children.error("refused", "mesh: 3 does not divide"),
            config.InputError,
            "^mesh: 3 does not",
        ),
        (
            f"{children.META}; {children.error('compiler', 'INTERNAL: no such thing')}; exit 1",
            *(compiling.CompileError, "^no such thing$"),
        ),
        (
            f"{children.META}; {children.error('memory', children.OVERFULL)}; exit 1",
            *(compiling.CompileError, "^Ran out of memory on HBM. Used 9G of 8G.$"),
        ),
    ],
)
def test_what_goes_wrong_is_told_in_the_words_of_who_refused(pretend, script, kind, said):
    pretend(script)
    with pytest.raises(kind, match=said):
        compiling.compile_one(children.request("v5e:2x4"))


def test_an_overfull_program_is_an_answer(pretend):
    pretend(f"{children.WRITTEN}{children.error('memory', children.OVERFULL)}; exit 1")
    found = compiling.compile_one(children.request("v5e:2x4"))
    assert found.overfull == "Ran out of memory on HBM. Used 9G of 8G."
    assert "ENTRY" in found.program


def test_the_schedule_is_taken_as_soon_as_it_is_there(pretend):
    pretend(f"{children.WRITTEN}exec sleep 1000")
    began = time.monotonic()
    found = compiling.compile_one(children.request("v5e:2x4"))
    assert time.monotonic() - began < 60
    assert found.program.rstrip().endswith("}")
    assert found.memory is None


@pytest.mark.parametrize(
    "torn",
    [
        "ENTRY %main () -> f32[] {",
        "%fused (x: f32[]) -> f32[] {\n}",
        "%fused (x: f32[]) -> f32[] {\n}\n\nENTRY %main (x: f32[8]{0}",
        "ENTRY %main () -> f32[] {\n  %x = f32[8]{0}",
    ],
    ids=["the entry's head", "a computation before it", "half a head", "half a line"],
)
def test_a_program_that_is_half_written_is_waited_for(pretend, torn):
    name = "m.after_optimizations_after_buffer_assignment.txt"
    whole = children.WRITTEN.splitlines()
    pretend(
        "\n".join([f"printf %s '{torn}' > $F/{name}", whole[0], *whole[3:], "sleep 1", *whole[1:3]])
        + "\nexec sleep 1000"
    )
    found = compiling.compile_one(children.request("v5e:2x4"), cached=False)
    assert found.program == "ENTRY %main () -> f32[] {\n}\n"


@pytest.mark.parametrize("script", ["", children.META, f"{children.WRITTEN}"])
@pytest.mark.parametrize("full", [False, True], ids=["schedule", "full"])
def test_a_child_out_of_time_gives_no_answer(pretend, script, full):
    if script == children.WRITTEN and not full:
        return  # that is one
    pretend(f"{script}\nexec sleep 1000")
    one = compiling.Compiling(children.request("v5e:2x4", full=full), timeout=0.5)
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
    one = compiling.Compiling(children.request("v5e:2x4"))
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
    every = [children.request("v5e:2x4", {"seed": seed}) for seed in range(2)]
    with pytest.raises(KeyboardInterrupt):
        list(compiling.compile_all(every, workers=2))
    monkeypatch.undo()
    assert len(started) == 2
    assert all(map(gone, started))


def test_one_that_fails_stops_no_other(pretend):
    pretend(f'grep -q \'"argument": "tiny"\' $F/request.json || exit 1\n{children.WRITTEN}')
    bad = planning.make_request(bigmodel.load_config("configs/llama.py:1b"), "v5e:2x4")
    found = dict(compiling.compile_all([bad, children.request("v5e:2x4")], workers=1))
    assert isinstance(found[0], compiling.CompileError)
    assert isinstance(found[1], requests.Found)


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
        compiling.compile_one(children.request(where))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("INTERNAL: Mosaic failed", "Mosaic failed"),
        (children.OVERFULL.replace("\\n", "\n"), "Ran out of memory on HBM. Used 9G of 8G."),
        ("INVALID_ARGUMENT: bad\n  option\n==== here\nmore", "bad option"),
        ("INTERNAL: during\n    at foo.cc:3", "during"),
        ("x" * 5000, "x" * 1000),
    ],
)
def test_the_compilers_reason_is_one_line(text, sentence):
    assert compiling.sentence(text) == sentence


# Real compilers


def test_simulated_devices_compile_to_the_end(own_cache):
    plan = planning.plan(children.request("cpu:8").loaded, "cpu:8", task="evaluate")
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
    one = children.request("v5e:2x2", options)
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
        compiling.compile_one(children.request("v5e:2x2", changes))
    assert "Traceback" not in str(error.value)
    assert "\n" not in str(error.value)
