"""Weights that come from elsewhere and go there: what the command and Python share."""

import json
import pathlib
import pprint
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from bigmodel import checkpoint, compat, config, convert, models, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import peft
from bigmodel.data import tokenizer_files
from bigmodel.run import Run, load
from bigmodel.train import processes, state, workdir

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
# What goes along as it is.
FILES = (
    *(*TOKENIZERS, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *("generation_config.json", "preprocessor_config.json"),
)
FILE = '''"""{name}, imported; made by `bigmodel import`."""

from ml_collections import ConfigDict

import bigmodel

MODEL = {model}
DATA = {data}


def get_config() -> ConfigDict:
    config = bigmodel.default_config({family!r}, objective={objective!r}, data={kind!r})
    config.model.update(MODEL)
    config.data.update(DATA)
    config.log.tensorboard = False
    return config
'''


def import_hf(
    folder: str | pathlib.Path,
    into: str | epath.Path,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    show: Callable[[str], None] = config.to_stderr,
) -> None:
    """A Hugging Face folder into a workdir: to generate from, to evaluate, to start from.

    Args:
        folder: with config.json, safetensors, and a tokenizer.json if the model reads text.
        into: the workdir; made.
        overrides: of the config that is written, as {"mesh.fsdp": 8}.
        show: is told what was found, a line at a time.

    Raises:
        InputError: the folder is no model that is known, or not whole; the workdir holds a run.
    """
    processes.join()
    compat.use_compilation_cache()
    place, source = workdir.place(into), pathlib.Path(folder)
    if (place / "config.json").exists():
        raise config.InputError(f"--workdir {str(into)!r} holds a run already; choose another.")
    found = convert.open_folder(source, convert.ARCHITECTURES)
    here = next((name for name in TOKENIZERS if (source / name).is_file()), "")
    recipe = recipes.make_stored(loaded_as(found, here and source / here, overrides))
    if here:
        recipes.check_vocabulary(recipe)
    if recipe.tuning.frozen:
        raise config.InputError(
            "import: all parameters are taken in as they are; frozen and lora are of the run that "
            "begins from them (init_from)."
        )
    abstract = state.abstract(recipe).params
    read = found.read(complete(recipe), trees.flatten(abstract))
    params = trees.map_with_path(lambda path, _: read.pop(path), abstract)

    with checkpoint.Checkpoints(place / "checkpoints", order=recipe.layer_order) as checkpoints:
        checkpoints.save(0, {"params": params}, {"imported": found.name}, wait=True)
    if jax.process_index() == 0:
        made = {"generation_config.json": found.ids}
        made |= {"tokenizer_config.json": {}} if here else {}  # so that `data.tokenizers` knows it
        for name in FILES:
            if (source / name).is_file():
                (place / name).write_bytes((source / name).read_bytes())
            elif name in made:
                (place / name).write_text(json.dumps(made[name]))
        loaded = loaded_as(found, here and place / here, overrides)
        known = {"architecture": found.name, "ids": found.ids, "from": str(folder)}
        workdir.write(place, loaded, workdir.provenance(recipe.mesh) | {"imported": known})
    if passed := found.passed_over(complete(recipe)):
        show(f"{folder}: no place for {', '.join(passed)}")
    if besides := found.tensors.besides:
        show(f"{folder}: {', '.join(besides)} was not read, the same weights in another form")
    for field in found.unread:
        show(f"{source / 'config.json'}: {field} is empty and was passed over")
    if not here and "tokenizer" in recipe.config.data:
        show(f"{folder}: has no {' or '.join(TOKENIZERS)}; set data.tokenizer before text goes in")
    show(f"{into}: {found.name}, {trees.count(params):,} parameters of {found.tensors.dtype}")


def loaded_as(
    found: convert.Folder, tokenizer: Any, overrides: Sequence[str] | Mapping[str, Any]
) -> config.Loaded:
    """The config of a run that goes on from a folder, as a file that makes it."""
    kind = found.architecture
    narrow = found.tensors.dtype == "bfloat16"
    dtypes = dict.fromkeys(("dtype", "param_dtype"), "bfloat16" if narrow else "float32")
    text = FILE.format(
        name=found.name,
        family=kind.family,
        objective=kind.objective,
        kind=kind.data,
        model=pprint.pformat(found.fields | dtypes, sort_dicts=False),
        data=kind.data_fields(found.fields) | ({"tokenizer": str(tokenizer)} if tokenizer else {}),
    )
    return config.load_text(text, None, overrides, f"{found.name}.py")


def export(
    folder: str | epath.Path,
    into: str | pathlib.Path,
    *,
    adapter: bool,
    step: int | None,
    architecture: str | None,
    dtype: str | None,
) -> None:
    """`export_hf`, or `export_adapter` where adapters alone are asked for."""
    if adapter and dtype:
        raise config.InputError(
            f"export --adapter: adapters are float32; leave --dtype {dtype} out."
        )
    how: dict[str, Any] = dict(step=step, architecture=architecture or "")
    if adapter:
        export_adapter(folder, into, **how)
    else:
        export_hf(folder, into, dtype=dtype or "", **how)


def export_hf(
    folder: str | epath.Path,
    into: str | pathlib.Path,
    *,
    step: int | None = None,
    architecture: str = "",
    dtype: str = "",
    show: Callable[[str], None] = config.to_stderr,
) -> None:
    """A run's weights into a Hugging Face folder: config.json, safetensors, tokenizer.

    Args:
        folder: the workdir.
        into: the folder; made.
        step: of the checkpoint; None: the newest.
        architecture: as "LlamaForCausalLM"; "": the one it was imported as, or the first that fits.
        dtype: of the file's tensors; "": the parameters' own.
        show: is told what was written.

    Raises:
        InputError: no architecture of the table has such layers; the folder is not empty.
    """
    into, place = pathlib.Path(into), workdir.place(folder)
    run = opened(folder, into, step)
    known = json.loads((place / "provenance.json").read_text()).get("imported", {})
    recipe = run.recipe
    asked = architecture or known.get("architecture", "")
    family = recipe.config.model.name
    if family not in models.FAMILIES:
        raise config.InputError(f"model {family!r} of the config file: only families of the table.")
    given = (family, recipe.fields, defaults(family), convert.ARCHITECTURES, asked)
    name = convert.which(*given)
    convert.export(
        into,
        name,
        convert.ARCHITECTURES[name],
        complete(recipe),
        trees.flatten(run.params),
        dtype=dtype or recipe.config.model.param_dtype,
        ids=known.get("ids") or special_ids(recipe),
    )
    if jax.process_index() == 0:
        files = {file: (place / file).read_bytes() for file in FILES if (place / file).exists()}
        if not known and "tokenizer" in recipe.config.data:
            begins = convert.ARCHITECTURES[name].data == "text"
            files |= tokenizer_files.files(run.tokenizer, begins=begins)
        for file, content in files.items():
            (into / file).write_bytes(content)
    show(f"{into}: {name}, {trees.count(run.params):,} parameters, step {run.step:,}")


def opened(folder: str | epath.Path, into: pathlib.Path, step: int | None) -> Run:
    """The run to export; `into` must be new, before any process has begun to write there."""

    def check_empty() -> None:
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise config.InputError(f"{into}: holds files already; choose another folder.")

    processes.join()
    processes.together(check_empty, "a look at the folder")
    return load(folder, step=step)


def export_adapter(
    folder: str | epath.Path,
    into: str | pathlib.Path,
    *,
    step: int | None = None,
    architecture: str = "",
    base: str = "",
    show: Callable[[str], None] = config.to_stderr,
) -> None:
    """The adapters of a run with `lora` alone, as the PEFT library loads them.

    Args:
        folder: the workdir.
        into: the folder; made.
        step: of the checkpoint; None: the newest.
        architecture: as of `export_hf`.
        base: where the weights lie that they belong to; "": where the run began from.
        show: is told what was written.

    Raises:
        InputError: the run has no adapters, or trained more than adapters, or their kernels are no
            matrices of their own there; the folder is not empty.
    """
    into = pathlib.Path(into)
    run = opened(folder, into, step)
    recipe, family = run.recipe, run.recipe.config.model.name
    if not run.adapters:
        raise config.InputError(f"{folder}: has no adapters; it was trained with lora.rank = 0.")
    if recipe.tuning.fresh:
        raise config.InputError(
            f"{folder}: trained {', '.join(sorted(recipe.tuning.fresh))} besides, which an adapter "
            "does not hold; export the merged weights."
        )
    given = (family, recipe.fields, defaults(family), convert.ARCHITECTURES, architecture)
    name = convert.which(*given)
    peft.write(
        into,
        {path: np.asarray(x) for path, x in run.adapters.items()},
        convert.ARCHITECTURES[name].rows(complete(recipe)),
        alpha=recipe.config.lora.alpha,
        task="CAUSAL_LM" if name.endswith(("ForCausalLM", "LMHeadModel")) else "",
        base=base or recipe.config.init_from,
    )
    show(f"{into}: adapters of {name}, rank {recipe.config.lora.rank}, step {run.step:,}")


def special_ids(recipe: recipes.Recipe) -> dict[str, int]:
    """As a config.json names them."""
    if "tokenizer" not in recipe.config.data:
        return {}
    bos, eos = recipe.tokenizer.bos, recipe.tokenizer.eos
    start = {"decoder_start_token_id": bos} if {"source", "audio"} & set(recipe.example) else {}
    return {"bos_token_id": bos, "eos_token_id": eos, **start}


def defaults(family: str) -> dict[str, Any]:
    """Of all fields of a family."""
    schema = config.schema(models.FAMILIES[family][0])
    return {field: default for field, (_, default) in schema.items()}


def complete(recipe: recipes.Recipe) -> dict[str, Any]:
    """All fields of a run's model."""
    return {**defaults(recipe.config.model.name), **recipe.fields}
