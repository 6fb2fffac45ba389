"""Laws of the local tier: the newest that is whole everywhere comes back, or the persistent one."""

import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import checkpoint, config, recipe
from bigmodel.checkpoint import agreement, manifest
from tests import runs
from tests.checkpoint import states


def tiers(folder, **settings):
    """Tiers of the run in `folder` that save locally at each step, and for good at each tenth."""
    local = {"local": str(folder / "local"), "local_every": 1} | settings
    return checkpoint.Tiers(folder / "checkpoints", every=10, **local)


def saved(folder, *steps, mesh=(8,), **settings):
    """Where the run's local checkpoints are, with those of some steps."""
    with tiers(folder, **settings) as both:
        for step in steps:
            assert both.due(step)
            both.save(step, states.on(states.mesh_of(*mesh), step), {"step": step})
        both.persistent.wait()
    return both.local.folder / both.local.run


def restored(folder, *, mesh=(8,), **settings):
    """What a new process restores, and what it tells."""
    told: list[str] = []
    with tiers(folder, **settings) as both:
        if not both.find(states.abstract(states.mesh_of(*mesh)), warn=told.append):
            return None, told
        return both.restore(states.abstract(states.mesh_of(*mesh)), warn=told.append), told


def check(found, step):
    assert (found.step, found.metadata) == (step, {"step": step})
    assert states.bits(found.tree) == states.bits(states.make(step))


@pytest.mark.parametrize("mesh", [(8,), (2, 4), (1,)], ids=str)
def test_the_newest_of_both_tiers_is_restored_bit_for_bit(tmp_path, mesh):
    saved(tmp_path, 9, 10, 11, 12, mesh=mesh)
    found, told = restored(tmp_path, mesh=mesh)
    check(found, 12)
    assert told == []
    wanted = states.abstract(states.mesh_of(*mesh))
    assert jax.tree.map(lambda x: x.sharding, found.tree) == jax.tree.map(
        lambda x: x.sharding, wanted
    )
    with tiers(tmp_path) as both:
        both.metadata()
        assert both.steps() == {10: "persistent", 11: "local", 12: "local"}
    saved(tmp_path, 20, mesh=mesh)
    check(restored(tmp_path, mesh=mesh)[0], 20)


DTYPES = (
    *("int4", "uint4", "float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32"),
    *("bool", "int8", "uint32", "complex64"),
)


@pytest.mark.parametrize("memory", ["device", "pinned_host"])
def test_every_dtype_survives(tmp_path, memory):
    mesh = states.mesh_of(4, 2)
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tensor"), memory_kind=memory)
    values = np.random.default_rng(0).normal(size=(4, 3)) * 9
    values[0, 0] = -0.0
    names = [name for name in DTYPES if memory == "device" or not name.endswith("int4")]
    tree = {name: jax.device_put(jnp.asarray(values).astype(name), cut) for name in names}
    tree["empty"] = jnp.zeros((0, 2))
    expected = states.bits(tree)
    with tiers(tmp_path) as both:
        assert both.due(1)
        both.save(1, tree, {})
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
        )
        found = both.restore(abstract)
    assert states.bits(found.tree) == expected
    assert found.tree["bfloat16"].sharding == cut


def test_a_shard_is_written_once_and_the_next_step_may_take_its_memory(tmp_path):
    mesh = states.mesh_of(8)
    ruin = jax.jit(lambda x: x - 1, donate_argnums=0)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = jax.device_put(np.ones(4096, np.float32), whole)
    with tiers(tmp_path) as both:
        both.due(1)
        both.save(1, {"x": array}, {})
        for _ in range(5):
            array = ruin(array)
        jax.block_until_ready(array)
        assert not both.local.fault()
        assert manifest.sizes(both.local.at(1)) == {"shards": 4 * 4096}
        abstract = {"x": jax.ShapeDtypeStruct((4096,), np.float32, sharding=whole)}
        np.testing.assert_array_equal(both.restore(abstract).tree["x"], 1)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_a_damaged_file_is_named_and_the_one_before_is_taken(tmp_path, damage):
    run = saved(tmp_path, 10, 11, 12)
    damage(run / "12" / "0-of-1" / "shards")
    found, told = restored(tmp_path)
    check(found, 11)
    (line,) = told
    assert "step 12 is left aside" in line
    assert f"{run}/12/0-of-1: shards" in line
    assert "\n" not in line
    assert not (run / "12").exists()  # the run goes on before it
    damage(run / "11" / "0-of-1" / "shards")
    check(restored(tmp_path)[0], 10)


