"""The embedded corpus: the source text of the running interpreter's own standard library.

A TFDS builder that downloads nothing. The library's tests are left out: they are data more than
text, and many distributions of Python do not ship them. Its version is the interpreter's.
"""

import hashlib
import os
import pathlib
import sys
import sysconfig
from collections.abc import Iterator

import tensorflow_datasets as tfds

SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})

# Per mille of the files. Whole files go to one split, so no file is seen on both sides.
VALIDATION, TEST = 50, 50


def files() -> Iterator[tuple[str, pathlib.Path]]:
    """(name, path) of each module in the standard library, in order of name."""
    root = sysconfig.get_path("stdlib")
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - SKIPPED  # not even entered: site-packages may be vast
        found += [pathlib.Path(folder, name) for name in names if name.endswith(".py")]
    for path in sorted(found):
        if not path.name.startswith("_sysconfigdata"):  # paths of the machine that built Python
            yield path.relative_to(root).as_posix(), path


def split_of(name: str) -> str:
    """Which split a file belongs to: a hash of its name, so the same in every Python version."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 1000
    if bucket < VALIDATION:
        return "validation"
    return "test" if bucket < VALIDATION + TEST else "train"


class LocalInfo(tfds.core.DatasetInfo):
    """TFDS asks its bucket for what is known of a data set; of this one it knows nothing."""

    def initialize_from_bucket(self) -> None:
        pass


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """Source text of the Python standard library, one document a file."""

    VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info[:3]))

    def _info(self) -> tfds.core.DatasetInfo:
        return LocalInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(
                {"text": tfds.features.Text(), "name": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/library",
            license="Python Software Foundation License",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        splits = ("train", "validation", "test")
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str):
        for name, path in files():
            if split_of(name) == split:
                yield name, {"text": path.read_bytes().decode("utf-8", "replace"), "name": name}
