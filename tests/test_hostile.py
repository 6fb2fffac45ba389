"""What comes from a stranger runs no code and reaches no other folder: refused, or passed over.

Config files alone are code, and `load(workdir, extensions=False)` runs not even those.
"""

import ast
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest

import bigmodel
from bigmodel import checkpoint, config
from bigmodel import recipe as recipes
from bigmodel.data import chat_template_files, latents, store, tokenizers
from bigmodel.train import origins, workdir
from tests import runs
from tests.checkpoint import states, test_local_tier
from tests.convert import folders, foreign_tokenizers


class Payload:  # makes a folder as soon as it is unpickled
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path):
    """A path that hostile code would make; checked when the test ends."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "hostile code was run"


def code(canary):
    return f"__import__('os').mkdir({str(canary)!r})"


def test_the_payloads_work(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "pickle")))
    eval(code(tmp_path / "text"))
    assert {path.name for path in tmp_path.iterdir()} == {"pickle", "text"}


# No pickle, no text run as code, no archive unpacked, anywhere in the library
DANGEROUS = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "torch"),
    *("eval", "exec", "system", "popen", "extractall", "unpack_archive", "trust_remote_code"),
    "deserialize_and_load",
}
ALLOWED = {
    # A config file is code.
    ("config/files.py", "exec"),
    # Filters go to the processes that this one has started, through a pipe; never from a file.
    ("data/filters.py", "cloudpickle"),
    # With filter="data", after looks of its own.
    ("launch/snapshot.py", "extractall"),
    # What this user's own start has kept in a folder that nobody else can write to.
    ("train/saved.py", "deserialize_and_load"),
}


def dangers(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "").partition(".")[0], *(a.name for a in node.names))
        elif isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", ""))
            for keyword in node.keywords:
                if (
                    keyword.arg in ("allow_pickle", "shell")
                    and ast.unparse(keyword.value) != "False"
                ):
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"
                yield keyword.arg or ""


def dangerous(text):
    return {name for name in dangers(text) if name in DANGEROUS or "=" in name}


def test_the_library_names_nothing_that_runs_what_it_reads():
    house = pathlib.Path(bigmodel.__file__).parent
    found = {
        (str(path.relative_to(house)), name)
        for path in house.rglob("*.py")
        for name in dangerous(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        *("import pickle", "from dill import loads", "eval(x)", "np.load(f, allow_pickle=True)"),
        *("np.load(f, allow_pickle=x)", "a.extractall(p)", "run(c, shell=True)", "torch.load(f)"),
    ],
)
def test_a_planted_danger_is_found(text):
    assert dangerous(f"import torch\n{text}" if "torch" in text else text)


def pickled(path, canary):
    path.write_bytes(pickle.dumps(Payload(canary)))


def object_array(path, canary):
    np.save(path, np.array([Payload(canary)], object), allow_pickle=True)


@pytest.mark.parametrize("plant", [pickled, object_array])
def test_a_data_cache_with_a_pickle_is_unsound(tmp_path, canary, plant):
    plant(tmp_path / "tokens.npy", canary)
    size = (tmp_path / "tokens.npy").stat().st_size
    (tmp_path / "meta.json").write_text(json.dumps({"files": {"tokens.npy": size}}))
    assert store.load(tmp_path) is None


@pytest.mark.parametrize("plant", [pickled, object_array])
def test_latents_that_are_a_pickle_are_refused(tmp_path, canary, plant):
    plant(tmp_path / "train.npy", canary)
    with pytest.raises(config.InputError, match="is no array of NumPy"):
        latents.opened(str(tmp_path), "train.npy")


@pytest.mark.parametrize("name", ["../escaped.npy", "/tmp/escaped.npy", "..", "a/../../b.npy"])
def test_a_data_cache_names_no_file_of_another_folder(tmp_path, name):
    remote, outside = tmp_path / "remote", tmp_path / "home" / "escaped.npy"
    for folder in (remote, outside.parent):
        folder.mkdir()
    np.save(tmp_path / "escaped.npy", np.arange(3))
    size = (tmp_path / "escaped.npy").stat().st_size
    (remote / "meta.json").write_text(json.dumps({"files": {name: size}}))
    assert store.load(remote) is None
    assert store.fetch(remote, outside.parent / "cache") is None
    assert list(outside.parent.iterdir()) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pickles_in_the_place_of_a_checkpoints_arrays_are_left_aside(tmp_path, canary):
    run = test_local_tier.saved(tmp_path, 10, 11)
    for path in [*(tmp_path / "checkpoints" / "10").rglob("*"), run / "11" / "0-of-1" / "shards"]:
        if path.is_file() and path.name != "manifest.json":
            junk = pickle.dumps(Payload(canary))
            path.write_bytes(
                junk.ljust(len(path.read_bytes()), b".")
            )  # of the size that it should be
    told: list[str] = []
    wanted = states.abstract(states.mesh_of(8))
    with test_local_tier.tiers(tmp_path) as both, pytest.raises(checkpoint.UnsoundError):
        both.restore(wanted, warn=told.append)
    assert "shards" in told[0]


# Folders of models


def model(folder, **changes):
    """A Hugging Face folder with whole weights, of few numbers."""
    folders.write("gpt2", folder, **changes)
    return folder


def only_a_pickle(folder, canary):
    os.remove(model(folder) / "model.safetensors")
    pickled(folder / "pytorch_model.bin", canary)
    return "may run code when it is read"


def a_pickle_by_another_name(folder, canary):
    pickled(model(folder) / "model.safetensors", canary)
    return "is torn or no safetensors file"


def an_index_to(name):
    def plant(folder, canary):
        os.rename(model(folder) / "model.safetensors", folder.parent / "outside.safetensors")
        index = {"weight_map": {"x": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return "lacks|is no index"

    return plant


def a_link_to_no_tensors(folder, canary):
    os.remove(model(folder) / "model.safetensors")
    os.symlink("/etc/passwd", folder / "model.safetensors")
    return "is torn or no safetensors file"


def a_name_that_is_code(folder, canary):
    model(folder, architectures=[code(canary)])
    return "its architecture is __import__"


def a_field_that_is_code(folder, canary):
    model(folder, activation_function=code(canary))
    return "activation_function"


def a_number_that_is_code(folder, canary):
    model(folder, layer_norm_epsilon=code(canary))
    return "norm_epsilon"


def code_of_its_own(folder, canary):
    model(folder, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text(code(canary))
    return "auto_map"


def a_pickled_tokenizer(folder, canary):
    pickled(model(folder) / "tokenizer.json", canary)
    return "tokenizer"


def a_pickled_sentencepiece(folder, canary):
    pickled(model(folder) / "tokenizer.model", canary)
    return "tokenizer"


@pytest.mark.parametrize(
    "plant",
    [
        *(only_a_pickle, a_pickle_by_another_name, a_link_to_no_tensors),
        *(a_name_that_is_code, a_field_that_is_code, a_number_that_is_code),
        *(code_of_its_own, a_pickled_tokenizer, a_pickled_sentencepiece),
        *map(
            an_index_to,
            ["../outside.safetensors", "../../../../etc/passwd", "/etc/passwd", "..", "", 3, ["x"]],
        ),
    ],
)
def test_a_hostile_model_is_refused_in_one_line(tmp_path, canary, plant):
    words = plant(tmp_path / "model", canary)
    with pytest.raises(config.InputError, match=words):
        bigmodel.import_hf(tmp_path / "model", tmp_path / "run", show=folders.quiet)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A sound model with code beside it, and the workdir that it became; none of it was run."""
    folder = tmp_path_factory.mktemp("imported")
    text = f"{code(folder / 'canary')}\n"
    model(folder / "model")
    for name in ("modeling_own.py", "config.py", "setup.py", "__init__.py"):
        (folder / "model" / name).write_text(text)
    bigmodel.import_hf(folder / "model", folder / "run", show=folders.quiet)
    assert not (folder / "canary").exists()
    return folder


