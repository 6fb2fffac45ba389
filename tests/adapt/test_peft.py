"""Adapters in PEFT's form: B A there is what A B adds here, kernel by kernel."""

import json

import numpy as np
import pytest
import safetensors.numpy

import bigmodel
from bigmodel import __main__, config, convert, trees, weights
from bigmodel import recipe as recipes
from bigmodel.adapt import lora, peft
from bigmodel.checkpoint import Checkpoints
from bigmodel.convert import rows
from bigmodel.train import state as states
from bigmodel.train import workdir
from tests import runs

TINY = dict(width=16, heads=2, kv_heads=1, hidden=24, layers=2, dropout=0.0, dtype="float32")
LORA = dict(rank=2, alpha=6.0, targets=("layers/.*kernel$",))


def written(folder, model=(), **overrides):
    """A workdir whose adapters are drawn, and its parameters with the adapters in them."""
    values = runs.config(model=dict(TINY, **dict(model)), init_from="base", **overrides)
    recipe = recipes.make(values)
    drawn = np.random.default_rng(0)
    whole = states.whole(states.create(recipe))

    def one(path, x):
        return drawn.normal(size=x.shape).astype(np.float32) if lora.is_adapter(path) else x

    whole = whole.replace(params=trees.map_with_path(one, whole.params))
    workdir.write(workdir.place(folder), recipe.loaded, {})
    with Checkpoints(workdir.place(folder) / "checkpoints") as checkpoints:
        checkpoints.save(3, whole, {})
    return recipe, whole.params


def test_what_adapters_add_is_the_same_there(tmp_path):
    recipe, params = written(tmp_path / "run", lora=LORA)
    weights.export_adapter(tmp_path / "run", tmp_path / "peft", show=lambda _: None)
    said = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert said["r"] == 2
    assert said["lora_alpha"] == 6.0
    assert said["peft_type"] == "LORA"
    assert {"q_proj", "o_proj"} < set(said["target_modules"])
    assert said["base_model_name_or_path"] == "base"
    assert not said["fan_in_fan_out"]
    found = safetensors.numpy.load_file(tmp_path / "peft/adapter_model.safetensors")

    base = {p: np.asarray(x) for p, x in trees.flatten(params).items() if not lora.is_adapter(p)}
    merged = {p: np.asarray(x) for p, x in trees.flatten(lora.merged(params, 3.0)).items()}
    table = convert.ARCHITECTURES["LlamaForCausalLM"].rows(weights.complete(recipe))
    before, after = (dict(rows.theirs(table, p, "float32")) for p in (base, merged))
    count = 0
    for name, kernel in before.items():
        a = found.pop(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight", None)
        if a is None:
            np.testing.assert_array_equal(kernel, after[name], err_msg=name)
            continue
        b = found.pop(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        np.testing.assert_allclose(3.0 * b @ a, after[name] - kernel, atol=1e-4, err_msg=name)
        count += 1
    assert not found
    assert count >= 2 * 7


def test_each_expert_has_matrices_of_its_own():
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 2)).astype(np.float32)
    b = b.reshape(2, 3, 2, 4)
    row = rows.Row("layers/up/kernel", "layers.{layer}.{expert}.up.weight", rows.LINEAR)
    found = {name: pair for name, _, pair in peft.matrices(row, a, b)}
    assert len(found) == 6
    one, other = found["layers.1.2.up"]
    np.testing.assert_allclose(other @ one, (a[1, 2] @ b[1, 2]).T, rtol=1e-5)


@pytest.mark.parametrize("as_is", [False, True])
def test_inputs_and_outputs_in_another_order_there_are_put_in_theirs(as_is):
    drawn = np.random.default_rng(0)
    a, b = (drawn.normal(size=shape).astype(np.float32) for shape in ((4, 2), (2, 3)))
    of_inputs, of_outputs = [3, 1, 0, 2], [2, 0, 1]

    def theirs(ours):
        turned = ours[of_inputs][:, of_outputs]
        return turned if as_is else turned.T

    form = rows.Form(lambda shape: shape, lambda theirs, _: theirs, theirs)
    [(name, told, (one, other))] = peft.matrices(rows.Row("up/kernel", "up.weight", form), a, b)
    assert (name, told) == ("up", as_is)
    added = other @ one
    np.testing.assert_allclose(added.T if as_is else added, theirs(a @ b), rtol=1e-5)


def test_kernels_that_share_a_matrix_there_are_refused(tmp_path):
    gpt = dict(norm="layer", position="learned", feedforward="gelu_tanh", bias=True, kv_heads=2)
    written(tmp_path / "run", gpt, lora=LORA)
    with pytest.raises(config.InputError, match="attention/key/kernel: is no matrix of its own"):
        weights.export_adapter(tmp_path / "run", tmp_path / "peft")
    written(tmp_path / "mlp", gpt, lora=LORA | dict(targets=("feedforward/",)))
    weights.export_adapter(tmp_path / "mlp", tmp_path / "gpt", show=lambda _: None)
    asked = ["export", f"--workdir={tmp_path / 'mlp'}", f"--to={tmp_path / 'again'}", "--adapter"]
    assert __main__.main(asked) == 0
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "gpt" / file).read_bytes()
    said = json.loads((tmp_path / "gpt/adapter_config.json").read_text())
    assert said["fan_in_fan_out"]
    assert said["target_modules"] == ["c_fc", "mlp.c_proj"]  # attention has a c_proj too


def test_a_run_without_adapters_or_with_more_is_refused(tmp_path, capsys):
    written(tmp_path / "none")
    asked = ["export", f"--workdir={tmp_path / 'none'}", f"--to={tmp_path / 'x'}", "--adapter"]
    assert __main__.main(asked) == 2
    assert "has no adapters; it was trained with lora.rank = 0" in capsys.readouterr().err
    assert __main__.main([*asked, "--dtype=float16"]) == 2
    assert "adapters are float32; leave --dtype float16 out" in capsys.readouterr().err
    with pytest.raises(bigmodel.InputError, match="has no adapters"):
        weights.export_adapter(tmp_path / "none", tmp_path / "peft")
    written(tmp_path / "more", lora=LORA, fresh=("final_norm",))
    with pytest.raises(bigmodel.InputError, match="trained final_norm/scale besides"):
        weights.export_adapter(tmp_path / "more", tmp_path / "peft")
