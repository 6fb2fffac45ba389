"""Laws of configs: what a file and overrides say is what comes out, or one line says why not."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Literal

import hypothesis
import ml_collections
import pytest
from flax import linen as nn
from hypothesis import strategies

from bigmodel import config as configs

FILE = """
from ml_collections import ConfigDict, config_dict

SIZES = {"tiny": dict(layers=2, width=64), "1b": dict(layers=16, width=2048)}


def halve(x):
    return x / 2


EXTENSIONS = {"optimizer": {"halve": halve}}


def get_config(size="1b"):
    config = ConfigDict(dict(seed=0, steps=10, note="plain", axes=("a", "b")))
    config.model = dict(dropout=0.0, scan=True, hidden=config_dict.placeholder(int), **SIZES[size])
    config.data = dict(mixture=ConfigDict(allow_dotted_keys=True))
    config.evals = dict(held_out=dict(split="validation"))
    return config.lock()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gpt.py"
    path.write_text(FILE)
    return path


def test_a_file_without_overrides_gives_what_get_config_returned(file):
    loaded = configs.load(str(file))
    assert (loaded.config.model.layers, loaded.argument) == (16, None)
    assert loaded.config.is_locked
    assert loaded.text == FILE
    assert loaded.extensions["optimizer"]["halve"](4) == 2


OVERRIDES = {
    "seed=7": ("seed", 7),
    "note=a=b": ("note", "a=b"),
    "note=": ("note", ""),
    "axes=(1, 2, 3)": ("axes", (1, 2, 3)),
    "axes=c": ("axes", ("c",)),
    "model.dropout=1": ("model.dropout", 1.0),
    "model.scan=false": ("model.scan", False),
    "model.hidden=256": ("model.hidden", 256),
    "model.width=None": ("model.width", None),
    "evals.held_out.batches=3": ("evals.held_out.batches", 3),  # its other fields are optional
    "data.mixture={'text:a/*.txt': 0.5}": ("data.mixture", {"text:a/*.txt": 0.5}),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_an_override_sets_its_field_in_its_own_type(file, override):
    field, value = OVERRIDES[override]
    loaded = configs.load(f"{file}:tiny", [override])
    found = functools.reduce(getattr, field.split("."), loaded.config)
    found = configs.plain(found) if isinstance(value, dict) else found
    assert found == value
    assert type(found) is type(value)
    assert loaded.overrides == (override,)
    assert loaded.config.is_locked


def test_overrides_may_be_a_mapping_of_python_values(file):
    loaded = configs.load(f"{file}:tiny", {"model.scan": False, "axes": (1, 2), "steps": 3})
    assert (loaded.config.model.scan, loaded.config.axes, loaded.config.steps) == (False, (1, 2), 3)


def test_a_stored_text_gives_the_same_config_again(file):
    loaded = configs.load(f"{file}:tiny", ["model.width=128", "axes=(1,)"])
    again = configs.load_text(loaded.text, loaded.argument, loaded.overrides, "elsewhere/config.py")
    assert again.config == loaded.config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sead=1", ['the config has no field "sead"', 'Did you mean "seed"?']),
        ("model.wdith=1", ['model has no field "wdith"', 'Did you mean "width"?', "layers"]),
        ("mdoel.width=1", ['no field "mdoel"', 'Did you mean "model"?']),
        ("seed.x=1", ["seed is a single value"]),
        ("seed=1.5", ["seed=1.5", "seed wants a whole number"]),
        ("model.dropout=high", ["model.dropout wants a number"]),
        ("model.scan=maybe", ["model.scan wants true or false"]),
        ("note=['a', 'b']", ["note wants text"]),
        ("model=3", ["model wants a section"]),
        ("seed", ["an override is field=value"]),
        ("=3", ['no field ""']),
    ],
)
def test_a_bad_override_is_one_line_with_field_value_and_cure(file, override, words):
    refuses(lambda: configs.load(f"{file}:tiny", [override]), override, *words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gtp.py", ["'gtp.py': no such file", 'Did you mean "gpt.py"?']),
        ("configs", ["no such file"]),
        (".", ["is a folder"]),
        ("", ["is a folder"]),
        ("gpt.py:tinny", ["no size 'tinny'", 'Did you mean "tiny"?', "Sizes: tiny, 1b."]),
    ],
)
def test_a_bad_file_or_size_is_one_line_with_the_nearest(file, spec, words):
    refuses(lambda: configs.load(spec), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", ["needs a function get_config"]),
        ("def get_config(:", ["gpt.py:1", "SyntaxError"]),
        ("import nowhere", ["gpt.py:1", "nowhere"]),
        ("def get_config():\n  return 1 / 0", ["gpt.py:2", "ZeroDivisionError"]),
        ("def get_config(): return {}", ["must return a ConfigDict, not dict"]),
        ("def get_config(size): ...", ["needs a size after a colon"]),
        (FILE.replace("return config", "config.sede = 1; return config"), []),
        (FILE.replace("return config.lock()", "config.lock(); config.stpes = 1"), ['"steps"']),
        (FILE.replace("return config.lock()", "config.seed = 'x'"), ["seed", "int"]),
    ],
)
def test_a_fault_in_the_file_is_one_line_with_its_place(file, text, words):
    file.write_text(text)
    if words:
        refuses(lambda: configs.load("gpt.py"), "gpt.py", *words)
    else:
        configs.load("gpt.py")


