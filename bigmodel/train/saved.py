"""Compiled steps that are kept for the next start, which then need not be traced or lowered.

Beside a step lies the program that makes the run's first state, if it was compiled for this run.
A file lies under the hash of all that shapes a program: the same code, config, versions, devices
and flags find it, and no others. It holds machine code, which jax reads with pickle: it is kept in
the user's own cache, never in a workdir, and read only if nobody else can write it.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.monitoring

import bigmodel
from bigmodel import compat, config
from bigmodel import recipe as recipes
from bigmodel.checkpoint import agreement

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "libtpu", "jax-cuda12-plugin", "qwix")
KEPT = 40  # files, two of a run: of 1 MB on a CPU, of 100 MB and more of a large model on a TPU
LEAST_SECONDS = 1.0  # of tracing and compiling that a file must spare


class Place(NamedTuple):
    """Where the step of a run is kept, or what makes its first state.

    Attributes:
        path: of its file, there or not.
        inside: structure of the tuple that goes in.
        outside: of the state that comes out, before metrics by name.
    """

    path: pathlib.Path
    inside: Any
    outside: Any

    def load(self) -> jax.stages.Compiled | None:
        """The program, or None: it is not there, or damaged, which is told in a line.

        None as well where another process has none: compilers may share their work.
        """
        found = self._read()
        return found if everywhere(found is not None) else None

    def _read(self) -> jax.stages.Compiled | None:
        if not self.path.exists():
            return None
        try:
            check_owner(self.path)
            header, _, payload = self.path.read_bytes().partition(b"\n")
            said = json.loads(header)
            if said["sha256"] != hashlib.sha256(payload).hexdigest():
                raise ValueError("it does not match its own checksum")
            found = self._loaded(payload, said["metrics"])
            self.path.touch()  # the oldest go
            return found
        except Exception as error:  # whatever the runtime says of it: it is compiled anew
            words = str(error).splitlines() or [type(error).__name__]
            print(f"{self.path}: {words[0]}; it is compiled anew", file=sys.stderr)
            with contextlib.suppress(OSError):
                self.path.unlink()
            return None

    def of_state(self, given: Mapping[str, Any]) -> "Place":
        """Where the program lies that makes the run's first state of parameters `given`."""
        name = hashed([self.path.stem, described(given)])
        return Place(self.path.with_name(f"{name}.state"), (dict.fromkeys(given, 0),), self.outside)

    def save(self, program: jax.stages.Compiled, *, since: tuple[float, int]) -> None:
        """Writes it on a thread, if this one took long and nothing from jax's cache since then.

        What came from there must not be kept: a CPU program that was read and is written once more
        lacks functions, and fails when it runs (jax 0.10.2).
        """
        (began, before), (now, reads) = since, moment()
        if reads == before and now - began > LEAST_SECONDS:
            threading.Thread(target=self._save, args=(program,), name="saved program").start()

    def guarded(self, program: jax.stages.Compiled) -> Callable:
        """The program that was loaded, whose file goes if its first run fails: it would again."""
        ran = False

        def run(*inputs: Any) -> Any:
            nonlocal ran
            if ran:
                return program(*inputs)
            try:
                out = jax.block_until_ready(program(*inputs))
            except Exception:
                self.path.unlink(missing_ok=True)
                print(f"{self.path} did not run and is gone; start again", file=sys.stderr)
                raise
            ran = True
            return out

        return run

    def _loaded(self, payload: bytes, metrics: list[str]) -> jax.stages.Compiled:
        from jax.experimental import serialize_executable

        devices = jax.tree.leaves(self.outside)[0].sharding.mesh.devices.flat
        inside = jax.tree.structure((self.inside, {}))
        outside = jax.tree.structure((self.outside, dict.fromkeys(metrics, 0)))
        return serialize_executable.deserialize_and_load(
            payload, inside, outside, backend=devices[0].client, execution_devices=list(devices)
        )

    def _save(self, program: jax.stages.Compiled) -> None:
        from jax.experimental import serialize_executable

        try:
            payload, inside, outside = serialize_executable.serialize(program)
            metrics = sorted(outside.unflatten(range(outside.num_leaves))[1])
            rebuilt = jax.tree.structure((self.outside, dict.fromkeys(metrics, 0)))
            if inside != jax.tree.structure((self.inside, {})) or outside != rebuilt:
                return
            header = {"sha256": hashlib.sha256(payload).hexdigest(), "metrics": metrics}
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            unfinished.write_bytes(json.dumps(header).encode() + b"\n" + payload)
            unfinished.chmod(stat.S_IRUSR | stat.S_IWUSR)
            unfinished.replace(self.path)
            with contextlib.suppress(FileNotFoundError):  # another thread has thrown it away
                prune(self.path.parent)
        except Exception as error:  # what cannot be kept is compiled again
            words = str(error).splitlines() or [type(error).__name__]
            print(f"{self.path}: it was not kept: {words[0]}", file=sys.stderr)


