"""Folders and files by name, local or in a bucket."""

import os
from typing import TYPE_CHECKING

from bigmodel.config.errors import InputError

if TYPE_CHECKING:
    from etils import epath

EXTRAS = {"gs": "gcs", "s3": "s3"}  # scheme -> the extra that installs its file system


def place(
    name: "str | os.PathLike[str]", of: str, schemes: tuple[str, ...] = ("gs", "s3")
) -> "epath.Path":
    """The path of a name.

    Args:
        name: "runs/a", "gs://bucket/runs/a", ...
        of: what it is, for messages.
        schemes: those that will do; a local path always does.

    Raises:
        InputError: another scheme, or one whose file system is not installed.
    """
    from etils import epath

    scheme, remote, _ = os.fspath(name).partition("://")
    if not remote:
        return epath.Path(name)
    if scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise InputError(f"{of} {os.fspath(name)!r}: allowed are a local path and {known}.")
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise InputError(
            f"{of} {os.fspath(name)!r}: the file system of {scheme}:// is not installed: "
            f"make install EXTRA={extra}, or pip install 'bigmodel[{extra}]'."
        ) from error
    return epath.Path(name)
