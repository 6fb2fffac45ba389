"""The code that runs: an archive of the files as they are now, named by its hash."""

import dataclasses
import gzip
import hashlib
import io
import os
import pathlib
import subprocess
import tarfile

import bigmodel
from bigmodel import config

PARTS = ("bigmodel", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
OUTSIDE = "launched"  # where a config file goes that is not of the package's folder
MOST_BYTES = 2**30  # of an archive's files: no code is larger


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An archive (tar.gz).

    Attributes:
        content: the same bytes for the same files, wherever and whenever they are packed.
        config: the config file's path within it.
    """

    content: bytes
    config: str

    @property
    def hash(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        return f"{self.hash}.tar.gz"


def pack(config_file: str, root: pathlib.Path | None = None) -> Snapshot:
    """The package's files, changed and new ones too, and the config file.

    Where the folder is a git work tree, what git ignores stays out; else it is all Python and
    style files.

    Args:
        config_file: its path, in the folder or elsewhere.
        root: the folder that holds the package; that of the running one, if not given.
    """
    root = (root or pathlib.Path(bigmodel.__file__).parents[1]).resolve()
    files = {name: root / name for name in listed(root)}
    path = pathlib.Path(config_file).resolve()
    inside = path.is_relative_to(root)
    name = path.relative_to(root).as_posix() if inside else f"{OUTSIDE}/{path.name}"
    files[name] = path
    return Snapshot(archive(files), name)


def listed(root: pathlib.Path) -> list[str]:
    """Names of the files to pack, relative to the folder."""
    # Parts that are not there are no error; an outer repository that ignores the folder is none.
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS]
    try:
        done = subprocess.run(asked, cwd=root, capture_output=True, check=True)
        names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
    if not any(name.startswith("bigmodel/") for name in names):
        found = [path for part in PARTS for path in [root / part, *(root / part).rglob("*")]]
        kept = (".py", ".css", ".typed", ".toml")
        names = [path.relative_to(root).as_posix() for path in found if path.suffix in kept]
    # A file that git knows may have been taken away; a link would lead out of the archive.
    plain = (name for name in names if (root / name).is_file() and not (root / name).is_symlink())
    return sorted(set(plain))


def archive(files: dict[str, pathlib.Path]) -> bytes:
    """The same bytes for the same names and contents: no times, owners or order of their own."""
    plain, whole = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            content = files[name].read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    with gzip.GzipFile(filename="", fileobj=whole, mode="wb", mtime=0) as packed:
        packed.write(plain.getvalue())
    return whole.getvalue()


def unpack(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Writes an archive's files into a folder, which no member can leave.

    Raises:
        InputError: the content is not what the name says, or a member is no plain file within the
            folder: a link, a device, an absolute path, or one that climbs out.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if path.name != f"{found}.tar.gz":
        raise config.InputError(
            f"{path}: a snapshot is named by its SHA-256, and this one's is {found}; launch again."
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            members = tar.getmembers()
            for member in members:
                check(path, member)
            if (total := sum(member.size for member in members)) > MOST_BYTES:
                raise config.InputError(f"{path}: {total} bytes of files; at most {MOST_BYTES}.")
            tar.extractall(folder, members, filter="data")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise config.InputError(f"{path}: is no archive of code ({error}).") from error


def check(path: pathlib.Path, member: tarfile.TarInfo) -> None:
    inside = pathlib.PurePosixPath(member.name)
    if not member.isreg() or inside.is_absolute() or ".." in inside.parts:
        raise config.InputError(
            f"{path}: holds {member.name!r}, which is no plain file within it; nothing of it was "
            "written. A snapshot holds plain files alone."
        )
