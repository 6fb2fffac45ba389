"""Which parameters are frozen, fresh, slower or faster: patterns, and a decay down the layers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel import config, optimizers, trees
from bigmodel import recipe as recipes
from bigmodel.__main__ import main
from bigmodel.recipe import tuning
from bigmodel.sharding import rules
from tests import runs

DEPTH, DECAY = 2, 0.5


def made(**overrides):
    return recipes.make(runs.config(model=dict(tied=False), **overrides))


def test_factors_of_all_patterns_that_find_a_parameter_are_multiplied():
    found = made(rates={"^layers/": 0.5, "attention": 0.5, "norm": 3.0}).tuning.factors
    assert found["layers/attention/query/kernel"] == 0.25
    assert found["layers/feedforward/up/kernel"] == 0.5
    assert found["layers/attention_norm/scale"] == 0.75
    assert found["final_norm/scale"] == 3.0
    assert "head/kernel" not in found


def test_each_layer_down_from_the_head_is_slower():
    found = made(layer_decay=DECAY).tuning.factors
    assert found["layers/attention/query/kernel"].reshape(-1).tolist() == [DECAY**2, DECAY]
    assert float(found["embed/table"]) == DECAY ** (DEPTH + 1)
    assert "head/kernel" not in found
    assert "final_norm/scale" not in found


def test_layers_in_a_pipelines_order_keep_their_own_factors():
    overrides = dict(mesh=dict(stage=2), pipeline=dict(microbatches=2, repeats=2))
    values = runs.config(model=dict(layers=4), layer_decay=DECAY, **overrides)
    recipe = recipes.make(values)
    found = recipe.tuning.factors["layers/attention/query/kernel"].reshape(-1)
    assert found.tolist() == [DECAY ** (4 - layer) for layer in recipe.layer_order]


@pytest.mark.parametrize(
    "family",
    [
        *("bert", "t5", "llava", "deepseek"),
        *(
            pytest.param(family, marks=pytest.mark.families)
            for family in ("vit", "clip", "siglip", "dit", "whisper", "ctc", "paligemma")
        ),
    ],
)
def test_in_every_family_what_stands_before_the_layers_is_slowest(family):
    boxed = recipes.make(config.load(f"configs/{family}.py:tiny")).boxed_params
    boxes = trees.flatten(boxed, is_leaf=rules.is_box)
    found = tuning.layer_decays(boxes, DECAY, boxes)
    towers = {path: path.removeprefix("decoder/").removeprefix("image/") for path in boxes}
    assert any(map(is_before, towers.values()))
    slowest = min(np.min(factor) for factor in found.values())
    for path, box in boxes.items():
        if tuning.stack_of(box.names) is not None:
            assert slowest < np.min(found[path]) <= np.max(found[path]) <= DECAY, path
        elif is_before(towers[path]):
            assert found[path] == slowest, path
        else:
            assert path not in found, path


def is_before(path):
    return path in BEFORE or path.startswith("stem/")


BEFORE = {
    *(
        "embed/table",
        "embed_norm/scale",
        "embed_norm/bias",
        "first_norm/bias",
        "token_types/table",
        "positions/table",
        "positions",
    ),
    *("class_token", "patches/product/kernel", "patches/product/bias", "first_norm/scale"),
    *("tokens/table", "text_positions", "relative/table", "encoder_relative/table"),
    *(f"time_{name}" for name in ("up/kernel", "up/bias", "down/kernel", "down/bias")),
    "classes_table/table",
}


def test_dense_layers_before_the_experts_go_on_into_them():
    boxed = recipes.make(config.load("configs/deepseek.py:tiny")).boxed_params
    boxes = trees.flatten(boxed, is_leaf=rules.is_box)
    found = tuning.layer_decays(boxes, DECAY, boxes)
    dense = found["dense_layers/attention_norm/scale"].reshape(-1)
    rest = found["layers/attention_norm/scale"].reshape(-1)
    both = [*dense, *rest]
    assert both == [DECAY ** (len(both) - layer) for layer in range(len(both))]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "adafactor", "muon"])
def test_a_factor_multiplies_the_whole_step_of_any_optimizer(name):
    params = {"a": {"kernel": jnp.ones((2, 3, 4))}, "b": {"kernel": jnp.ones((2, 3, 4))}}
    axes = jax.tree.map(lambda _: ("layers", "embed", "mlp"), params)
    grads = jax.tree.map(lambda p: p * 0.1, params)
    factors = {"a/kernel": np.float32([0.5, 2.0]).reshape(2, 1, 1)}
    steps = []
    for given in (None, factors):
        builder = optimizers.OPTIMIZERS[name]
        made = optimizers.make(builder, optax.constant_schedule(0.1), axes, factors=given)
        state = made.init(params)
        steps.append(made.update(grads, state, params)[0])
    np.testing.assert_allclose(
        steps[1]["a"]["kernel"], steps[0]["a"]["kernel"] * factors["a/kernel"], rtol=1e-6
    )
    np.testing.assert_array_equal(steps[1]["b"]["kernel"], steps[0]["b"]["kernel"])


def test_a_schedule_free_optimizer_takes_one_rate_for_all():
    from bigmodel.train import state

    recipe = made(layer_decay=0.9, optimizer=dict(name="schedule_free_adamw"))
    with pytest.raises(
        config.InputError, match=r"takes one rate for all; allowed are rates = \{\}"
    ):
        state.abstract(recipe)


def test_the_command_config_tells_what_becomes_of_each_parameter(tmp_path, capsys):
    path = runs.write_config(tmp_path)
    call = ["config", "--config", str(path), "--config.mesh.fsdp=64"]
    assert main(call) == 0
    assert "trained" not in capsys.readouterr().out
    more = ["--config.frozen=('^embed/',)", "--config.rates={'norm': 0.5}"]
    assert main([*call, *more, "--config.fresh=('final_norm',)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "embed/table [264, 32] frozen" in map(squeezed, lines)
    assert "final_norm/scale [32] fresh, trained x0.5" in map(squeezed, lines)
    assert "layers/feedforward/up/kernel [2, 32, 64] trained" in map(squeezed, lines)
    assert lines[-1].endswith(" train, 8,448 are frozen")
    assert main([*call, "--config.lora.rank=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "layers/attention/query/kernel [2, 32, 4, 8] frozen, lora r2" in map(squeezed, lines)
    assert "layers/attention/query/lora_a [2, 32, 2] trained" in map(squeezed, lines)
    assert main([*call, "--json", "--config.lora.rank=2"]) == 0
    assert json.loads(capsys.readouterr().out)["lora"]["rank"] == 2


def squeezed(line):
    return " ".join(line.split())
