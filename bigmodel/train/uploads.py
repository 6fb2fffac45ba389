"""Small files on their way into a remote folder, on a thread: the steps do not wait for them."""

import concurrent.futures
import sys
from collections.abc import Iterable, Mapping

from etils import epath


class Uploads:
    """Writes whole files, one after the other, while what is within `with` goes on.

    A file that could not be written is told of at the next `put` and tried again with it, and once
    more at the end: a store that is away for a minute costs nothing.

    Raises:
        OSError: at the end, if a file is still missing and nothing else was raised.
    """

    def __init__(self, folder: epath.Path):
        self.folder = folder
        self.thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="uploads")
        self.sent: dict[str, tuple[bytes, concurrent.futures.Future]] = {}

    def put(self, name: str, contents: bytes) -> None:
        """Writes a file, anew if it is there; returns at once."""
        errors = self.errors([name for name, (_, future) in self.sent.items() if future.done()])
        self.again(errors)
        self.start(name, contents)

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        self.again(self.errors(list(self.sent)))
        missing = self.errors(list(self.sent))
        self.thread.shutdown()
        if missing and raised is None:
            raise OSError(told(self.folder, missing)) from next(iter(missing.values()))
        if missing:
            print(told(self.folder, missing), file=sys.stderr)

    def start(self, name: str, contents: bytes) -> None:
        if name in self.sent:  # older contents, still behind a slow file, are wanted no more
            self.sent[name][1].cancel()
        self.sent[name] = contents, self.thread.submit((self.folder / name).write_bytes, contents)

    def again(self, errors: Mapping[str, BaseException]) -> None:
        if errors:
            print(f"{told(self.folder, errors)}; trying again", file=sys.stderr)
        for name in errors:
            self.start(name, self.sent[name][0])

    def errors(self, names: Iterable[str]) -> dict[str, BaseException]:
        """What went wrong with files, waiting for them; forgets those that are written."""
        found = {name: self.sent[name][1].exception() for name in names}
        for name in [name for name, error in found.items() if error is None]:
            del self.sent[name]
        return {name: error for name, error in found.items() if error is not None}


def told(folder: epath.Path, errors: Mapping[str, BaseException]) -> str:
    name, error = next(iter(errors.items()))
    others = f" and {len(errors) - 1} more files" if len(errors) > 1 else ""
    return f"{folder / name}{others} could not be written: {type(error).__name__}: {error}"
