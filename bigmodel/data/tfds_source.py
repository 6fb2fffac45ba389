"""Documents out of TFDS, by random access: ArrayRecord (or Parquet), and never TensorFlow.

`find*` prepares a data set if need be and cuts it into parts; `read` reads one part.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
from etils import epath

from bigmodel import config

PART_BYTES = 2**23
MOST_PARTS = 4096
EXAMPLES_AT_ONCE = 256

Found = tuple[str, tuple[dict[str, Any], ...], tuple[int, ...]]  # fingerprint, parts, sizes


def find_python_stdlib(split: str) -> Found:
    """The embedded corpus, prepared on first use (3 s). TFDS is not imported if it is there."""
    version = "{}.{}.{}".format(*sys.version_info[:3])
    folder = epath.Path(_data_dir()) / "python_stdlib" / version
    if not (folder / "dataset_info.json").exists():
        from bigmodel.data import python_stdlib

        builder = python_stdlib.PythonStdlib(data_dir=_data_dir())
        _prepare(builder, "python_stdlib", io.StringIO())  # "Downloading ..." would not be true
    return _parts(folder, "python_stdlib", split, "text")


def find(name: str, split: str, field: str) -> Found:
    """Any TFDS data set with a text feature, as "lm1b" or "wikipedia/20230601.en"."""
    builder = builder_of(name)
    _text_feature(builder, name, field)
    return _parts(builder.data_path, name, split, field)


def builder_of(name: str) -> Any:
    """A data set that TFDS knows, prepared if need be, in a form with random access."""
    import tensorflow_datasets as tfds

    hear_without_tensorflow()
    try:
        builder = tfds.builder(name, data_dir=_data_dir())
    except tfds.core.registered.DatasetNotFoundError as error:
        near = config.nearest(name.partition("/")[0], _known())
        raise config.InputError(
            f'source "tfds:{name}": TFDS knows no such data set, and {_data_dir()} '
            f"(TFDS_DATA_DIR) holds none of that name.{near}"
        ) from error
    except (ValueError, RuntimeError) as error:  # an unknown config or version
        raise config.InputError(f'source "tfds:{name}": {_first_line(error)}') from error
    if not builder.data_path.exists():
        _prepare(builder, name, sys.stderr)
    _random_access(builder, name)
    return builder


class NoTensorflow:
    """All that `tfds.features.Audio` (4.9.10) asks of it where samples are stored as numbers."""

    dtypes = types.SimpleNamespace(as_dtype=np.dtype)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("files of sound are stored and decoded by TensorFlow")


def hear_without_tensorflow() -> None:
    """Lets TFDS know features of sound where there is no TensorFlow."""
    if importlib.util.find_spec("tensorflow") is None:
        from tensorflow_datasets.core.features import audio_feature

        audio_feature.tf = NoTensorflow()


def read(folder: str, split: str, field: str, start: int, stop: int) -> Iterator[tuple[str, str]]:
    """(name, text) of the examples [start, stop) of a split."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    others = {name: tfds.decode.SkipDecoding() for name in builder.info.features if name != field}
    examples = builder.as_data_source(split, decoders=others)
    for first in range(start, stop, EXAMPLES_AT_ONCE):
        indices = range(first, min(first + EXAMPLES_AT_ONCE, stop))
        for index, example in zip(indices, examples.__getitems__(indices), strict=True):
            text = example[field]
            yield f"{folder}: {split}[{index}]", bytes(text).decode("utf-8", "replace")


Rows = Callable[[], Iterator[tuple[str, dict[str, Any]]]]


def find_rows(
    name: str, split: str, fields: Sequence[str], *, encoded: Sequence[str] = ()
) -> tuple[str, Rows]:
    """A fingerprint, and what reads some features of a data set's examples, by where each stands.

    Args:
        name: of the data set, with its config.
        split: as TFDS has it.
        fields: features that are read, texts as str.
        encoded: of those, the ones that are left as they are stored, such as images.
    """
    import tensorflow_datasets as tfds

    builder = builder_of(name)
    features = dict(builder.info.features)
    for field in fields:
        if field not in features:
            raise config.InputError(
                f'source "tfds:{name}" has no feature "{field}"; it has '
                f"{', '.join(sorted(features))}.{config.nearest(field, features)}"
            )
    _parts(builder.data_path, name, split, fields[0])  # refuses a split that is not there
    nested = (tfds.features.FeaturesDict, tfds.features.Sequence, tfds.features.Dataset)
    raw = [n for n, f in features.items() if n not in fields and not isinstance(f, nested)]
    decoders = {n: tfds.decode.SkipDecoding() for n in (*raw, *encoded)}
    noted = (builder.data_path / "dataset_info.json").read_text()

    def read() -> Iterator[tuple[str, dict[str, Any]]]:
        found = builder.as_data_source(split, decoders=decoders)
        for index in range(len(found)):
            example = found[index]
            where = f'source "tfds:{name}": {split}[{index}]'
            yield where, {field: _plain(example[field]) for field in fields}

    known = json.dumps([noted, split, list(fields)])
    return hashlib.sha256(known.encode()).hexdigest(), read


