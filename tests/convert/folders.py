"""Foreign folders for tests: as recorded, and what of ours comes of them."""

import functools
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax.core import meta
from safetensors.numpy import load_file, save_file

from bigmodel import config, convert, models, trees
from bigmodel.data import tokenizers
from tests.convert import cases, foreign_tokenizers


def quiet(_: str) -> None:
    pass


def write(name: str, folder: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """A case's folder as `transformers` wrote it, some fields of its config otherwise."""
    found = cases.recorded(name)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: cases.drawn(key, tuple(shape)) for key, shape in found["shapes"].items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(found["config"] | changes))
    return found


def opened(folder: pathlib.Path) -> tuple[convert.Folder, Any, dict[str, Any], Any]:
    """(the folder, its model, all fields, its parameters), on one device."""
    found = convert.open_folder(folder, convert.ARCHITECTURES)
    module, make = models.FAMILIES[found.architecture.family]
    own = {name: default for name, (_, default) in config.schema(module).items()}
    fields = own | found.fields | dict(dtype="float32", scan=True)
    model = make(**fields)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
    shapes = jax.tree.map(functools.partial(placed, device), shapes)
    read = found.read(fields, trees.flatten(shapes))
    return found, model, fields, trees.map_with_path(lambda path, _: read[path], shapes)


def placed(device: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder."""
    found: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def made(architecture: str, folder: pathlib.Path, tokenizer: str = "", **fields: Any) -> None:
    """A folder of new weights, of fields of ours; with a tokenizer of `foreign_tokenizers`."""
    ids: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        foreign_tokenizers.write(tokenizer, folder)
        loaded = tokenizers.load(str(folder))
        ids = {"bos_token_id": loaded.bos, "eos_token_id": loaded.eos}
        fields = {"vocab": loaded.size} | fields
    kind = convert.ARCHITECTURES[architecture]
    module, make = models.FAMILIES[kind.family]
    whole = {name: default for name, (_, default) in config.schema(module).items()} | fields
    whole |= dict(dtype="float32")
    model = make(**whole)
    params = trees.flatten(meta.unbox(jax.jit(model.init)(jax.random.key(0), model.example)))
    convert.export(folder, architecture, kind, whole, params, dtype="float32", ids=ids)


# What a GPT-2 is, and a Llama, of few numbers.
GPT2 = dict(width=16, layers=2, heads=2, length=64, norm="layer", position="learned")
GPT2 |= dict(feedforward="gelu_tanh", bias=True, tied=True)
LLAMA = dict(width=16, layers=2, heads=4, kv_heads=2, hidden=24, length=64, norm="rms")
LLAMA |= dict(position="rope", feedforward="swiglu", bias=False, tied=False)
