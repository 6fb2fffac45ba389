"""What a process that compiles refuses: a mesh that does not divide, with the number that fails."""

import json

import pytest

import bigmodel
from bigmodel import config
from bigmodel.plan import child, compiling, make_request

TINY = {"mesh.fsdp": 1, "mesh.data": 1, "batch": 8, "data.length": 128}


def request(changes):
    loaded = bigmodel.load_config("configs/llama.py:tiny", TINY | changes)
    return make_request(loaded, "cpu:8")


MIXTURE = {"model.experts": 6, "model.expert_hidden": 32}

# mesh and model -> the number that fails, and what would do
REFUSED = {
    "devices": ({"mesh.fsdp": 16}, ["fsdp 16 needs 16 devices and there are 8"]),
    "rest": ({"mesh.fsdp": -1, "mesh.tensor": 3}, ["tensor 3 = 3", "must divide the 8 devices"]),
    "batch": ({"batch": 12, "mesh.fsdp": 8}, ["batch = 12", "multiples of 8"]),
    "heads": ({"mesh.tensor": 8}, ["'kv_heads' of length 2 is cut 8 ways over mesh tensor"]),
    "experts": (
        MIXTURE | {"mesh.expert": 4},
        ["'experts' of length 6 is cut 4 ways", "1, 2, 3, 6"],
    ),
    "layers": ({"model.layers": 3, "mesh.stage": 2}, ["model.layers = 3", "2 or 4 would"]),
    "vocab": ({"model.vocab": 321, "mesh.tensor": 2}, ["'vocab' of length 321 is cut 2 ways"]),
    "length": ({"data.length": 126, "mesh.context": 4}, ["data.length = 126"]),
}


def in_child(one, folder):
    """What a child says of a request: its function, without the process."""
    (folder / "request.json").write_text(one.text)
    status = child.main(folder)
    return status, json.loads((folder / "error.json").read_text())


@pytest.mark.parametrize("case", REFUSED)
def test_a_mesh_that_does_not_divide_says_which_number_fails(case, tmp_path):
    changes, said = REFUSED[case]
    status, refused = in_child(request(changes), tmp_path)
    assert (status, refused["kind"]) == (2, "refused")
    for part in said:
        assert part in refused["text"]


def test_a_refusal_of_a_child_is_one_here(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGMODEL_CACHE", str(tmp_path))
    with pytest.raises(config.InputError, match="'kv_heads' of length 2 is cut 8 ways"):
        compiling.compile_one(request({"mesh.tensor": 8}))
