"""The law of layouts for the encoder: where its numbers live changes none of them."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from bigmodel import config, recipe, trees
from bigmodel.data import pipeline
from bigmodel.sharding import mesh as meshes
from bigmodel.train import state
from tests.sharding.layouts import gradient

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SMALL = ("model.width=32", "model.layers=2", "data.length=32", "batch=16", "model.dropout=0.1")

LAYOUTS = {
    "data2_fsdp2_tensor2": ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"),
    "sequence": ("mesh.fsdp=2", "mesh.tensor=2", "rules=sequence"),
    "stage2": ("mesh.stage=2",),
    "accumulate4": ("accumulate=4",),
}
FAMILIES = {
    "bert": (),
    "roberta": (
        *("data.pairs=False", "data.packing=best_fit", "data.whole_word=True"),
        *("model.next_sentence=False", "model.pooler=False", "model.token_types=1"),
        "model.position_offset=2",
    ),
}
# A compiled program each: not the whole product.
CASES = (
    pytest.param("bert", "data2_fsdp2_tensor2", marks=pytest.mark.families),
    ("bert", "stage2"),
    pytest.param("bert", "accumulate4", marks=pytest.mark.layouts),
    pytest.param("roberta", "sequence", marks=pytest.mark.layouts),
)


def found(family, layout):
    fields = [*SMALL, *FAMILIES[family], *layout]
    made = recipe.make(config.load(f"{CONFIGS}/bert.py:tiny", fields))
    batches = recipe.train_batches(made)
    with meshes.use(made.mesh, made.rules):
        now = state.create(made)
        batch = pipeline.place(batches, 0, lambda *_: made.batch_sharding)
        loss, grads = jax.jit(gradient(made))(now.params, batch, now.rng)
    return float(loss), trees.flatten(jax.device_get(grads))


reference = functools.cache(lambda family: found(family, ()))


@pytest.mark.parametrize("family, name", CASES)
def test_loss_and_gradients_do_not_depend_on_the_layout(family, name, capfd):
    loss, grads = found(family, LAYOUTS[name])
    wanted, wanted_grads = reference(family)
    assert loss == pytest.approx(wanted, rel=1e-5)
    whole = np.sqrt(sum(np.square(grad).sum() for grad in wanted_grads.values()))
    for path, grad in wanted_grads.items():
        off = np.linalg.norm(grads[path] - grad)
        # The bias of all keys changes no choice: its gradient is rounding.
        assert off <= 1e-5 * np.linalg.norm(grad) + 1e-6 * whole, path
    assert "Involuntary full rematerialization" not in capfd.readouterr().err
