"""Meshes and rules: sizes, slices, and what they refuse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import recipe as recipes
from bigmodel import trees
from bigmodel.config import InputError
from bigmodel.data import pipeline
from bigmodel.sharding import mesh, rules
from bigmodel.train import state
from tests import runs


def test_one_axis_takes_the_devices_that_the_others_leave():
    assert mesh.sizes({"fsdp": -1, "tensor": 2}, 8)["fsdp"] == 4


def test_a_mesh_has_all_axes_left_to_the_compiler():
    made = mesh.make({"data": 2, "fsdp": 4})
    assert made.axis_names == mesh.AXES
    assert set(made.axis_types) == {jax.sharding.AxisType.Auto}
    assert made.devices.shape == (2, 1, 4, 1, 1, 1)


def test_a_mesh_may_leave_devices_unused():
    assert mesh.make({"data": 2}).devices.size == 2


def test_a_mesh_that_leaves_a_process_without_devices_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # all devices are of process 0
    with pytest.raises(InputError, match="2 of 8 devices leave process 1 of 2 without any"):
        mesh.make({"data": 2})
    assert mesh.make({"data": 2}, devices=jax.devices()).devices.size == 2


def test_slices_cut_the_first_axis_that_they_divide():
    made = mesh.make({"data": 2, "fsdp": 4}, slices=2)
    ids = np.vectorize(lambda device: device.id)(made.devices)
    assert set(ids[0].ravel()) == {0, 1, 2, 3}
    assert mesh.slice_axis({"data": 1, "stage": 1, "fsdp": 4}, 2) == "fsdp"


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (dict(data=16), "16 devices and there are 8"),
        (dict(data=-1, fsdp=-1), "only one axis may be -1"),
        (dict(data=-1, tensor=3), "must divide the 8 devices"),
        (dict(data=0), "mesh.data = 0"),
    ],
)
def test_impossible_sizes_are_refused_by_name(sizes, told):
    with pytest.raises(InputError, match=told):
        mesh.sizes(sizes, 8)


def test_slices_that_divide_no_axis_are_refused():
    with pytest.raises(InputError, match="mesh_slices = 3"):
        mesh.make({"data": 8}, slices=3)


class Tpu(NamedTuple):
    """As much of a device as a choice of devices looks at."""

    id: int
    slice_index: int
    platform: str = "tpu"


def test_a_mesh_takes_as_many_devices_of_each_slice():
    devices = [Tpu(n, n // 4) for n in range(8)]
    assert [device.id for device in mesh.of_slices(devices, 4, 2)] == [0, 1, 4, 5]


@pytest.mark.parametrize("slices", [1, 4])
def test_slices_other_than_those_that_are_there_are_refused(slices):
    with pytest.raises(InputError, match=f"mesh_slices = {slices}: .* 2 slices; allowed is 2"):
        mesh.of_slices([Tpu(n, n // 4) for n in range(8)], 8, slices)


def test_a_row_of_the_config_goes_over_the_table():
    table = dict(rules.table("fsdp_tensor", [("embed", ("data", "fsdp"))], mesh.AXES))
    assert table["embed"] == ("data", "fsdp")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(rules="fsdp_tensr"), 'Did you mean "fsdp_tensor"'),
        (dict(extra_rules=(("embed", "fdsp"),)), 'Did you mean "fsdp"'),
        (dict(extra_rules=(("embed", "tensor"),)), "both lie on mesh axis 'tensor'"),
        (dict(mesh=dict(tensor=8)), "axis 'kv_heads' of length 2 is cut 8 ways"),
        (dict(mesh=dict(data=8), batch=12), "batch = 12 does not divide over 8 parts"),
        (dict(mesh=dict(data=4), accumulate=4), "batch = 8 does not divide over 4 parts"),
    ],
)
def test_rules_and_batches_that_cannot_be_laid_out_are_refused_by_name(change, told):
    with pytest.raises(InputError, match=told):
        recipes.make(runs.config(**change))


def test_an_axis_without_a_rule_names_the_parameter():
    import flax.linen as nn

    boxed = {"kernel": nn.LogicallyPartitioned(jnp.zeros((2, 2)), ("embed", "mpl"))}
    with pytest.raises(InputError, match=r"kernel: logical axis 'mpl'[\s\S]*'mlp'"):
        rules.shardings(boxed, rules.FSDP_TENSOR, mesh.make({}))


def test_optimizer_state_lies_where_its_parameter_does():
    recipe = recipes.make(runs.config(mesh=dict(fsdp=4, tensor=2)))
    from bigmodel.train import state

    abstract = state.abstract(recipe)
    kernel = abstract.params["layers"]["feedforward"]["up"]["kernel"]
    moments = [
        leaf
        for path, leaf in trees.flatten(abstract.opt_state).items()
        if path.endswith("layers/feedforward/up/kernel")
    ]
    assert len(moments) == 2
    assert all(leaf.sharding == kernel.sharding for leaf in moments)
    assert not kernel.sharding.is_fully_replicated


def test_a_state_is_born_sharded_and_the_same_on_any_mesh():
    from bigmodel.sharding.mesh import use
    from bigmodel.train import state

    born = []
    for sizes in ({}, dict(fsdp=4, tensor=2)):
        recipe = recipes.make(runs.config(mesh=sizes))
        with use(recipe.mesh, recipe.rules):
            born.append(jax.device_get(state.create(recipe).params))
    jax.tree.map(np.testing.assert_array_equal, *born)


def test_a_mesh_axis_is_one_word_and_its_rows(monkeypatch):
    """From outside: a name beside the library's, and rules that lie on it."""
    monkeypatch.setattr(mesh, "AXES", ("replica", *mesh.AXES))
    rows = (("batch", ("replica", "data", "fsdp")), ("mlp", ("tensor", "replica")))
    recipe = recipes.make(runs.config(mesh=dict(replica=2, fsdp=2, tensor=2), extra_rules=rows))
    assert recipe.mesh.shape["replica"] == 2
    up = state.abstract(recipe).params["layers"]["feedforward"]["up"]["kernel"]
    assert up.sharding.shard_shape(up.shape) == (2, 16, 16)
    with mesh.use(recipe.mesh, recipe.rules):
        now = state.create(recipe)
        batches = recipes.train_batches(recipe)
        batch = pipeline.place(batches, 0, lambda *_: recipe.batch_sharding)
        loss, sums = jax.jit(lambda p, b: recipe.objective(p, b, None))(now.params, batch)
    assert np.isfinite(loss / sums["weight"])
