"""Kept steps: a second start runs the very program of the first, and nothing else finds it."""

import dataclasses
import hashlib
import json
import os
import pickle
import threading

import jax
import jax.numpy as jnp
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from bigmodel import compat, config
from bigmodel import recipe as recipes
from bigmodel.checkpoint import agreement
from bigmodel.sharding import mesh as meshes
from bigmodel.train import attempts, loop, saved
from bigmodel.train import state as states
from tests import runs

FACTS = {"rows": "abc", "tokenizer": "bytes"}
BATCH = {"tokens": jax.ShapeDtypeStruct((8, 32), "int32")}


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch):
    monkeypatch.setattr(saved, "LEAST_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path):
    """jax's own cache of programs, empty: what it gives is not kept. Gives its folder."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    folder = str(tmp_path / "compiled")
    for name, value in zip(names, (folder, 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)  # for those that would choose another
        yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def train(tmp_path):
    """Trains in a new workdir, with steps kept in a folder of the test's; gives the workdir."""
    made = []

    def run(*overrides):
        made.append(tmp_path / f"run{len(made)}")
        small = "steps=4", "checkpoint.every=4", "evals={}", "model.layers=1"
        loaded = config.load(str(runs.write_config(tmp_path)), [*small, *overrides])
        loop.train(loaded, made[-1], kept=str(tmp_path / "steps"))
        return made[-1]

    return run


def kept(folder):
    """The files that are kept, steps first, once their threads have written them."""
    for thread in threading.enumerate():
        if thread.name == "saved program":
            thread.join()
    return sorted((folder / "0").iterdir(), key=lambda path: path.suffix, reverse=True)


def compiled(folder):
    """Whether the newest attempt traced its step."""
    return "compile/trace" in attempts.read(epath.Path(folder))[0][-1].seconds


def test_a_second_start_traces_nothing_and_gives_the_same_bits(train, tmp_path, monkeypatch):
    mesh = "mesh.data=2", "mesh.fsdp=2"
    first = train(*mesh)
    kept(tmp_path / "steps")
    monkeypatch.delattr(states, "initializer")  # nor is a state drawn by anything but the program
    second = train(*mesh)
    assert compiled(first)
    assert not compiled(second)
    assert runs.losses(first) == runs.losses(second)
    assert runs.checksums(first, 4) == runs.checksums(second, 4)


def test_a_kept_state_begins_from_the_weights_that_are_there_now(train, tmp_path, monkeypatch):
    sources = train("seed=1"), train("seed=2")
    place = tmp_path / "source"
    place.symlink_to(sources[0])
    begin = f"init_from={place}", "steps=1", "checkpoint.every=1"
    first = train(*begin)
    kept(tmp_path / "steps")
    place.unlink()
    place.symlink_to(sources[1])
    monkeypatch.delattr(states, "initializer")
    assert runs.losses(train(*begin)) != runs.losses(first)


def test_a_damaged_file_is_told_in_a_line_and_compiled_anew(train, tmp_path, capsys):
    train()
    file, _ = kept(tmp_path / "steps")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole.replace(whole[-9:], b"\x00" * 9), b"", b"{}\n"):
        file.write_bytes(damaged)
        place = saved.Place(file, None, None)
        assert place.load() is None
        told = capsys.readouterr().err
        assert str(file) in told
        assert "compiled anew" in told
        assert len(told.splitlines()) == 1
        assert not file.exists()


def test_what_jaxs_cache_has_given_is_told_from_what_was_compiled():
    """A CPU program that was read and is written once more lacks functions, and fails."""
    found = []
    for _ in range(2):
        lowered = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((8, 8)))
        _, before = saved.moment()
        lowered.compile()
        found.append(saved.moment()[1] - before)
    assert found == [0, 1]


def test_a_program_that_jaxs_cache_gave_is_not_kept(train, tmp_path):
    train()
    for file in kept(tmp_path / "steps"):
        file.unlink()
    second = train()
    assert compiled(second)
    assert [thread for thread in threading.enumerate() if thread.name == "saved program"] == []
    assert kept(tmp_path / "steps") == []


