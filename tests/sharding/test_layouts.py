"""The law of layouts: a layout changes where numbers live, never what they are."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.layers import router
from bigmodel.sharding import mesh as meshes
from bigmodel.train import bench, compiled, state
from tests import runs, tables
from tests.sharding import layouts
from tests.sharding.layouts import FAMILIES, LAYOUTS

RUNS = ("data8", "fsdp8", "data4_fsdp2", "fsdp4_tensor2", "data2_fsdp2_tensor2")
STEPS = 20


# What each run of the tests has: of the dense family each axis, way of attention, table of rules
# and kind of pipeline, of experts where they lie or go otherwise.
FIRST = {
    "dense": (
        *("fsdp8", "tensor4_whole_kv", "data2_fsdp2_tensor2", "fsdp2_ring2_tensor2"),
        *("data2_all_to_all2_tensor2", "slices2_data", "stage2_fsdp2_tensor2"),
        *("stage2_repeats2", "accumulate4", "offload", "sequence", "zero1"),
    ),
    "experts": ("expert8", "stage2_expert2"),
    "experts_with_room": ("expert8",),
}
# Each axis alone: `make test-families`. The rest of the whole product: `make test-layouts`.
SECOND = {
    "dense": ("data8", "tensor2", "ring8", "all_to_all4", "stage2", "replicated"),
    "experts": ("data2_fsdp2_tensor2",),
    "experts_with_room": (),
}


def of_the_product(family: str, name: str):
    mark = pytest.mark.families if name in SECOND[family] else pytest.mark.layouts
    return pytest.param(name, family, marks=[mark] * (name not in FIRST[family]))


@pytest.mark.parametrize(
    "name, family", [of_the_product(family, name) for family in FAMILIES for name in LAYOUTS]
)
def test_loss_and_gradients_do_not_depend_on_the_layout(name, family, capfd, tmp_path):
    wanted = layouts.reference(family)
    born = layouts.restored(layouts.saved_reference(family), layouts.make(family, LAYOUTS[name]))
    found = layouts.find(family, LAYOUTS[name], born)
    off = layouts.differences(found, wanted)
    far = {path: f"{by:.1e}" for path, by in off.items() if not by <= 1e-5}
    assert not far
    # C++ writes it past Python's own stderr, so the file descriptor is what is read.
    assert "Involuntary full rematerialization" not in capfd.readouterr().err

    # What was written on one device and read under the layout is the same, written there and read
    # on one device: so whatever one layout writes, every other reads.
    layouts.save(tmp_path, found)
    back = layouts.restored(tmp_path, wanted.recipe)
    for old, new in zip(map(bits, leaves(wanted.state)), map(bits, leaves(back)), strict=True):
        np.testing.assert_array_equal(old, new)
    if found.recipe.layer_order is None:
        for old, new in zip(leaves(wanted.state), leaves(found.state), strict=True):
            np.testing.assert_array_equal(bits(old), bits(new))


def leaves(tree):
    return jax.tree.leaves(tree)


def bits(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def test_the_batch_of_the_law_has_documents_and_padding():
    segments = layouts.packed(8, 32)["segments"]
    assert (segments.max(1) >= 2).all()
    assert (segments == 0).any()


@pytest.mark.parametrize(
    "family", ["experts", pytest.param("experts_with_room", marks=pytest.mark.families)]
)
def test_no_router_of_the_law_is_so_undecided_that_rounding_flips_a_choice(family, monkeypatch):
    gaps = []
    of_groups = router.Router.of_groups

    def measured(self, ranked):
        best = jax.lax.top_k(jnp.log(ranked), self.chosen + 1)[0]
        jax.debug.callback(
            lambda gap: gaps.append(float(gap)), (best[..., -2] - best[..., -1]).min()
        )
        return of_groups(self, ranked)

    monkeypatch.setattr(router.Router, "of_groups", measured)
    layouts.find(family, {})
    jax.effects_barrier()
    assert len(gaps) >= 4
    assert min(gaps) > 1e-3


def train(mesh):
    """Losses of 20 steps."""
    recipe = recipes.make(runs.config(mesh=mesh, steps=STEPS))
    batches = recipes.train_batches(recipe)
    with meshes.use(recipe.mesh, recipe.rules):
        now = state.create(recipe)
        step = compiled.compile_step(recipe, state.abstract(recipe), batches.spec)
        losses = []
        for at in range(STEPS):
            batch = pipeline.place(batches, at, lambda *_: recipe.batch_sharding)
            now, metrics = step.run(now, batch)
            losses.append(float(metrics["loss"]))
    return np.array(losses)


one_device = functools.cache(lambda: train({}))


@pytest.mark.parametrize("name", tables.rows(RUNS, RUNS[-1:], pytest.mark.layouts))
def test_losses_of_a_run_do_not_depend_on_the_mesh(name, capfd):
    np.testing.assert_allclose(train(LAYOUTS[name]["mesh"]), one_device(), rtol=1e-5)
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.layouts
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_can_be_measured(name, family):
    found = bench.bench(layouts.make(family, LAYOUTS[name]).config, steps=1, warmup=1)
    assert found["devices"] == math.prod(LAYOUTS[name]["mesh"].values())
    assert np.isfinite(found["loss"])
    assert (found["pipeline_bubble"] > 0) == ("stage" in LAYOUTS[name]["mesh"])


def test_losses_differ_between_steps_so_the_law_can_fail():
    assert np.ptp(one_device()) > 0.1
