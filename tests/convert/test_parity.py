"""Foreign checkpoints compute here what they compute there, and go back bit for bit."""

import json

import jax
import numpy as np
import pytest

from bigmodel import config, convert, models, trees
from bigmodel.convert.folders import canonical
from bigmodel.decode import beam, sampling
from bigmodel.decode import generate as decoding
from tests import tables
from tests.convert import cases, folders
from tests.models.families import at

over_cases = pytest.mark.parametrize("name", cases.CASES)
MOST = 10**6  # an end that no text has


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> what was recorded, the place, the folder, model, fields, parameters."""
    known = {}

    def make(name):
        if name not in known:
            place = tmp_path_factory.mktemp(name)
            found = folders.write(name, place)
            known[name] = found, place, *folders.opened(place)
        return known[name]

    return make


def given(found):
    return cases.inputs(found["config"]["model_type"], found["config"])


# `make test` has the first of each kind of model, `make test-families` all that they differ in.
FIRST_OF_EACH = {cases.CASES[name][0]: name for name in reversed(cases.CASES)}.values()


@pytest.mark.parametrize("name", tables.rows(cases.CASES, FIRST_OF_EACH))
def test_outputs_are_those_of_transformers(name, made):
    found, _, _, model, _, params = made(name)
    outputs = jax.jit(model.apply)(params, given(found))
    assert found["outputs"]
    for path, wanted in found["outputs"].items():
        np.testing.assert_allclose(at(path, outputs), wanted, rtol=1e-4, atol=1e-4, err_msg=path)


# (case, a tensor that stands in some folders besides, whether what it holds is dropped)
MORE = (
    ("t5", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", True),
    ("t5", "encoder.embed_tokens.weight", False),
    ("roberta", "roberta.pooler.dense.weight", True),
    ("clip", "vision_model.embeddings.position_ids", False),
)


@pytest.mark.parametrize(("name", "tensor", "dropped"), MORE)
def test_of_tensors_that_nobody_reads_the_weights_are_told(
    name, tensor, dropped, made, monkeypatch
):
    _, _, folder, _, fields, params = made(name)
    told = folder.passed_over(fields)
    monkeypatch.setitem(folder.tensors.shapes, tensor, (1,))
    assert folder.passed_over(fields) == told + [tensor] * dropped
    folder.read(fields, trees.flatten(params))
    monkeypatch.setitem(folder.tensors.shapes, "a.frequency", (1,))
    with pytest.raises(config.InputError, match=r"a\.frequency: nothing reads it"):
        folder.read(fields, trees.flatten(params))


@over_cases
def test_what_was_imported_is_exported_bit_for_bit(name, made, tmp_path):
    _, place, folder, _, fields, params = made(name)
    export(folder, fields, params, tmp_path)
    before, after = folders.read(place), folders.read(tmp_path)
    for lost in folder.passed_over(fields):
        del before[lost]
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (value.dtype, value.shape) == (after[key].dtype, after[key].shape)
        np.testing.assert_array_equal(value, after[key], err_msg=key)
    again = convert.open_folder(tmp_path, convert.ARCHITECTURES)
    assert canonical(fields | again.fields) == canonical(fields)


def export(folder, fields, params, place, **how):
    how = dict(dtype="float32", ids=folder.ids) | how
    given = (folder.name, folder.architecture, fields, trees.flatten(params))
    convert.export(place, *given, **how)


@over_cases
def test_a_model_is_written_as_what_it_was_read(name, made):
    _, _, folder, model, fields, _ = made(name)
    family = folder.architecture.family
    assert which(family, fields, folder.name) == folder.name
    assert convert.ARCHITECTURES[which(family, fields)].family == family


def which(family, fields, *name):
    known = config.schema(models.FAMILIES[family][0])
    defaults = {field: default for field, (_, default) in known.items()}
    return convert.which(family, fields, defaults, convert.ARCHITECTURES, *name)


def test_t5_with_a_head_of_its_own_is_written_and_read(made, tmp_path):
    _, _, _, _, tied, params = made("t5_gated")
    fields = tied | dict(tied=False)
    head = {"kernel": np.random.default_rng(0).normal(size=(18, 37)).astype(np.float32)}
    assert which("encoder_decoder", fields) == "T5ForConditionalGeneration"
    folder = convert.open_folder(made("t5_gated")[1], convert.ARCHITECTURES)
    export(folder, fields, params | {"head": head}, tmp_path)
    _, _, again, found = folders.opened(tmp_path)
    assert again["tied"] is False
    np.testing.assert_array_equal(found["head"]["kernel"], head["kernel"])


def test_experts_as_wide_as_the_layers_are_by_default_are_written(made):
    fields = made("qwen3_moe")[4] | dict(hidden=0, expert_hidden=0)
    name = which("decoder", fields)
    written = convert.ARCHITECTURES[name].config(fields)
    assert written["moe_intermediate_size"] == 4 * fields["width"]


def test_of_several_processes_one_writes(made, tmp_path, monkeypatch):
    _, _, folder, _, fields, params = made("llama")
    monkeypatch.setattr("jax.process_index", lambda: 1)
    export(folder, fields, params, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# One of each kind here; all of them by `make test-parity`.
WRITING = [n for n in cases.CASES if "greedy" in cases.recorded(n)]
FIRST = ("gpt2", "llama3", "qwen2_windows", "t5")


@pytest.mark.parametrize("name", tables.rows(WRITING, FIRST, pytest.mark.parity))
def test_text_is_that_of_transformers_greedy_and_with_beams(name, made):
    found, _, _, model, _, params = made(name)
    batch = {key: array[:1] for key, array in given(found).items()}
    new = len(found["greedy"][0])
    inputs = {key: array for key, array in batch.items() if key != "tokens"}
    start = np.array([0], np.int32) if inputs else batch["tokens"][0]
    how = dict(max_new_tokens=new, max_length=None, eos=MOST, vocab=None, inputs=inputs)
    greedy = sampling.Sampling(temperature=0.0)
    text = decoding.generate(model, params, [start], sampling=greedy, seed=0, **how)
    beams = len(found["beams"])
    more = dict(num_beams=beams, length_penalty=0.0, num_return_sequences=beams)
    (searched,) = beam.search(model, params, [start], **more, **how)
    assert [list(text[0])] == found["greedy"]
    assert [list(one.tokens) for one in searched] == found["beams"]


def test_every_kind_of_model_has_at_least_three_rows():
    tested = [architecture for architecture, _ in cases.CASES.values()]
    assert set(tested) == set(convert.ARCHITECTURES)
    for model in {a.model_type for a in convert.ARCHITECTURES.values()}:
        names = {n for n, a in convert.ARCHITECTURES.items() if a.model_type == model}
        assert sum(architecture in names for architecture in tested) >= 3, model


def test_a_recorded_config_says_what_it_was_made_of(made):
    found = made("llama3")[0]
    assert json.loads(json.dumps(found["config"]))["rope_parameters"]["rope_type"] == "llama3"
