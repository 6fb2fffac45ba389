"""Model folders as the Hugging Face Hub has them: opened with all checks, and written."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from bigmodel import config
from bigmodel.convert import rows, tensors
from bigmodel.convert.architecture import Architecture, Fields
from bigmodel.convert.fields import Foreign, open_config

Table = Mapping[str, Architecture]
ALLOWED = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Folder:
    """A foreign checkpoint whose config is understood.

    Attributes:
        name: of the architecture.
        architecture: its row.
        fields: of our model, those that its config says.
        ids: of special tokens that its config names, such as "eos_token_id".
        unread: fields of its config that nobody read, all of them empty.
        tensors: its weights.
    """

    name: str
    architecture: Architecture
    fields: dict[str, Any]
    ids: dict[str, Any]
    unread: list[str]
    tensors: tensors.Tensors

    def read(self, complete: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
        """Our parameters by path, where `shapes` says each lies.

        Args:
            complete: all fields of our model.
            shapes: abstract parameters by path.

        Raises:
            InputError: a tensor is missing, too many, or of another shape.
        """
        names = self.names(complete)
        fixed = self.architecture.fixed(complete)
        tied = [alias for alias in ALIASES if alias in self.tensors.shapes]
        own = self.architecture
        unread = "|".join([own.unread, own.dropped, *UNREAD, *map(re.escape, fixed)])
        rows.check(names, shapes, self.tensors, unread)
        for name, value in fixed.items():
            self.check_fixed(name, value)
        for alias in tied:
            self.check_tied(alias, names)
        return rows.read(names, shapes, self.tensors)

    def names(self, complete: Fields) -> list[rows.Row]:
        """The table of names as this folder has them."""
        found = self.architecture.rows(complete)
        return [dataclasses.replace(row, theirs=self.own(row.theirs)) for row in found]

    def passed_over(self, complete: Fields) -> list[str]:
        """Names of weights that the architecture has and our model has no place for."""
        read = {re.sub(r"\{\w+\}", "0", row.theirs) for row in self.names(complete)}
        found = [name for name in self.tensors.shapes if name not in read]
        return [name for name in found if re.search(self.architecture.dropped, name)]

    def own(self, name: str) -> str:
        """A name as this folder has it: of a bare model, or older."""
        prefix = self.architecture.prefix
        if prefix and not any(found.startswith(prefix) for found in self.tensors.shapes):
            name = name.removeprefix(prefix)
        for pattern, replacement in self.architecture.renamed:
            old = re.sub(pattern, replacement, name)
            first = re.sub(r"\{\w+\}", "0", old)
            name = old if first in self.tensors.shapes else name
        return name

    def check_fixed(self, name: str, value: np.ndarray) -> None:
        """A tensor that is made of nothing but its shape must be what is made."""
        if name not in self.tensors.shapes:
            return
        found = self.tensors.get(name).astype(np.float32)
        if found.shape != value.shape or not np.allclose(found, value, atol=4e-3):  # of bfloat16
            raise config.InputError(
                f"{self.tensors.folder}: {name} {list(found.shape)} is no fixed table of sines and "
                f"cosines {list(value.shape)}; one that was trained has no place here."
            )

    def check_tied(self, alias: str, names: list[rows.Row]) -> None:
        """A head that stands beside the table to which it is tied must be that table."""
        if alias in {row.theirs for row in names}:
            return
        table = next(row.theirs for row in names if row.ours == "embed/table")
        if not np.array_equal(self.tensors.get(alias), self.tensors.get(table)):
            raise config.InputError(
                f"{self.tensors.folder}: tie_word_embeddings is true, but {alias} is another "
                f"matrix than {table}."
            )


# Heads that may stand beside the table that they are.
ALIASES = (
    *("lm_head.weight", "lm_head.decoder.weight", "cls.predictions.decoder.weight"),
    "proj_out.weight",
)
UNREAD = tuple(f"^{re.escape(alias)}$" for alias in ALIASES)


def open_folder(folder: str | pathlib.Path, table: Table) -> Folder:
    """A folder with a config.json and safetensors files; the weights are not read yet.

    Raises:
        InputError: it is no such folder, of an architecture not in the table, quantised, or its
            config says what our layers cannot be.
    """
    folder = pathlib.Path(folder)
    values = open_config(folder)
    name = next(iter(values.get("architectures") or []), "")
    if name not in table:
        raise config.InputError(
            f"{folder / 'config.json'}: its architecture is {name or 'not said'}; known are "
            f"{', '.join(sorted(table))}.{config.nearest(name, table)}"
        )
    found = tensors.Tensors(folder)
    theirs = Foreign(values, str(folder / "config.json"), found.shapes)
    fields = table[name].fields(theirs)
    unread = theirs.finish()
    said = {**values, **values.get("text_config", {})}
    ids = {key: value for key, value in said.items() if key.endswith("_token_id")}
    return Folder(name, table[name], fields, ids, unread, found)


def which(family: str, fields: Fields, defaults: Fields, table: Table, name: str = "") -> str:
    """The architecture that a model of ours is: one whose config gives back all of its fields.

    Args:
        family: of `models.FAMILIES`.
        fields: of the model.
        defaults: of the family, for fields that are not among them.
        table: of architectures.
        name: of one that was asked for; "": the first that fits.
    """
    own = {**defaults, **fields}
    lost = {
        n: lacking(architecture, own, defaults)
        for n, architecture in table.items()
        if architecture.family == family
    }
    fitting = [n for n, fields_lost in lost.items() if not fields_lost]
    if name in fitting or (not name and fitting):
        return name or fitting[0]
    near = name if name in lost else min(lost, key=lambda n: len(lost[n]), default="")
    why = f" {near} cannot say model.{', model.'.join(lost[near])}." if near else ""
    known = ", ".join(fitting) or "none"
    asked = f"architecture {name!r}: " if name else ""
    raise config.InputError(f"{asked}this model can be written as: {known}.{why}")


def lacking(architecture: Architecture, fields: Fields, defaults: Fields) -> list[str]:
    """The fields that a config of that kind would lose; all, if it can be none of it."""
    try:
        names = {row.theirs for row in architecture.rows(fields)}
        again = architecture.fields(Foreign(architecture.config(fields), "config.json", names))
    except (config.InputError, KeyError):
        return sorted(fields)
    one, other = (canonical({**defaults, **given}) for given in (fields, again))
    names = set(defaults) - OF_A_RUN
    return sorted(n for n in names if not callable(one[n]) and one[n] != other[n])


# How a run computes and trains, which no config of theirs says.
OF_A_RUN = {
    *("dtype", "param_dtype", "remat", "remat_save", "remat_offload", "scan", "attention"),
    *("context_attention", "dropout", "attention_dropout", "init_std", "init_residual"),
    *("router_balance", "expert_capacity"),
}


def canonical(fields: Fields) -> dict[str, Any]:
    """Fields whose values stand for others put as those others, to be compared."""
    found = dict(fields)
    stands = {
        "hidden": 4 * found.get("width", 0),
        "kv_heads": found.get("heads"),
        "head_dim": found.get("width", 0) // (found.get("heads") or 1),
        "text_hidden": 4 * found.get("text_width", 0),
        "encoder_layers": found.get("layers"),
        "expert_hidden": found.get("hidden") or 4 * found.get("width", 0),
    }
    for name, value in stands.items():
        if name in found:
            found[name] = found[name] or value
    if "qkv_bias" in found and found["qkv_bias"] is None:
        found["qkv_bias"] = found["bias"]
    if not found.get("window"):
        found.pop("pattern", None)
    if "rope_scaling" in found:
        kind = "llama3" if found["rope_original_length"] else "linear"
        found["rope_scaling"] = found["rope_scaling"] or kind
    if not found.get("rope_original_length"):
        found |= {"rope_low": 0.0, "rope_high": 0.0}
    if not found.get("experts"):
        found |= dict.fromkeys((n for n in found if n.startswith(("expert", "router"))), 0)
    return {"pattern": (), **found}


def export(
    folder: str | pathlib.Path,
    name: str,
    architecture: Architecture,
    fields: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    dtype: str,
    ids: Mapping[str, Any],
    shard_bytes: int = tensors.SHARD_BYTES,
) -> None:
    """Writes config.json and the weights.

    Args:
        folder: made if missing.
        name: of the architecture.
        architecture: its row.
        fields: of our model, complete.
        params: arrays by path, without padding.
        dtype: of what is written, a name of ALLOWED.
        ids: of special tokens, for config.json and generation_config.json.
        shard_bytes: the most that one file holds.
    """
    if dtype not in ALLOWED:
        raise config.InputError(f"dtype {dtype!r}: allowed are {', '.join(ALLOWED)}.")
    folder = pathlib.Path(folder)
    names = list(architecture.rows(fields))
    if architecture.bare:
        prefix = architecture.prefix
        names = [dataclasses.replace(r, theirs=r.theirs.removeprefix(prefix)) for r in names]
    written = {
        "architectures": [name],
        "model_type": architecture.model_type,
        "torch_dtype": dtype,
        **architecture.config(fields),
    }
    written.get("text_config", written).update(ids)  # CLIP reads a text where its end token is
    marks = {key: value for key, value in written.items() if key.endswith("_token_id")}
    if jax.process_index() == 0:  # the others hand over what they hold
        folder.mkdir(parents=True, exist_ok=True)
        put(folder / "config.json", written)
        put(folder / "generation_config.json", marks | dict(ids))
    fixed = {
        name: value.astype(rows.numpy_dtype(dtype))
        for name, value in architecture.fixed(fields).items()
    }
    given: Iterator = itertools.chain(rows.theirs(names, params, dtype), fixed.items())
    sizes = rows.sizes(names, params, dtype) | {n: value.nbytes for n, value in fixed.items()}
    tensors.write(folder, sizes, given, shard_bytes=shard_bytes)


def put(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