def test_a_file_without_sizes_refuses_an_argument(file):
    file.write_text("def get_config(): ...")
    refuses(lambda: configs.load("gpt.py:tiny"), "takes no 'tiny' after the colon")


# Sections and builders


def schedule(
    steps, *, peak: float = 1e-3, warmup: int, shape: Literal["cosine", "linear"] = "cosine"
):
    return steps, peak, warmup, shape


@dataclasses.dataclass(frozen=True)
class Block:
    width: int
    pattern: tuple[int, ...] = (1,)
    norm: str | None = None
    activation: Callable | str = "gelu"
    table: dict[str, float] = dataclasses.field(default_factory=dict)


def unannotated(lr, axes, *, k=None, rate=0.5, betas=(0.9, 0.99), mask: tuple = (), most):
    return k, rate, betas, mask, most


def partly(lr: "optax.Schedule", *, names: tuple[str, ...] = ("a",)):  # type: ignore  # noqa: F821
    return names


class Layer(nn.Module):
    width: int = 3
    dtype: str = "float32"


def test_the_schema_is_the_builders_own_fields():
    assert list(configs.schema(schedule)) == ["peak", "warmup", "shape"]
    assert configs.schema(schedule)["warmup"] == (int, configs.REQUIRED)
    assert list(configs.schema(Block, skip=1)) == ["pattern", "norm", "activation", "table"]
    assert configs.schema(Layer) == {"width": (int, 3), "dtype": (str, "float32")}


SECTIONS = [
    (schedule, {"name": "mine", "peak": 1, "warmup": 5}, {"peak": 1.0, "warmup": 5}),
    (schedule, {"peak": None, "warmup": 5, "foreign": None}, {"warmup": 5}),
    (Block, {"width": 1, "pattern": [1, 2]}, {"width": 1, "pattern": (1, 2)}),
    (Block, {"norm": "rms", "table": {"a": 1}}, {"norm": "rms", "table": {"a": 1}}),
    (unannotated, {"k": 3, "most": 0.5}, {"k": 3, "most": 0.5}),
    (unannotated, {"k": (1, "a"), "most": True}, {"k": (1, "a"), "most": True}),
    (unannotated, {"rate": 1, "most": "text"}, {"rate": 1.0, "most": "text"}),
    (unannotated, {"betas": [1, 0.5], "most": 1}, {"betas": (1, 0.5), "most": 1}),
    (unannotated, {"mask": ["a", 1], "most": 1}, {"mask": ("a", 1), "most": 1}),
]