def _plain(value: Any) -> Any:
    """Texts as str, numbers as Python's; images' bytes, which are no UTF-8, stay."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value.item() if isinstance(value, np.generic) else value


def _parts(folder: epath.Path, name: str, split: str, field: str) -> Found:
    """Ranges of examples; the fingerprint is what TFDS noted about the data set."""
    try:
        noted = (folder / "dataset_info.json").read_text()
    except OSError as error:
        raise config.InputError(f"source {name}: {folder} holds no prepared data set.") from error
    known = {s["name"]: s for s in json.loads(noted)["splits"]}
    if split in known:
        examples = sum(int(n) for n in known[split]["shardLengths"])
        size = int(known[split].get("numBytes", 0))
    else:
        examples, size = _sliced(folder, name, split, list(known))
    step = max(1, examples * max(PART_BYTES, size // MOST_PARTS) // max(size, 1))
    starts = range(0, examples, step)
    parts = tuple(
        {
            "reader": "tfds",
            "folder": os.fspath(folder),
            "split": split,
            "field": field,
            "start": start,
            "stop": min(start + step, examples),
        }
        for start in starts
    )
    sizes = tuple(size * (part["stop"] - part["start"]) // examples for part in parts)
    return hashlib.sha256(noted.encode()).hexdigest(), parts, sizes


def _sliced(folder: epath.Path, name: str, split: str, known: list[str]) -> tuple[int, int]:
    """Examples and bytes of "all", "train[:90%]", "train+test": TFDS reads these."""
    import tensorflow_datasets as tfds

    splits = tfds.builder_from_directory(folder).info.splits
    try:
        return splits[split].num_examples, sum(s.num_bytes for s in splits.values())
    except (KeyError, ValueError) as error:
        near = config.nearest(split.partition("[")[0], [*known, "all"])
        raise config.InputError(
            f'split "{split}" is not in the source "{name}"; allowed are {", ".join(known)}, '
            f'all, and slices such as "train[:90%]".{near}'
        ) from error


def _prepare(builder: Any, name: str, said: TextIO) -> None:
    """Writes a data set as ArrayRecord. Processes may race: the first to end is the one kept."""
    import tensorflow_datasets as tfds

    if not said.isatty():
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(said):  # TFDS prints; our stdout may carry JSON
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # any builder's own code runs here
        if (builder.data_path / "dataset_info.json").exists():
            return
        raise config.InputError(
            f'source "{name}" is not in {_data_dir()} (TFDS_DATA_DIR) and could not be prepared: '
            f"{_first_line(error)}\nWhere it can be downloaded:  "
            f"tfds build {name} --file_format=array_record --data_dir={_data_dir()}"
        ) from error


def _random_access(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    able = set(tfds.core.FileFormat.with_random_access())
    if able.isdisjoint(builder.info.available_file_formats()):
        raise config.InputError(
            f'source "tfds:{name}" is stored as {builder.info.file_format.value}, which only '
            f"TensorFlow reads; allowed are {', '.join(sorted(f.value for f in able))}. "
            "Convert it once, where TensorFlow is installed:\n"
            "  python -m tensorflow_datasets.scripts.convert_format --out_file_format=array_record "
            f"--dataset_version_dir={os.fspath(builder.data_path)}"
        )


def _text_feature(builder: Any, name: str, field: str) -> None:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    if not isinstance(features.get(field), tfds.features.Text):
        texts = [k for k, v in features.items() if isinstance(v, tfds.features.Text)]
        raise config.InputError(
            f'source "tfds:{name}" has no text feature "{field}"; allowed are '
            f"{', '.join(texts) or 'none: it holds no text'}.{config.nearest(field, texts)}"
        )


def _known() -> list[str]:
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)  # the others are asked for online


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _data_dir() -> str:
    return os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
