"""Laws of stored runs: what was trained somewhere can be used here, by this version or a later."""

import jax
import pytest

from bigmodel import config, recipe
from bigmodel.recipe import defaults, stored
from tests import runs


def made(**overrides):
    return stored.make_stored(config.Loaded(runs.config(**overrides), "", ""))


def shape(found):
    return {axis: size for axis, size in found.mesh.shape.items() if size > 1}


@pytest.mark.parametrize(
    ("mesh", "batch", "used"),
    [
        (dict(data=2, tensor=2), 8, dict(data=2, tensor=2)),
        (dict(fsdp=-1), 8, dict(fsdp=8)),
        (dict(fsdp=-1), 6, {}),  # the batch does not divide
        (dict(tensor=-1), 8, {}),  # neither do the heads
        (dict(data=16), 16, {}),  # so many are not here
        (dict(data=2, tensor=16, fsdp=-1), 8, {}),
        (dict(data=2, stage=2), 8, dict(data=2, fsdp=2)),
        (dict(stage=2, context=2, fsdp=2), 8, dict(fsdp=8)),
        (dict(stage=2, tensor=2), 1, {}),  # the batch does not take the stage's devices
        (dict(stage=-1, fsdp=2), 8, dict(fsdp=8)),
        (dict(data=-1, context=2), 8, dict(data=4, fsdp=2)),
    ],
)
def test_a_run_is_used_on_its_own_mesh_where_that_fits_else_on_one_device(mesh, batch, used):
    assert jax.device_count() == 8
    found = made(mesh=mesh, batch=batch)
    assert shape(found) == used
    assert found.batch == batch


def test_slices_that_are_not_here_are_one_device():
    assert shape(made(mesh=dict(data=16), mesh_slices=2, batch=16)) == {}
    assert shape(made(mesh=dict(stage=2), mesh_slices=2)) == {"fsdp": 2}


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_a_kernel_of_another_platform_gives_way(name):
    model = dict(attention=name, attention_dropout=0.0)
    with pytest.raises(config.InputError, match="runs on"):
        recipe.make(runs.config(model=model))
    assert made(model=model).config.model.attention == "auto"
    assert made(model=dict(attention="chunked")).config.model.attention == "chunked"


def test_a_field_of_a_later_version_has_its_default():
    old = runs.config().copy_and_resolve_references().unlock()
    for section, field in (("model", "qk_norm"), ("optimizer", "mu_dtype"), ("mesh", "expert")):
        del old[section][field]
    del old.profile, old.compiler, old.nonfinite
    loaded = config.Loaded(old.lock(), "", "")
    with pytest.raises(config.InputError, match="lacks the field"):
        recipe.make(loaded)
    found = stored.make_stored(loaded)
    assert dict(found.fields) == dict(made().fields)
    assert found.config == made().config


def test_a_model_of_the_configs_own_keeps_what_its_fields_say():
    extensions = {"model": {"mine": lambda *, attention="splash", width=3: None}}
    values = defaults.default_config("mine", extensions=extensions)
    assert not stored.of_another_platform(values, extensions)
