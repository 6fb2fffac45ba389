"""What a workdir holds beside checkpoints and metrics: the config, and what made the run."""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath

import bigmodel
from bigmodel import compat, config

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "libtpu")
# A line before the stored file's text that says how it was called.
HEADER = "# bigmodel-config: "


def place(folder: str | epath.Path) -> epath.Path:
    """The path of a workdir; Orbax writes arrays to no other store than gs://."""
    return config.place(folder, "workdir", schemes=("gs",))


def write(folder: epath.Path, loaded: config.Loaded, provenance: dict[str, Any]) -> None:
    """Stores the resolved config, the file that it came from, and the provenance."""
    folder.mkdir(parents=True, exist_ok=True)
    call = {"path": loaded.path, "argument": loaded.argument, "overrides": loaded.overrides}
    (folder / "config.json").write_text(config.to_json(loaded.config) + "\n")
    (folder / "config.py").write_text(f"{HEADER}{json.dumps(call)}\n{loaded.text}")
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def read(folder: str | epath.Path, *, extensions: bool = True) -> config.Loaded:
    """The config that a workdir holds.

    Args:
        folder: the workdir.
        extensions: runs the stored config file again, as the config's own builders need; False
            reads the values alone and runs no code.

    Raises:
        InputError: the folder is no workdir.
    """
    folder = place(folder)
    if not (folder / "config.json").exists():
        raise config.InputError(
            f"--workdir {str(folder)!r} holds no config.json: it is no folder that "
            f"`bigmodel train` has written."
        )
    values = config.from_json((folder / "config.json").read_text())
    header, _, text = (folder / "config.py").read_text().partition("\n")
    if not extensions or not text.strip():
        return config.Loaded(config=values, text="", path=str(folder))
    call = json.loads(header.removeprefix(HEADER))
    loaded = config.load_text(text, call["argument"], call["overrides"], call["path"])
    # The values as they were: defaults may have moved since. The code is for the extensions.
    return dataclasses.replace(loaded, config=values)


class Marks(NamedTuple):
    """Ids that a model's texts begin and end with, where a tokenizer's own are not all.

    Attributes:
        start: what the decoder of an encoder-decoder begins with.
        ends: each of them ends a text.
    """

    start: int | None = None
    ends: tuple[int, ...] = ()


def marks(folder: str | epath.Path) -> Marks:
    """Those of the generation_config.json of a workdir that was imported; of another, none."""
    path = place(folder) / "generation_config.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    ends = found.get("eos_token_id")
    ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
    return Marks(found.get("decoder_start_token_id"), tuple(ends))


def provenance(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Versions, revision, device kind and settings that made a run."""
    devices = mesh.devices
    return {
        "bigmodel": bigmodel.__version__,
        "git": revision(),
        "python": platform.python_version(),
        "packages": versions(),
        "device": devices.flat[0].device_kind,
        "devices": int(devices.size),
        "processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "command": sys.argv,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "flop_convention": "6 per parameter of the matrix products and token; mfu: causal, half of "
        "a row's pairs in attention; mfu_full_attention: full, all of them",
    }


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed."""
    return compat.versions(PACKAGES)


def revision() -> str:
    """The revision of the code that runs, "+" after it where files were changed; or ""."""
    here = pathlib.Path(bigmodel.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return head + ("+" if head and git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""


# What a resumed run must share with the run that it goes on from, and why.
BINDING = {
    "seed": "other samples and masks",
    "batch": "the step would not be the same position in the data",
    "data": "other samples",
    "model": "other parameters",
    "optimizer": "another state",
    "frozen": "another state",
    "frozen_dtype": "other parameters",
    "lora": "other parameters",
    "fresh": "beside adapters it trains: another state",
}
# Of those, what may change: where and how numbers are computed, not which.
FREE = (
    *("model.dtype", "model.remat", "model.remat_save", "model.remat_offload", "model.scan"),
    *("model.attention", "model.context_attention", "data.cache_dir", "data.workers"),
    *(
        "optimizer.clip",
        "optimizer.offload",
        "optimizer.weight_decay",
        "optimizer.b1",
        "optimizer.b2",
        "optimizer.eps",
    ),
)


def facts(loaded: config.Loaded, tokenizer: str) -> dict[str, Any]:
    """What a checkpoint remembers of its run, to be held against one that goes on from it.

    The fingerprint of the "rows" belongs to it too; it is known once they are prepared.
    """
    values = loaded.config
    kept = {
        field: value
        for field, value in config.flat(config.plain(values)).items()
        if field.split(".")[0] in BINDING
        and field not in FREE
        and (values.lora.rank or field.split(".")[0] not in ("lora", "fresh"))
    }
    return {"config": kept, "tokenizer": tokenizer}


def check_resume(
    before: dict[str, Any], now: dict[str, Any], folder: str, unsaid: Callable[[], Mapping]
) -> None:
    """Refuses to go on from a checkpoint of a run that was another one, as far as `now` tells.

    Args:
        before: `facts` of the checkpoint; {}: there is none.
        now: of the run, or some of them.
        folder: the workdir.
        unsaid: gives the defaults of fields: one that the checkpoint does not know is younger
            than it, and was what it is by default.
    """
    if not before:
        return
    was_of, is_of = before["config"], now["config"]
    default_of = unsaid() if set(was_of) != set(is_of) else {}
    for field in sorted(set(was_of) | set(is_of)):
        was, is_now = (of.get(field, default_of.get(field)) for of in (was_of, is_of))
        if was != is_now and (was or is_now):
            raise config.InputError(
                f"{field} = {is_now!r}, but the checkpoints in {folder} were made with {was!r} "
                f"({BINDING[field.split('.')[0]]}). Set it back, or choose another --workdir."
            )
    for name, field in (("tokenizer", "data.tokenizer"), ("rows", "data.source")):
        if name in now and before[name] != now[name]:
            raise config.InputError(
                f"{field}: its content is not what the checkpoints in {folder} were made with "
                f"(fingerprint {before[name][:12]}, now {now[name][:12]}). Bring the old content "
                f"back, or choose another --workdir."
            )
