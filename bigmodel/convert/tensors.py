"""Folders of safetensors files: read by name, a tensor at a time, and written in shards."""

import functools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigmodel import config

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# Of the same weights, beside them: Mistral's own, and of another dtype, as Whisper large-v3's.
OTHER_FORMS = re.compile(r"consolidated.*|model\.\w+(-\d+-of-\d+)?\.safetensors")
# Of arrays as they are; what is packed or scaled (quantised weights) is of other dtypes.
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SHARD_BYTES = 5 * 10**9


class Tensors:
    """The tensors of a folder, in one file or in shards with an index.

    Nothing but headers is read before `get`.

    Attributes:
        besides: names of files that hold the same weights in another form, and are not read.
        shapes: of all tensors, by name.
        dtypes: of all tensors, as the files call them.

    Raises:
        InputError: the folder holds no safetensors; a file is missing, torn, or in no index.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        files = _files(folder)
        self.besides = sorted(f.name for f in folder.glob("*.safetensors") if f not in files)
        self._file_of: dict[str, pathlib.Path] = {}
        self._opened: tuple[pathlib.Path | None, Any] = (None, None)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        for file, promised in files.items():
            handle = self._open(file)
            names = list(handle.keys())
            if promised is not None and set(promised) != set(names):
                odd = sorted(set(promised) ^ set(names))
                raise config.InputError(
                    f"{file}: {INDEX} and the file differ about {some(odd)}; fetch both anew."
                )
            for name in names:
                piece = handle.get_slice(name)
                self.shapes[name], self.dtypes[name] = tuple(piece.get_shape()), piece.get_dtype()
                self._file_of[name] = file

    @functools.cached_property
    def dtype(self) -> str:
        """The widest of all tensors', as NumPy calls it."""
        found = set(self.dtypes.values())
        if other := sorted(found - set(DTYPES)):
            name = next(n for n, dtype in self.dtypes.items() if dtype == other[0])
            raise config.InputError(
                f"{self.folder}: {name} is of {other[0]}; allowed are {', '.join(DTYPES)}. Weights "
                "that are quantised must be expanded first, by the tool that made them."
            )
        return "bfloat16" if found == {"BF16"} else "float16" if found == {"F16"} else "float32"

    def get(self, name: str) -> np.ndarray:
        """One tensor."""
        return self._open(self._file_of[name]).get_tensor(name)

    def _open(self, file: pathlib.Path) -> Any:
        """One file at a time is open: what was read of it is memory until it is closed."""
        import safetensors

        if self._opened[0] == file:
            return self._opened[1]
        self._opened = (None, None)
        try:
            self._opened = file, safetensors.safe_open(file, "np")
            return self._opened[1]
        except (safetensors.SafetensorError, OSError) as error:
            raise config.InputError(
                f"{file}: is torn or no safetensors file ({error}); fetch it anew."
            ) from error


def _files(folder: pathlib.Path) -> dict[pathlib.Path, list[str] | None]:
    """The folder's files, and the tensors that an index says are in each."""
    found = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        promised: dict[pathlib.Path, list[str]] = {}
        try:
            weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
            for name, file in weight_map.items():
                promised.setdefault(folder / file, []).append(name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise config.InputError(f"{folder / INDEX}: is no index of tensors.") from error
        if missing := [file for file in promised if file not in found]:
            raise config.InputError(
                f"{folder}: lacks {some([f.name for f in missing])} of {INDEX}."
            )
        extra = [file for file in found if file not in promised]
        if extra := [file for file in extra if not OTHER_FORMS.fullmatch(file.name)]:
            raise config.InputError(
                f"{folder}: {some([f.name for f in extra])} stands in no line of {INDEX}; which "
                "weights are meant? Move it away."
            )
        return dict(promised)
    if folder / WHOLE in found:
        besides = [file.name for file in found if file.name != WHOLE]
        if besides := [name for name in besides if not OTHER_FORMS.fullmatch(name)]:
            raise config.InputError(f"{folder}: {some(besides)} beside {WHOLE}, and no {INDEX}.")
        return {folder / WHOLE: None}
    if found:
        raise config.InputError(f"{folder}: has {some([f.name for f in found])}, but no {INDEX}.")
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    hint = f" ({some(pickles)} may run code when it is read, and is not)" if pickles else ""
    raise config.InputError(
        f"{folder}: has no {WHOLE}{hint}. Its model's "
        "save_pretrained(..., safe_serialization=True) writes one."
    )


def write(
    folder: pathlib.Path,
    sizes: Mapping[str, int],
    tensors: Iterator[tuple[str, np.ndarray]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors, of which one shard's are in memory at a time; of several processes one does.

    Args:
        folder: where to.
        sizes: bytes of each, in the order in which they come.
        tensors: their names and values.
        shard_bytes: the most that a file holds, but for one tensor that is larger.
    """
    from safetensors.numpy import save_file

    shards = _shards(sizes, shard_bytes)
    many, writes = len(shards) > 1, jax.process_index() == 0
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if many else WHOLE
        held = {}
        for name in names:
            held[name] = np.asarray(dict([next(tensors)])[name], order="C")
        if writes:
            save_file(held, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if many and writes:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def some(names: Sequence[str], most: int = 8) -> str:
    """The first of some names, and how many there are besides."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
