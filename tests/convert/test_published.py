"""Folders as they were published, with their old fields and odd tensors, are imported."""

import math
import pathlib

import jax
import pytest
from flax.core import meta

from bigmodel import config, convert, models, trees
from bigmodel.convert.fields import Foreign
from bigmodel.convert.folders import OF_A_RUN, canonical
from tests.convert import published

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
