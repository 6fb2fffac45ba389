"""What is asked of a compiler and what it answered, kept by all that the answer depends on."""

import dataclasses
import functools
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from bigmodel import config
from bigmodel.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Request:
    """What to compile.

    Attributes:
        loaded: the config, complete.
        task: see `steps.TASKS`.
        full: to the end.
        prompt: tokens, for prefill and decode.
    """

    loaded: config.Loaded
    topology: Topology
    task: str = "train"
    full: bool = False
    prompt: int = 1024

    @functools.cached_property
    def text(self) -> str:
        return json.dumps(
            {
                "values": config.to_json(self.loaded.config),
                "text": self.loaded.text,
                "path": self.loaded.path,
                "argument": self.loaded.argument,
                "topology": self.topology.name,
                "slices": self.topology.slices,
                "task": self.task,
                "full": self.full,
                "prompt": self.prompt,
            }
        )

    @functools.cached_property
    def key(self) -> str:
        """Hash of all that the answer depends on."""
        parts = [self.text, sources(), *map(version, ("jax", "jaxlib", "libtpu", "flax", "optax"))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the compiler wrote.

    Attributes:
        program: the scheduled program.
        allocations: its buffers, by the compiler.
        live: what is held at the peak, by the compiler; "" on platforms that do not say.
        meta: see `child.run`.
        memory: of a whole compile, see `costs.memory`.
        overfull: the compiler's sentence where main memory does not hold the program, or "".
        refused: options that the compiler does not know.
        seconds: from the start of the process.
    """

    program: str
    allocations: str
    live: str
    meta: dict[str, Any]
    memory: dict[str, int] | None
    overfull: str
    refused: list[str]
    seconds: float


@functools.cache
def sources() -> str:
    """Hash of the library's own text, but for what only reads what the compiler wrote."""
    home, whole = pathlib.Path(__file__).parents[1], hashlib.sha256()
    here = {"child.py", "gpus.py", "steps.py", "topology.py"}
    for path in sorted(home.rglob("*.py")):
        room = path.relative_to(home).parts[0]
        if room != "report" and (room != "plan" or path.name in here):
            whole.update(path.read_bytes())
    return whole.hexdigest()


def version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} none"


def place(request: Request) -> pathlib.Path:
    home = os.environ.get("BIGMODEL_CACHE") or os.path.expanduser("~/.cache/bigmodel")
    return pathlib.Path(home) / "plans" / f"{request.key}.json.gz"


def load(request: Request) -> Found | None:
    path = place(request)
    try:
        return Found(**json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, ValueError, TypeError):
        return None


def save(request: Request, found: Found) -> None:
    """Written whole or not at all; a cache that cannot be written is none."""
    path = place(request)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(gzip.compress(json.dumps(dataclasses.asdict(found)).encode(), 3))
        shutil.move(file.name, path)
    except OSError:
        return