@pytest.mark.parametrize(("builder", "section", "arguments"), SECTIONS)
def test_a_section_becomes_the_builders_arguments(builder, section, arguments):
    found = configs.resolve(ml_collections.ConfigDict(section), builder, "here")
    assert found == arguments
    assert all(type(found[field]) is type(value) for field, value in arguments.items())


@pytest.mark.parametrize(
    ("builder", "section", "words"),
    [
        (
            schedule,
            {"warmpu": 3},
            ["here.warmpu=3", "schedule takes no", '"warmup"', "peak, shape"],
        ),
        (schedule, {"warmup": 3.5}, ["here.warmup=3.5", "a whole number"]),
        (schedule, {"warmup": True}, ["here.warmup=True", "a whole number"]),
        (schedule, {"warmup": None}, ["here.warmup", "has no default", "a whole number"]),
        (schedule, {"shape": "cosin"}, ["one of cosine, linear", 'Did you mean "cosine"?']),
        (Block, {"pattern": 3}, ["here.pattern=3", "a tuple"]),
        (Block, {"pattern": (1, "x")}, ["here.pattern=(1, 'x')", "a tuple"]),
        (Block, {"norm": 3}, ["here.norm=3", "text"]),
        (Block, {"norm": {"a": 1}}, ["here.norm={'a': 1}", "text"]),
        (partly, {"names": ("b", 3)}, ["here.names=('b', 3)", "a tuple"]),
        (unannotated, {"most": None}, ["here.most", "has no default", "needs a value"]),
        (unannotated, {"most": 1, "betas": 3}, ["here.betas=3", "a tuple"]),
    ],
)
def test_a_misfit_is_one_line_with_field_value_and_what_is_allowed(builder, section, words):
    section = ml_collections.ConfigDict(section)
    refuses(lambda: configs.resolve(section, builder, "here"), *words)


# As JSON, and compared

names = strategies.text("abc.", min_size=1, max_size=4)
leaves = strategies.none() | strategies.booleans() | strategies.integers() | strategies.text()
values = leaves | strategies.floats(allow_nan=False) | strategies.tuples(leaves, leaves)
trees = strategies.dictionaries(
    names, values | strategies.dictionaries(names, values, max_size=3), max_size=4
)


@hypothesis.given(trees)
@hypothesis.settings(max_examples=50, deadline=None)
def test_json_and_back_is_the_identity(tree):
    config = ml_collections.ConfigDict(tree, allow_dotted_keys=True)
    again = configs.from_json(configs.to_json(config))
    assert configs.plain(again) == configs.plain(config)
    assert configs.diff(config, again) == []
    json.loads(configs.to_json(config))


def test_diff_names_each_field_that_differs(file):
    a = configs.load("gpt.py:tiny").config
    b = configs.load("gpt.py:1b", ["note=other"]).config
    assert configs.diff(a, b) == [
        'note: "plain" -> "other"',
        "model.layers: 2 -> 16",
        "model.width: 64 -> 2048",
    ]
    assert configs.diff(a, ml_collections.ConfigDict({"seed": 0})) == [
        f"{field}: {json.dumps(value)} -> (no such field)"
        for field, value in configs.flat(configs.plain(a)).items()
        if field != "seed"
    ]


def refuses(call, *words):
    with pytest.raises(configs.InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("name", "schemes", "words"),
    [
        ("s3://b/run", ("gs",), ["workdir 's3://b/run'", "a local path and gs://"]),
        ("abc://b/run", ("gs", "s3"), ["workdir 'abc://b/run'", "gs://, s3://"]),
        ("gs://b/run", ("gs",), ["gs:// is not installed", "EXTRA=gcs"]),
    ],
)
def test_a_place_that_cannot_be_opened_is_one_line_with_the_cure(monkeypatch, name, schemes, words):
    def missing(scheme):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    refuses(lambda: configs.place(name, "workdir", schemes), *words)


def test_a_local_place_is_a_path(tmp_path):
    assert configs.place(tmp_path, "workdir") == configs.place(str(tmp_path), "workdir")
