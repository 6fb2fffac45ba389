"""Laws of refusals: a config that cannot be run is one line, and never another error."""

import contextlib
import math

import hypothesis
import pytest
from hypothesis import strategies
from ml_collections import ConfigDict

from bigmodel import config, recipe
from bigmodel.train import state
from tests import runs

REFUSED = {
    "model.heads=5": ["model.heads = 5", "model.width = 32", "1, 2, 4, 8, 16, 32"],
    "model.kv_heads=3": ["model.kv_heads = 3", "model.heads = 4", "1, 2, 4"],
    "model.kv_heads=-1": ["model.kv_heads = -1", "not be negative"],
    "model.hidden=-1": ["model.hidden = -1", "not be negative"],
    "model.head_dim=-8": ["model.head_dim = -8", "not be negative"],
    "model.head_dim=3": ["model.head_dim = 3", "even"],
    "model.layers=0": ["model.layers = 0", "at least 1"],
    "model.vocab=4294967296": ["model.vocab", "at most 2,147,483,647"],
    "model.position=learned; data.length=65": ["data.length = 65", "model.length = 64"],
    "model.rope_theta=0": ["model.rope_theta = 0.0", "above 0"],
    "model.pattern=('globl',)": ["model.pattern = 'globl'", 'Did you mean "global"?'],
    "model.pattern=('local',)": ["model.window = 0", "at least 1"],
    "model.attention=splash": ["model.attention = 'splash' runs on tpu", "auto, reference"],
    "model.dropout=1.0": ["model.dropout = 1.0", "[0, 1)"],
    "model.name=None": ["model.name=None", "text"],
    "model=None": ["model: must be a section with a name"],
    "objective.chunk=-1": ["objective.chunk = -1", "not be negative"],
    "optimizer.mu_dtype=float23": ["optimizer.mu_dtype", "allowed", 'Did you mean "float32"?'],
    "optimizer.clip=None": ["optimizer.clip=None", "a number"],
    "optimizer.clip=-1": ["optimizer.clip = -1.0", "not be negative"],
    "optimizer.b1=nan": ["optimizer.b1 = nan", "a number"],
    "schedule.floor=1": ["schedule.floor=1.0", "schedule.peak=0.01"],
    "seed=-1": ["seed = -1", "0 and 2^32 - 1"],
    "steps=None": ["steps=None", "a whole number"],
    "batch=None": ["batch=None", "a whole number"],
    "batch=3; mesh.data=2": ["batch = 3", "2 parts", "data"],
    "ema=None": ["ema=None", "a number"],
    "ema=1": ["ema = 1.0", "below 1"],
    "mesh=None": ["mesh=None", "a section"],
    "mesh.data=None": ["mesh.data=None", "a whole number"],
    "mesh.fsdp=3; batch=3": ["'embed' of length 32", "cut 3 ways", "fsdp"],
    "rules=fsdp": ["rules = 'fsdp'", "fsdp_tensor, sequence"],
    "extra_rules=(1,)": ["extra_rules: 1 is no row", "(logical axis"],
    "extra_rules=(('embed', 3),)": ["extra_rules: ('embed', 3) is no row"],
    "compiler={'a': {'b': 1}}": ["compiler.a={'b': 1}", "true or false or a whole number"],
    "checkpoint.every=None": ["checkpoint.every=None", "a whole number"],
    "checkpoint.every_minutes=-1": ["checkpoint.every_minutes = -1.0", "not be negative"],
    "data.length=None": ["data.length=None", "a whole number"],
    "data.packing=best": ["data.packing = 'best'", 'Did you mean "best_fit"?'],
    "data.mixture={'a': {'source': 'x'}}": ["data.mixture.a: has no weight"],
    "data.mixture={'a': {'wieght': 1}}": ["data.mixture.a: field", 'Did you mean "weight"?'],
    "data.mixture={'a': {'weight': '1'}}": ["data.mixture.a.weight='1'", "a number"],
    "data.mixture={'a': {'weight': 1, 'source': 3}}": ["data.mixture.a.source=3", "text"],
    "data.mixture={'a': None}": ["data.mixture.a.weight=None", "a number"],
    "data.mixture={'a': 1, 'b': 0}": ["data.mixture.b.weight = 0.0", "above 0"],
    "data.mixture={'a': 1, 'b': {'weight': 2, 'source': 'a'}}": ["'a' has an entry already"],
    "evals={'v': 3}": ["evals.v = 3", "a section", "source, split, every, batches"],
    "evals={'v': {'spilt': 'all'}}": ["evals.v: field", 'Did you mean "split"?'],
    "evals={'v': {'every': 1.5}}": ["evals.v.every=1.5", "a whole number"],
    "evals.validation.every=-1": ["evals.validation.every = -1", "not be negative"],
    "evals.validation.batches=-1": ["evals.validation.batches = -1", "not be negative"],
    "evals=None": ["evals=None", "a section"],
    "fresh=(1,)": ["fresh=1", "text"],
    "fresh=('[',)": ["fresh: '[' is no regular expression"],
    "frozen=('^embd/',)": ["frozen: '^embd/' finds no parameter", "embed/table"],
    "frozen=('',)": ["frozen: finds every parameter"],
    "frozen=('^embed',); fresh=('table',)": ["frozen: embed/table is in `fresh` too"],
    "frozen_dtype=int8": ["frozen_dtype = 'int8'", "bfloat16"],
    "rates={'embd': 2.0}": ["rates: 'embd' finds no parameter", "embed/table"],
    "rates={'embed': 0}": ["rates.embed = 0", "above 0", "`frozen`"],
    "rates={'embed': 'x'}": ["rates.embed='x'", "a number"],
    "frozen=('embed',); rates={'embed': 2.0}": ["rates: 'embed' finds no parameter"],
    "layer_decay=0": ["layer_decay = 0.0", "above 0"],
    "layer_decay=1.5": ["layer_decay = 1.5", "up to 1"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_run_is_refused_in_one_line(overrides):
    made = config.load_text(runs.CONFIG, None, overrides.split("; "))
    with pytest.raises(config.InputError) as caught:
        recipe.make(made)
    text = str(caught.value)
    assert "\n" not in text
    for word in REFUSED[overrides]:
        assert word in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config.model = dict(name='decoder')", ["model lacks the field", "config.model.update"]),
        ("config.model = dict(width=3)", ["model: must be a section with a name"]),
        ("config.stpes = 3", ["the config has no field 'stpes'", 'Did you mean "steps"?']),
        ("config.mesh.fspd = 3", ["mesh has no field 'fspd'", 'Did you mean "fsdp"?']),
        ("del config.evals", ["the config lacks the field 'evals'", "default_config()"]),
    ],
)
def test_a_config_that_is_not_the_whole_schema_is_refused(line, words):
    made = config.load_text(runs.CONFIG.replace("return", f"config.unlock(); {line}\n    return"))
    with pytest.raises(config.InputError) as caught:
        recipe.make(made)
    for word in words:
        assert word in str(caught.value)