def test_without_its_manifest_it_was_never_finished(tmp_path):
    run = saved(tmp_path, 10, 11)
    (run / "11" / "0-of-1" / "manifest.json").unlink()
    found, (line,) = restored(tmp_path)
    check(found, 10)
    assert "process 0 of 1 has no finished one" in line


def test_on_another_mesh_or_pipeline_the_persistent_one_is_taken(tmp_path):
    saved(tmp_path, 10, 11)
    found, (line,) = restored(tmp_path, mesh=(2, 4))
    check(found, 10)
    assert "it is of another mesh" in line
    saved(tmp_path, 11)
    found, (line,) = restored(tmp_path, order=np.array([1, 0]))
    assert found.step == 10
    assert "another pipeline" in line


def test_the_local_checkpoints_of_another_run_are_never_taken(tmp_path):
    run = saved(tmp_path, 10, 11)
    moved = tmp_path / "copy"
    shutil.copytree(tmp_path / "checkpoints", moved / "checkpoints")
    shutil.copytree(tmp_path / "local", moved / "local")
    found, told = restored(moved)
    check(found, 10)
    assert told == []
    with tiers(moved) as other:
        other.metadata()
        assert other.local.run != run.name
        os.rename(moved / "local" / run.name, moved / "local" / other.local.run)
    found, (line,) = restored(moved)
    check(found, 10)
    assert "it is of another run" in line
    shutil.rmtree(tmp_path / "checkpoints")  # begun anew in the same place
    assert restored(tmp_path) == (None, [])


def test_a_run_id_from_a_stranger_chooses_no_path(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "run_id").write_text("../../elsewhere")
    assert saved(tmp_path, 11).parent == tmp_path / "local"


@pytest.mark.parametrize(
    ("others", "line"),
    [
        (["[[], []]"], "process 1 of 2 has no finished one"),
        (["[[9], [9, 11, 12]]"], "process 1 of 2 has no finished one"),
        (["[[12, 11], [11, 12]]"], ""),
    ],
    ids=["a replaced host", "a host whose save was cut off", "whole"],
)
def test_what_another_process_lacks_none_takes(tmp_path, monkeypatch, others, line):
    saved(tmp_path, 10, 11, 12)

    def gathered(what, text, **_):
        return [text, *(others if "local checkpoints" in what else [""])]

    monkeypatch.setattr(agreement, "gathered", gathered)
    found, told = restored(tmp_path)
    check(found, 10 if line else 12)
    assert [line in text and "step 12" in text for text in told] == [True] * bool(line)


def test_few_stay_and_what_is_newer_than_the_run_goes(tmp_path):
    run = saved(tmp_path, 11, 12, 13, 14)
    assert sorted(os.listdir(run)) == ["13", "14"]
    saved(tmp_path, 15, 16, 17, local_keep=3)
    assert sorted(os.listdir(run)) == ["15", "16", "17"]
    saved(tmp_path, 16)  # taken back to 15
    assert sorted(os.listdir(run)) == ["15", "16"]


def test_in_the_end_the_local_ones_go_if_a_persistent_one_holds_as_much(tmp_path):
    run = saved(tmp_path, 10, 11)
    with tiers(tmp_path) as both:
        both.metadata()
        both.finish()
        assert run.exists()
        assert both.due(12, ends=True)
        both.save(12, states.on(states.mesh_of(8), 12), {"step": 12})
        both.finish()
    assert both.steps() == {10: "persistent", 12: "persistent"}
    assert not run.exists()


def test_a_full_disk_is_named_at_the_next_save_with_what_it_takes(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    with tiers(tmp_path) as both:
        for step in (1, 2):
            both.due(step)
            monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
            if step == 1:
                both.save(step, {"x": jnp.ones(64)}, {})
        where = both.local.at(1)
        with pytest.raises(checkpoint.SaveError) as raised:
            both.save(2, {"x": jnp.ones(64)}, {})
    assert f"process 0: the local checkpoint {where} cannot be written: no room" in str(
        raised.value
    )
    assert "It needs 256 bytes, 100 are free." in str(raised.value)
    assert not where.exists()


def test_wrong_settings_are_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(config.InputError, match="each host's own"):
        tiers(tmp_path, local="gs://bucket/x")
    with (
        tiers(tmp_path, local=str(tmp_path / "file" / "x")) as both,
        pytest.raises(config.InputError, match=f"process 0 may not write to {tmp_path}/file"),
    ):
        both.metadata()
    for field, least in (("local_every", 1), ("local_keep", 2)):
        wrong = runs.config(checkpoint={field: least - 1})
        with pytest.raises(config.InputError, match=f"checkpoint.{field} .* at least {least}"):
            recipe.make(wrong)
