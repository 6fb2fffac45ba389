"""Laws of the optimizer's state in the host's memory: where it lies changes no bit."""

import shutil

import pytest

import bigmodel
from bigmodel import config, trees
from bigmodel import recipe as recipes
from bigmodel.train import state
from tests import runs

OFFLOAD = ["optimizer.offload=True", "checkpoint.every=4"]


def losses(folder, *overrides):
    loaded = config.load(str(runs.write_config(folder.parent)), ["mesh.fsdp=2", *overrides])
    bigmodel.train(loaded, folder)
    return runs.losses(folder)


@pytest.mark.families  # for its time
def test_a_run_with_its_optimizer_on_the_host_is_the_run_without_and_resumes(tmp_path):
    without = losses(tmp_path / "without", "steps=6")
    folder = tmp_path / "run"
    assert losses(folder, *OFFLOAD, "steps=6") == without
    shutil.rmtree(folder / "checkpoints" / "6")  # so that step 4 is the newest
    assert losses(folder, *OFFLOAD, "steps=6") == without


def test_the_state_is_born_in_the_memory_where_it_stays():
    recipe = recipes.make(runs.config(optimizer=dict(offload=True), mesh=dict(fsdp=2)))
    now = trees.flatten(state.create(recipe))
    kinds = {path: leaf.sharding.memory_kind for path, leaf in now.items() if leaf.ndim}
    assert {kind for path, kind in kinds.items() if "/mu/" in path} == {"pinned_host"}
    assert {kind for path, kind in kinds.items() if path.startswith("params")} == {"device"}


def test_an_update_that_may_be_taken_back_is_refused_for_a_state_on_the_host():
    overrides = dict(optimizer=dict(offload=True), nonfinite="skip")
    with pytest.raises(config.InputError, match="nonfinite = 'skip'.*offload"):
        recipes.make(runs.config(**overrides))