def everywhere(there: bool) -> bool:
    """Whether something is there on every process; all of them must ask."""
    if jax.process_count() == 1:
        return there
    return not agreement.agreed("" if there else "absent", "the kept programs")


_own = threading.local()


def moment() -> tuple[float, int]:
    """The time, and how many programs this thread has taken from jax's cache."""
    return time.perf_counter(), getattr(_own, "reads", 0)


def _listen(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _own.reads = getattr(_own, "reads", 0) + 1


jax.monitoring.register_event_listener(_listen)


def place(
    folder: str, recipe: recipes.Recipe, state: Any, batch: Mapping[str, Any], facts: Any
) -> Place | None:
    """Where the step of a recipe is kept, or None where it must not be.

    Not with builders of the config file's own, whose code may be anywhere; not in a bucket, which
    others can write. Each process has a folder of its own, as hosts may share the disk.

    Args:
        folder: of all steps that are kept; "": none are.
        recipe: of the run.
        state: abstract, with shardings.
        batch: shape and dtype of every array of a batch.
        facts: of the data and the tokenizer, as checkpoints remember them.
    """
    own = any(recipe.loaded.extensions.values())
    if not everywhere(bool(folder) and "://" not in folder and not own):
        return None
    name = hashed([*shaping(recipe), described(state), described(batch), facts])
    path = pathlib.Path(folder, str(jax.process_index()), f"{name}.step")
    return Place(path, (state, dict(batch)), state)


def hashed(said: list[Any]) -> str:
    return hashlib.sha256(json.dumps(said, default=repr).encode()).hexdigest()[:40]


def shaping(recipe: recipes.Recipe) -> list[Any]:
    """All that shapes a program but its arrays."""
    devices = list(recipe.mesh.devices.flat)
    flags = {name: x for name, x in jax.config.values.items() if "cache" not in name}
    return [
        code(pathlib.Path(bigmodel.__file__).parent),
        config.plain(recipe.config),
        recipe.loaded.text,
        compat.versions(PACKAGES),
        sys.version,
        {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")},
        flags,
        devices[0].client.platform_version,
        [(device.id, device.process_index, device.device_kind) for device in devices],
        dict(recipe.mesh.shape),
        host() if devices[0].platform == "cpu" else "",
    ]


def code(folder: pathlib.Path) -> str:
    """A hash of all Python files of a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def host() -> str:
    """What this CPU can do: another one may not run the program."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in text.splitlines() if line.startswith(wanted)}))


def described(tree: Any) -> list[str]:
    """Path, shape, dtype and sharding of each array."""
    return [
        f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype} {getattr(leaf, 'sharding', '')!r}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def check_owner(path: pathlib.Path) -> None:
    """Refuses a file that somebody else could have written."""
    for place in (path, path.parent):
        found = place.stat()
        if hasattr(os, "getuid") and found.st_uid != os.getuid():
            raise PermissionError("it belongs to somebody else")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError("others can write it")


def prune(folder: pathlib.Path) -> None:
    """Leaves the newest files."""
    files = [path for path in folder.iterdir() if path.suffix in (".step", ".state")]
    files.sort(key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT]:
        path.unlink(missing_ok=True)
