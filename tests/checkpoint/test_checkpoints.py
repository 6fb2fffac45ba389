"""Laws of checkpoints: what comes back is bit for bit what was saved, on whatever mesh."""

import time

import jax
import jax.numpy as jnp
import pytest

from bigmodel import checkpoint, compat, config
from bigmodel.checkpoint import checksums, store
from tests.checkpoint import states


@pytest.mark.parametrize("sizes", [(8,), (2, 4), (1,)], ids=str)
def test_state_saved_on_a_mesh_is_restored_bitwise_on_another(tmp_path, sizes):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, states.on(states.mesh_of(4, 2), 3), {"width": 16})
        wanted = states.abstract(states.mesh_of(*sizes))
        step, tree, metadata = checkpoints.restore(wanted)
    assert (step, metadata) == (3, {"width": 16})
    assert states.bits(tree) == states.bits(states.make(3))
    assert jax.tree.map(lambda x: x.sharding, tree) == jax.tree.map(lambda x: x.sharding, wanted)


def test_donating_the_state_right_after_save_does_not_change_the_checkpoint(tmp_path):
    mesh = states.mesh_of(8)

    @jax.jit
    def unlike(tree):
        return jax.tree.map(lambda x: (x.astype(jnp.float32) - 1).astype(x.dtype), tree)

    ruin = jax.jit(unlike, donate_argnums=0)
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 4):
            params = states.on(mesh, step).params
            checkpoints.save(step, {"params": params}, {})
            for _ in range(5):
                params = ruin(params)
        jax.block_until_ready(params)
        for step in range(1, 4):
            wanted = {"params": states.abstract(mesh).params}
            tree = checkpoints.restore(wanted, step=step).tree
            assert states.bits(tree["params"]) == states.bits(states.make(step).params)


def test_a_part_of_the_tree_is_restored_without_the_rest(tmp_path):
    mesh = states.mesh_of(8)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, states.on(mesh, 1), {}, wait=True)
    reader = checkpoint.Checkpoints(tmp_path)
    tree = reader.restore({"params": states.abstract(mesh).params}).tree
    assert states.bits(tree) == {"params": states.bits(states.make(1).params)}


def test_another_model_is_refused_with_both_shapes_named(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"head": jnp.ones((4, 6))}}, {})
        wanted = {"params": {"head": jax.ShapeDtypeStruct((4, 8), jnp.float32)}}
        with pytest.raises(config.InputError, match=r"head: .* float32\[4, 8\].* float32\[4, 6\]"):
            checkpoints.restore(wanted)
        wanted = {"ema": {"head": jax.ShapeDtypeStruct((4, 6), jnp.float32)}}
        with pytest.raises(config.InputError, match=r"ema/head: .* no such leaf"):
            checkpoints.restore(wanted)


def test_the_newest_and_the_best_are_kept(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 2.5, 6: 2.5}
    with checkpoint.Checkpoints(tmp_path, keep=2, best="loss") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, {"x": jnp.int32(step)}, {}, metrics={"loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.latest() == 6


def test_a_step_that_is_there_is_not_written_again(tmp_path):
    leaf = jax.ShapeDtypeStruct((), jnp.int32)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.int32(1)}, {}, wait=True)
        written = (tmp_path / "1" / "manifest.json").stat().st_mtime_ns
        checkpoints.save(1, {"x": jnp.int32(2)}, {}, wait=True)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore({"x": leaf})
        checkpoints.save(1, {"x": jnp.int32(3)}, {}, wait=True)
    assert (tmp_path / "1" / "manifest.json").stat().st_mtime_ns == written


def test_a_failed_save_is_raised_at_the_next_call(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(1, {"x": jnp.int32(1)}, {"unwritable": object()})
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.wait()
    checkpoints.close()
    assert checkpoints.steps() == []


def test_no_checkpoint_and_wrong_settings_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = checkpoint.Checkpoints("some/where")
    assert checkpoints.latest() is None
    assert checkpoints.metadata() == {}
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}/some/where"):
        checkpoints.restore({})
    with pytest.raises(config.InputError, match="keep is 0; allowed: 1 or more"):
        checkpoint.Checkpoints(tmp_path, keep=0)
    with pytest.raises(config.InputError, match='"lowest"'):
        checkpoint.Checkpoints(tmp_path, best_is="low")


def test_warm_leaves_no_checksum_to_compile(tmp_path, caplog):
    mesh = states.mesh_of(8)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.warm(states.abstract(mesh).params)
    params = states.on(mesh, 1).params
    with jax.log_compiles():
        jax.tree.map(checksums.checksum, params)
        assert "Finished XLA compilation" not in caplog.text
        checksums.checksum(params["head"].T)
        assert "Finished XLA compilation of jit(checksum)" in caplog.text


def test_a_save_compiles_nothing_beside_what_warms(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(store, "warm", lambda: (time.sleep(0.2), order.append("warm")))
    monkeypatch.setattr(compat, "in_turn", lambda sums: order.append("sums") or sums)
    params = states.on(states.mesh_of(8), 1).params
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.warm(params)
        checkpoints.save(1, params, {})
    assert order == ["warm"] + ["sums"] * len(jax.tree.leaves(params))