def test_a_mixture_may_name_its_sources_or_be_named_by_them():
    from bigmodel.recipe import entries

    named = {"code": {"source": "python_stdlib", "weight": 1}, "text:a.txt": 0.5}
    assert entries.mixture(named) == {"python_stdlib": 1.0, "text:a.txt": 0.5}


FIELDS = [
    *config.flat(runs.config()),
    *("model", "objective", "optimizer", "schedule", "data", "mesh", "checkpoint", "log"),
]
NUMBERS = strategies.sampled_from([-1, 0, 1, 3, 7, 10**19, -0.5, 0.5, 1.5, 1e30])
LEAVES = (
    strategies.sampled_from([None, True, math.nan, math.inf, -math.inf, "", "x", "bfloat16"])
    | NUMBERS
)
VALUES = (
    LEAVES
    | strategies.tuples(LEAVES)
    | strategies.tuples(LEAVES, LEAVES)
    | strategies.dictionaries(strategies.sampled_from(["a", "name", "weight"]), LEAVES)
    | strategies.dictionaries(strategies.just("a"), strategies.just({"b": 1}))
)


@hypothesis.given(field=strategies.sampled_from(FIELDS), value=VALUES)
@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
def test_no_value_of_a_single_field_ends_in_another_error(field, value):
    made = runs.config().unlock()
    *sections, last = field.split(".")
    section = made
    for name in sections:
        section = section[name]
    with made.ignore_type():
        section[last] = ConfigDict(value) if isinstance(value, dict) else value
    with contextlib.suppress(config.InputError):
        state.abstract(recipe.make(made))
