"""A new row of a table of the library is at once allowed in a config."""

import importlib.util

import pytest

from bigmodel import config
from bigmodel.checkpoint import schedule
from bigmodel.data import cache, packing
from bigmodel.layers import block, feedforward, stack
from bigmodel.recipe import checks
from bigmodel.sharding import kernels

TABLES = [  # field, module, name of the table
    ("checkpoint.best_is", schedule, "SIGNS"),
    ("data.normalize", cache, "FORMS"),
    ("data.packing", packing, "PACKINGS"),
    ("model.attention", kernels, "PLAIN"),
    ("model.attention", kernels, "PLATFORMS"),
    ("model.feedforward", feedforward, "ACTIVATIONS"),
    ("model.feedforward", feedforward, "GATES"),
    ("model.norm_placement", block, "PLACEMENTS"),
    ("model.remat", stack, "REMAT_POLICIES"),
]


@pytest.mark.parametrize(("field", "module", "name"), TABLES)
def test_a_new_row_is_allowed(field, module, name, monkeypatch):
    table = getattr(module, name)
    longer = table | {"mine": None} if isinstance(table, dict) else (*table, "mine")
    monkeypatch.setattr(module, name, longer)
    assert "mine" in read_anew(checks).CHOICES[field]


def test_a_name_of_no_table_is_refused_with_those_that_are():
    told = (
        r"model.feedforward = 'swigl': allowed are swiglu, geglu, reglu, gelu, gelu_tanh, "
        r"quick_gelu, relu, relu_squared, silu\. Did you mean \"swiglu\"\?"
    )
    with pytest.raises(config.InputError, match=told):
        config.known("model.feedforward", "swigl", checks.CHOICES["model.feedforward"])


def read_anew(module):
    """The module as it would be, were it imported now."""
    spec = importlib.util.find_spec(module.__name__)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
