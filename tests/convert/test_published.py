"""Folders as they were published, with their old fields and odd tensors, are imported."""

import math
import pathlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax.core import meta
from safetensors.numpy import save_file

from bigmodel import config, convert, models, trees
from bigmodel.convert.fields import Foreign
from bigmodel.convert.folders import OF_A_RUN, canonical
from tests.convert import cases, folders, published

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def understood(row):
    """Architecture and our fields, complete, of a config.json and the names beside it."""
    kind = convert.ARCHITECTURES[row.config["architectures"][0]]
    beside = set(row.passed)
    if row.config.get("tie_word_embeddings") is False:
        beside.add("lm_head.weight")
    theirs = Foreign(row.config, "config.json", beside)
    fields = kind.fields(theirs)
    theirs.finish()
    return kind, defaults(kind.family) | fields


def defaults(family):
    known = config.schema(models.FAMILIES[family][0])
    return {name: default for name, (_, default) in known.items()}


@pytest.mark.parametrize("name", published.MODELS)
def test_a_published_config_is_the_size_that_we_have_and_write(name):
    row = published.MODELS[name]
    kind, fields = understood(row)
    if not row.size:
        return
    section = config.load(f"{CONFIGS}/{row.size}").config.model
    module, _ = models.FAMILIES[section.name]
    own = defaults(kind.family)
    fields_of_size = own | config.resolve(section, module, "model") | row.but
    found, ours = canonical(fields), canonical(fields_of_size)
    assert {n: (found[n], ours[n]) for n in set(own) - OF_A_RUN if found[n] != ours[n]} == {}
    name = row.config["architectures"][0]
    assert convert.which(kind.family, fields_of_size, own, convert.ARCHITECTURES, name) == name


@pytest.mark.parametrize("name", [n for n, row in published.MODELS.items() if row.numbers])
def test_a_published_file_has_the_numbers_that_we_read_and_those_that_are_passed_over(name):
    row = published.MODELS[name]
    kind, fields = understood(row)
    model = models.FAMILIES[kind.family][1](**fields)
    params = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
    assert trees.count(params) + sum(map(math.prod, row.passed.values())) == row.numbers


class Odd(NamedTuple):
    """What a file holds otherwise than `transformers` writes it today.

    Attributes:
        told: tensors besides that are no buffers and no copies, by shape.
        besides: others, by shape or by the name of the tensor of which they are a copy.
        renamed: pairs of a pattern and what stands in its place.
    """

    told: Mapping[str, Any] = MappingProxyType({})
    besides: Mapping[str, Any] = MappingProxyType({})
    renamed: tuple[tuple[str, str], ...] = ()


OLD = ((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))
BARE = ((r"^transformer\.", ""),)
WORDS = "bert.embeddings.word_embeddings.weight"
ODD = {
    "bert": Odd({}, {"cls.predictions.decoder.weight": WORDS}, OLD),
    "bert_masked": Odd(
        published.of_bert(20),
        {"cls.predictions.decoder.weight": WORDS, "bert.embeddings.position_ids": (1, 20)},
        OLD,
    ),
    "bert_labels": Odd(published.pooler("bert.", 14), {"bert.embeddings.position_ids": (1, 20)}),
    "roberta": Odd(
        published.pooler("roberta.", 24),
        {"roberta.embeddings.position_ids": (1, 20)}
        | {"lm_head.decoder.weight": WORDS.replace("bert", "roberta", 1)},
    ),
    "gpt2": Odd({}, {f"h.{n}.attn.bias": (1, 1, 20, 20) for n in range(2)}, BARE),
    "gpt2_wide": Odd(
        {}, {"transformer.h.0.attn.masked_bias": (), "lm_head.weight": "transformer.wte.weight"}
    ),
    "llama": Odd({}, {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": (2,) for n in (0, 1)}),
    "t5": Odd(
        {published.CROSS_BIAS: (32, 4)},
        {f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")},
    ),
    "vit": Odd(published.pooler("vit.", 24)),
    "clip": Odd({}, {f"{n}_model.embeddings.position_ids": (1, 9) for n in ("text", "vision")}),
    "whisper": Odd({}, {"proj_out.weight": "model.decoder.embed_tokens.weight"}),
}


def write(name, folder, besides):
    """A case's folder, with tensors besides."""
    folders.write(name, folder)
    tensors = folders.read(folder)
    for pattern, new in ODD[name].renamed:
        tensors = {re.sub(pattern, new, key): value for key, value in tensors.items()}
    for key, of in besides.items():
        tensors[key] = tensors[of] if isinstance(of, str) else cases.drawn(key, of)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ODD)
def test_what_a_published_file_holds_besides_changes_nothing_and_other_tensors_are_refused(
    name, tmp_path
):
    odd = ODD[name]
    folders.write(name, tmp_path / "today")
    write(name, tmp_path / "then", {**odd.told, **odd.besides})
    folder, _, fields, params = folders.opened(tmp_path / "then")
    found = trees.flatten(params)
    today = convert.open_folder(tmp_path / "today", convert.ARCHITECTURES)
    assert folder.fields == today.fields
    wanted = today.read(fields, found)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
    assert set(folder.passed_over(fields)) == set(odd.told)

    folder.tensors.shapes["adapter.dense.weight"] = (2, 2)  # that nobody knows
    with pytest.raises(config.InputError, match=r"\n  adapter.dense.weight: nothing reads it$"):
        folder.read(fields, found)

    for head, table in odd.besides.items():
        if isinstance(table, str) and "embed_tokens" not in head:
            write(name, tmp_path / "then", {**odd.told, head: folder.tensors.shapes[table]})
            other = convert.open_folder(tmp_path / "then", convert.ARCHITECTURES)
            with pytest.raises(config.InputError, match=f"{head} is another matrix than {table}"):
                other.read(fields, found)


@pytest.mark.parametrize(
    "file", ["consolidated.safetensors", "model.fp32-00001-of-00002.safetensors"]
)
def test_the_same_weights_in_another_form_are_left_where_they_are(file, tmp_path):
    folders.write("llama", tmp_path)
    (tmp_path / file).write_bytes(b"of no model")
    found = convert.open_folder(tmp_path, convert.ARCHITECTURES).tensors
    assert found.besides == [file]
    assert found.shapes.keys() == cases.recorded("llama")["shapes"].keys()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(config.InputError, match=f"has {file}, but no"):
        convert.open_folder(tmp_path, convert.ARCHITECTURES)
