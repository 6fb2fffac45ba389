"""manifest.json of a checkpoint: what it holds, with a checksum for each array.

It is written last, in one piece: a step folder without it was never finished.
"""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

NAME = "manifest.json"
FORMAT = 1


class Damaged(ValueError):
    """A manifest that is not what was written."""


def write(folder: epath.Path, content: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT, **content}, sort_keys=True)
    sealed = json.dumps({"sha256": digest(text), "content": json.loads(text)}, sort_keys=True)
    if "://" in str(folder):  # object stores show a file whole or not at all
        (folder / NAME).write_text(sealed)
    else:
        unfinished = folder / f"{NAME}.tmp"
        unfinished.write_text(sealed)
        unfinished.replace(folder / NAME)


def read(folder: epath.Path) -> dict[str, Any]:
    """The content as it was written, or Damaged."""
    try:
        sealed = json.loads((folder / NAME).read_text())
        content = sealed["content"]
        sound = sealed["sha256"] == digest(json.dumps(content, sort_keys=True))
    except FileNotFoundError:
        raise Damaged(f"{NAME} is missing: the save did not finish") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Damaged(f"{NAME} cannot be read ({error})") from None
    if not sound:
        raise Damaged(f"{NAME} does not match its own checksum")
    if content["format"] != FORMAT:
        raise Damaged(f"{NAME} has format {content['format']}, this version reads {FORMAT}")
    return content


def sizes(folder: epath.Path) -> dict[str, int]:
    """Relative path -> bytes, of all files of a checkpoint but the manifest."""
    files = {path: name for path, name in walk(folder) if not name.startswith(NAME)}
    with concurrent.futures.ThreadPoolExecutor(32) as threads:  # a remote stat takes 50 ms
        lengths = threads.map(lambda path: path.stat().length, files)
        return dict(zip(files.values(), lengths, strict=True))


def walk(folder: epath.Path, above: str = "") -> Iterator[tuple[epath.Path, str]]:
    """All files below with their relative names; epath has no `**`."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from walk(path, f"{above}{path.name}/")
        else:
            yield path, above + path.name


def check_sizes(folder: epath.Path, content: dict[str, Any]) -> None:
    """Raises Damaged for a file that is missing or of another size, before any is read."""
    found = sizes(folder)
    for name, size in content["files"].items():
        if name not in found:
            raise Damaged(f"{name} is missing")
        if found[name] != size:
            raise Damaged(f"{name} has {found[name]:,} bytes instead of {size:,}")


def exists(folder: epath.Path) -> bool:
    return (folder / NAME).exists()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