def test_without_extensions_a_workdir_runs_no_code(imported, tmp_path, canary):
    folder = tmp_path / "run"
    shutil.copytree(imported / "run", folder)
    header = (folder / "config.py").read_text().partition("\n")[0]
    (folder / "config.py").write_text(f"{header}\n{code(canary)}\nEXTENSIONS = {{}}\n")
    run = bigmodel.load(folder, extensions=False)
    assert run.step == 0
    recipe = recipes.make(runs.config())
    origins.open_source(recipe, str(folder), folders.quiet)  # what init_from does
    assert not canary.exists()
    with pytest.raises(config.InputError, match="get_config"):
        workdir.read(folder)
    canary.rmdir()  # a config file is code


def test_values_of_a_workdir_are_never_code(imported, tmp_path, canary):
    folder = tmp_path / "run"
    shutil.copytree(imported / "run", folder)
    values = json.loads((folder / "config.json").read_text())
    values["model"]["width"] = values["data"]["source"] = code(canary)
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(config.InputError, match=r"model\.width"):
        bigmodel.load(folder, extensions=False)


def test_a_tokenizers_folder_names_no_other_file(tmp_path, canary):
    foreign_tokenizers.write("llama", tmp_path / "t")
    expected = tokenizers.load(str(tmp_path / "t")).fingerprint
    said = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    said |= {"tokenizer_file": "../outside/tokenizer.json", "auto_map": {"AutoTokenizer": "own.T"}}
    said |= {"vocab_file": "/etc/passwd", "tokenizer_class": code(canary)}
    (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "t" / "own.py").write_text(code(canary))
    assert tokenizers.load(str(tmp_path / "t")).fingerprint == expected


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ strftime_now.__self__.__class__.__base__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').mkdir('CANARY') }}",
    "{{ cycler.__init__.__globals__.os.mkdir('CANARY') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.mkdir('CANARY') }}",
)


@pytest.mark.parametrize("text", ESCAPES)
def test_a_chat_template_reaches_nothing_but_the_chat(tmp_path, canary, text):
    (tmp_path / "t.jinja").write_text(text.replace("CANARY", str(canary)))
    bytes_ = tokenizers.load("bytes")
    template = chat_template_files.load(str(tmp_path / "t.jinja"), bytes_, "2024-07-26")
    try:
        said = template.render([{"role": "user", "content": "hi"}])
    except chat_template_files.Fault:
        return
    assert said == ""
