"""Weights in and out of workdirs: on any mesh, whole or refused by name, and used afterwards."""

import json
import shutil

import numpy as np
import pytest

import bigmodel
from bigmodel import config, convert, run, weights
from bigmodel.convert import tensors
from bigmodel.decode import generate as decoding
from bigmodel.decode import sampling
from tests import tables
from tests.convert import cases, folders

LAYOUTS = {
    "one": {},
    "fsdp": {"mesh.fsdp": 8},
    "tensor": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "replicated": {"mesh.data": 8, "rules": "replicated"},
    "zero1": {"mesh.fsdp": 4, "mesh.data": 2, "rules": "zero1"},
    "stage": {"mesh.stage": 2, "mesh.fsdp": 4},
}
SHAPE = "llama"  # 24 wide, 6 heads, 2 of keys; nothing that a mesh of 8 divides but the width


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    place = tmp_path_factory.mktemp("theirs")
    return folders.write(SHAPE, place), place


def imported(folder, workdir, **overrides):
    weights.import_hf(folder, workdir, overrides=overrides, show=folders.quiet)
    return run.load(workdir)


@pytest.mark.parametrize("layout", tables.rows(LAYOUTS, LAYOUTS.keys() - {"fsdp", "replicated"}))
def test_an_import_onto_any_mesh_gives_the_same_logits(layout, theirs, tmp_path):
    found, place = theirs
    loaded = imported(place, tmp_path / "run", **LAYOUTS[layout], **{"batch": 8})
    given = cases.inputs("llama", found["config"])
    tokens = np.tile(given["tokens"], (4, 1))
    logits = np.asarray(loaded.apply(loaded.params, {"tokens": tokens})["logits"])
    wanted = np.tile(found["outputs"]["logits"], (4, 1, 1))
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_import_and_export_are_each_others_inverse_through_a_workdir(theirs, tmp_path):
    _, place = theirs
    bigmodel.import_hf(place, tmp_path / "run", show=folders.quiet)
    bigmodel.export_hf(tmp_path / "run", tmp_path / "again", show=folders.quiet)
    before, after = folders.read(place), folders.read(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["architectures"] == ["LlamaForCausalLM"]
    assert (written["bos_token_id"], written["eos_token_id"]) == (1, 2)
    with pytest.raises(config.InputError, match="holds a run already"):
        bigmodel.import_hf(place, tmp_path / "run")
    with pytest.raises(config.InputError, match="holds files already"):
        bigmodel.export_hf(tmp_path / "run", tmp_path / "again")
    with pytest.raises(config.InputError, match="can be written as: LlamaForCausalLM.*cannot say"):
        bigmodel.export_hf(tmp_path / "run", tmp_path / "x", architecture="Qwen3ForCausalLM")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_fewer_bits_come_and_go_as_they_are(dtype, theirs, tmp_path):
    _, place = theirs
    bigmodel.import_hf(place, tmp_path / "run", show=folders.quiet)
    bigmodel.export_hf(tmp_path / "run", tmp_path / "few", dtype=dtype, show=folders.quiet)
    few = folders.read(tmp_path / "few")
    assert {str(value.dtype) for value in few.values()} == {dtype}
    bigmodel.import_hf(tmp_path / "few", tmp_path / "again", show=folders.quiet)
    bigmodel.export_hf(tmp_path / "again", tmp_path / "back", dtype=dtype, show=folders.quiet)
    back = folders.read(tmp_path / "back")
    assert all(few[name].tobytes() == back[name].tobytes() for name in few)


def test_text_begins_and_ends_as_the_folder_says(tmp_path):
    folders.made("GPT2LMHeadModel", tmp_path / "theirs", "gpt2", **folders.GPT2)
    loaded = imported(tmp_path / "theirs", tmp_path / "run")
    assert loaded.marks.ends == (loaded.tokenizer.eos,)
    prompt = loaded.tokenizer.encode("Once")  # no <|endoftext|> before it
    greedy = sampling.Sampling(temperature=0.0)
    how = dict(sampling=greedy, max_new_tokens=8, vocab=loaded.tokenizer.size)
    (tokens,) = decoding.generate(loaded.recipe.model, loaded.params, [prompt], **how)
    last = max(list(tokens).index(token) for token in tokens)
    assert last > 0
    named = {"eos_token_id": [10**6, int(tokens[last])]}
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps(named))
    ending = imported(tmp_path / "theirs", tmp_path / "ending")
    for one, wanted in ((loaded, tokens), (ending, tokens[: last + 1])):
        text = one.tokenizer.decode(wanted)
        assert run.sample(one, ["Once"], max_new_tokens=8, temperature=0.0) == [[text]]
    assert run.sample(loaded, [""], max_length=1, temperature=0.0) == [[""]]  # bos is the prompt


def test_an_import_is_no_run_to_go_on_with_but_one_to_begin_from(tmp_path):
    folders.made("GPT2LMHeadModel", tmp_path / "theirs", "gpt2", **folders.GPT2)
    workdir = tmp_path / "run"
    weights.import_hf(tmp_path / "theirs", workdir, show=folders.quiet)
    with pytest.raises(config.InputError, match=f"imported.*--config.init_from={workdir}"):
        bigmodel.train(config.load(str(workdir / "config.py")), workdir)


