"""A folder of arrays that is written once, whole or not at all, and then only mapped.

Arrays are `.npy` files; `meta.json` is written last and holds each file's size, so a folder that
lost bytes is seen. A local folder appears by one rename; a remote one, where there is no rename,
counts from the moment its `meta.json` is there.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

META = "meta.json"

Stored = tuple[dict[str, np.ndarray], dict[str, Any]]  # memory-mapped arrays, what was noted


def load(folder: epath.PathLike) -> Stored | None:
    """The arrays and notes of a local folder, or None if it is absent or not sound."""
    folder = pathlib.Path(folder)
    if (meta := load_meta(folder)) is None:
        return None
    try:
        if any((folder / name).stat().st_size != size for name, size in meta["files"].items()):
            return None
        return {
            # np.asarray: still mapped, without the cost of np.memmap's own indexing
            name.removesuffix(".npy"): np.asarray(
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
            )
            for name in meta["files"]
        }, meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def build(folder: epath.PathLike, write: Callable[[pathlib.Path], Mapping[str, Any]]) -> Stored:
    """`load(folder)`, after `write(temporary folder) -> notes` has made it if need be.

    Several processes may build one folder at a time: each works on its own, the first to end
    gives the folder its name, and the others take that one.
    """
    folder = pathlib.Path(folder)
    if found := load(folder):
        return found
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    with _scratch(folder) as scratch:
        notes = write(scratch)
        files = {path.name: path.stat().st_size for path in sorted(scratch.glob("*.npy"))}
        (scratch / META).write_text(json.dumps({**notes, "files": files}, indent=2))
        _publish(scratch, folder)
    found = load(folder)
    if found is None:
        raise OSError(f"{folder}: written and renamed, and yet it cannot be read back.")
    return found


def save_array(path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new `.npy` file mapped for writing; arrays larger than memory are filled piece by piece."""
    if 0 in shape:  # nothing can be mapped
        np.save(path, np.empty(shape, dtype))
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def fetch(remote: epath.PathLike, folder: epath.PathLike) -> Stored | None:
    """Copies a remote folder to a local one, so that it can be mapped; None if it is not there."""
    remote = epath.Path(remote)
    meta = load_meta(remote)
    if meta is None:
        return None

    def copy(scratch: pathlib.Path) -> dict[str, Any]:
        for name in meta["files"]:
            with (remote / name).open("rb") as source, (scratch / name).open("wb") as target:
                shutil.copyfileobj(source, target, 2**24)
        return meta

    try:
        arrays, notes = build(folder, copy)
    except FileNotFoundError:
        return None
    return (arrays, notes) if notes["files"] == meta["files"] else None


def load_meta(folder: epath.PathLike) -> dict[str, Any] | None:
    """What was noted in a folder, or None if it is not complete, or names files of other places."""
    try:
        meta = json.loads((epath.Path(folder) / META).read_text())
        plain = all(pathlib.PurePath(name).name == name for name in meta["files"])
        return meta if plain and all(name.endswith(".npy") for name in meta["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def push(folder: epath.PathLike, remote: epath.PathLike) -> None:
    """Copies a local folder to a remote one; `meta.json` goes last and makes it count."""
    folder, remote = pathlib.Path(folder), epath.Path(remote)
    remote.mkdir(parents=True, exist_ok=True)
    meta = (folder / META).read_text()
    for name in json.loads(meta)["files"]:
        with (folder / name).open("rb") as source, (remote / name).open("wb") as target:
            shutil.copyfileobj(source, target, 2**24)
    (remote / META).write_text(meta)


def _publish(scratch: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:  # something stands there
        if load(folder) is not None:
            return  # another process was first, with the same content
        unsound = scratch.with_name(f"{scratch.name}0")
        with contextlib.suppress(OSError):
            folder.rename(unsound)
        with contextlib.suppress(OSError):
            scratch.rename(folder)
        shutil.rmtree(unsound, ignore_errors=True)


@contextlib.contextmanager
def _scratch(folder: pathlib.Path):
    tag = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    scratch = folder.with_name(f"{folder.name}.tmp.{tag}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(folder: pathlib.Path) -> None:
    """Removes what killed processes of this machine left of earlier attempts."""
    for scratch in folder.parent.glob(f"{folder.name}.tmp.*"):
        host, pid, _ = scratch.name.removeprefix(f"{folder.name}.tmp.").rsplit(".", 2)
        if host == socket.gethostname() and not _alive(int(pid)):
            shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