def test_a_kept_step_that_does_not_run_is_thrown_away(tmp_path, capsys):
    file = tmp_path / "a.step"
    file.touch()

    def broken(*inputs):
        raise RuntimeError("no such function")

    with pytest.raises(RuntimeError, match="no such function"):
        saved.Place(file, None, None).guarded(broken)(1)
    assert not file.exists()
    assert "start again" in capsys.readouterr().err
    run = saved.Place(file, None, None).guarded(lambda x: x + 1)
    assert [run(1), run(2)] == [2, 3]


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_read(tmp_path, capsys, monkeypatch, abstract, mode):
    """Were it read, the pickle of a stranger would run."""
    monkeypatch.chdir(tmp_path)
    file, payload = tmp_path / "a.step", pickle.dumps(Trap())
    header = {"sha256": hashlib.sha256(payload).hexdigest(), "metrics": []}
    file.write_bytes(json.dumps(header).encode() + b"\n" + payload)
    file.chmod(mode)
    assert saved.Place(file, (abstract, BATCH), abstract).load() is None
    assert "others can write it" in capsys.readouterr().err
    assert not (tmp_path / "trapped").exists()


@pytest.fixture(scope="module")
def recipe():
    return recipes.make(runs.config())


@pytest.fixture(scope="module")
def abstract(recipe):
    with meshes.use(recipe.mesh, recipe.rules):
        return states.abstract(recipe)


def name(recipe, abstract, *, batch=BATCH, facts=FACTS):
    return saved.place("steps", recipe, abstract, batch, facts).path


def test_the_same_run_finds_its_step(recipe, abstract):
    assert name(recipe, abstract) == name(recipes.make(runs.config()), abstract)


@pytest.mark.parametrize(
    "changed",
    [dict(steps=31), dict(seed=1), dict(compiler={"xla_cpu_enable_fast_math": True})],
    ids=str,
)
def test_another_config_does_not(recipe, abstract, changed):
    assert name(recipes.make(runs.config(**changed)), abstract) != name(recipe, abstract)


def test_other_arrays_data_flags_and_code_do_not(recipe, abstract, monkeypatch, tmp_path):
    names = [name(recipe, abstract)]
    batch = {"tokens": jax.ShapeDtypeStruct((8, 33), "int32")}
    names.append(name(recipe, abstract, batch=batch))
    names.append(name(recipe, abstract, facts=FACTS | {"rows": "abd"}))
    cast = jax.tree.map(lambda leaf: leaf.update(dtype="bfloat16"), abstract)
    names.append(name(recipe, cast))
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        names.append(name(recipe, abstract))
    with monkeypatch.context() as patch:
        patch.setattr(saved.compat, "versions", lambda packages: dict.fromkeys(packages, "0.0"))
        names.append(name(recipe, abstract))
    with monkeypatch.context() as patch:
        patch.setattr(saved, "code", lambda folder: "other")
        names.append(name(recipe, abstract))
    with monkeypatch.context() as patch:
        patch.setattr(saved, "host", lambda: "another CPU")
        names.append(name(recipe, abstract))
    with jax.default_matmul_precision("highest"):
        names.append(name(recipe, abstract))
    assert len(set(names)) == len(names)


def test_the_hash_of_the_code_is_that_of_every_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("x = 1\n")
    before = saved.code(tmp_path)
    (tmp_path / "a" / "b.py").write_text("x = 2\n")
    assert saved.code(tmp_path) != before


def test_no_step_is_kept_where_its_code_or_its_place_is_anybodys(recipe, abstract, monkeypatch):
    own = dataclasses.replace(recipe.loaded, extensions={"optimizer": {"mine": print}})
    with_own = dataclasses.replace(recipe, loaded=own)
    assert saved.place("steps", with_own, abstract, BATCH, FACTS) is None
    assert saved.place("gs://bucket/steps", recipe, abstract, BATCH, FACTS) is None
    assert saved.place("", recipe, abstract, BATCH, FACTS) is None


def test_processes_have_files_of_their_own_and_load_them_all_or_none(
    recipe, abstract, monkeypatch, tmp_path
):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    places = []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        places.append(saved.place(str(tmp_path), recipe, abstract, BATCH, FACTS))
    assert [place.path.parent for place in places] == [tmp_path / "0", tmp_path / "1"]
    monkeypatch.setattr(saved.Place, "_read", lambda place: "a program")
    assert places[1].load() == "a program"
    monkeypatch.setattr(agreement, "agreed", lambda fault, what: fault or "absent")  # elsewhere
    assert places[1].load() is None
    assert saved.place(str(tmp_path), recipe, abstract, BATCH, FACTS) is None


def test_the_oldest_files_go(tmp_path):
    for i in range(saved.KEPT + 3):
        file = tmp_path / f"{i}.{'step' if i % 2 else 'state'}"
        file.touch()
        os.utime(file, (i, i))
    saved.prune(tmp_path)
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == list(range(3, saved.KEPT + 3))


def test_the_cache_may_be_turned_off(monkeypatch):
    monkeypatch.setenv("BIGMODEL_CACHE", "/somewhere/")
    assert compat.kept_steps() == "/somewhere/steps"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert compat.kept_steps() == ""