def test_an_encoder_decoder_begins_with_what_its_folder_names(tmp_path):
    sizes = dict(width=16, layers=2, heads=2, hidden=24, position="none", relative_buckets=32)
    sizes |= dict(norm="rms", norm_placement="pre", feedforward="relu", bias=False)
    sizes |= dict(attention_scale=1.0, embed_scale=False, embed_std=1.0)
    folders.made("T5ForConditionalGeneration", tmp_path / "theirs", "t5", **sizes)
    loaded = imported(tmp_path / "theirs", tmp_path / "run")
    assert (loaded.marks.start, loaded.tokenizer.bos, loaded.tokenizer.eos) == (0, 1, 1)
    # Its rows of training begin with the tokenizer's, which an export of such a run must say.
    assert weights.special_ids(loaded.recipe)["decoder_start_token_id"] == loaded.tokenizer.bos


def shards(place, size):
    """The folder's tensors again, in files of at most so many bytes."""
    held = folders.read(place)
    (place / tensors.WHOLE).unlink()
    sizes = {name: value.nbytes for name, value in held.items()}
    tensors.write(place, sizes, iter(held.items()), shard_bytes=size)
    return sorted(place.glob("*.safetensors"))


def test_shards_are_one_model(theirs, tmp_path):
    found, place = theirs
    shutil.copytree(place, tmp_path / "theirs")
    assert len(shards(tmp_path / "theirs", 20_000)) == 3
    _, model, _, params = folders.opened(tmp_path / "theirs")
    logits = model.apply(params, cases.inputs("llama", found["config"]))["logits"]
    np.testing.assert_allclose(logits, found["outputs"]["logits"], rtol=1e-4, atol=1e-4)


def lacking(place, files):
    files[1].unlink()
    return files[1].name


def torn(place, files):
    files[1].write_bytes(files[1].read_bytes()[:-9])
    return f"{files[1]}: is torn"


def extra(place, files):
    shutil.copy(files[0], place / "adapter.safetensors")
    return "adapter.safetensors stands in no line"


def swapped(place, files):
    first, second = (file.read_bytes() for file in files[:2])
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    return f"{files[0]}: {tensors.INDEX} and the file differ"


def no_index(place, files):
    (place / tensors.INDEX).unlink()
    return f"but no {tensors.INDEX}"


def a_pickle(place, files):
    for file in [*files, place / tensors.INDEX]:
        file.unlink()
    (place / "pytorch_model.bin").write_bytes(b"")
    return "pytorch_model.bin may run code"


@pytest.mark.parametrize("fault", [lacking, torn, extra, swapped, no_index, a_pickle])
def test_a_folder_that_is_not_whole_is_refused_by_name(fault, theirs, tmp_path):
    place = tmp_path / "theirs"
    shutil.copytree(theirs[1], place)
    words = fault(place, shards(place, 20_000))
    with pytest.raises(config.InputError) as error:
        convert.open_folder(place, convert.ARCHITECTURES)
    assert words in str(error.value)


# changes of the config.json -> words of the refusal
CONFIGS = [
    ({"architectures": ["LamaForCausalLM"]}, 'did you mean "LlamaForCausalLM"'),
    ({"architectures": ["MambaForCausalLM"]}, "known are Bert"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
    ({"hidden_act": "relu"}, "hidden_act = 'relu'; allowed are 'silu'"),
    ({"logits_soft_cap": 30.0}, "logits_soft_cap = 30.0 does to the numbers"),
    ({"rope_parameters": {"rope_theta": 1.0, "rope_type": "longrope"}}, "rope_type = 'longrope'"),
    ({"hidden_size": None}, "lacks 'hidden_size'"),
    ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight: missing"),
    ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight: nothing reads it"),
    (
        {"intermediate_size": 50},
        "is [24, 51], should be [24, 50] for layers/feedforward/down/kernel",
    ),
    ({"tie_word_embeddings": True}, "lm_head.weight is another matrix"),
]


@pytest.mark.parametrize(("changes", "words"), CONFIGS)
def test_a_config_that_says_another_model_is_refused(changes, words, tmp_path):
    folders.write(SHAPE, tmp_path, **changes)
    with pytest.raises(config.InputError) as error:
        folders.opened(tmp_path)
    assert words.lower() in str(error.value).lower()


def test_fields_that_are_empty_and_files_in_another_form_are_told_and_passed_over(tmp_path):
    folders.write(SHAPE, tmp_path / "theirs", novelty=None, other=False)
    (tmp_path / "theirs/consolidated.safetensors").touch()
    told = []
    weights.import_hf(tmp_path / "theirs", tmp_path / "run", show=told.append)
    assert any("consolidated.safetensors was not read" in line for line in told)
    assert any("novelty is empty" in line for line in told)
    assert any("other is empty" in line for line in told)
    assert any("set data.tokenizer" in line for line in told)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    for make, words in (
        (lambda: None, "no such folder"),
        (lambda: (tmp_path / "x").mkdir(), "has no config.json"),
        (lambda: (tmp_path / "x" / "config.json").write_text("{"), "is no JSON"),
        (lambda: (tmp_path / "x" / "config.json").write_text("[]"), "is no JSON object"),
        (lambda: (tmp_path / "x" / "config.json").write_text("{}"), "architecture is not said"),
    ):
        make()
        with pytest.raises(config.InputError, match=words):
            weights.import_hf(tmp_path / "x", tmp_path / "run")
    assert not (tmp_path / "run").exists()
