"""The process that compiles: a request in, the compiler's own files and what they are about out.

python -m bigmodel.plan.child FOLDER, with FOLDER/request.json. It writes `meta.json` before the
compiler begins and `error.json` where something fails; who started it reads what the compiler has
written, and may end it as soon as that is there.
"""

import json
import os
import pathlib
import re
import sys
import threading
import time
from typing import Any

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax")
MISSING = re.compile(r"libtpu|No module named|Unable to load|not found", re.IGNORECASE)


def main(folder: pathlib.Path) -> int:
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    request = json.loads((folder / "request.json").read_text())
    from bigmodel import config

    try:
        run(request, folder)
    except config.InputError as error:
        write(folder, "error", {"kind": "refused", "text": str(error)})
        return 2
    except Exception as error:
        write(folder, "error", {"kind": kind_of(error), "text": str(error)})
        raise
    return 0


def end_with(parent: int) -> None:
    """Ends this process when the one that started it is no more, however that ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def kind_of(error: Exception) -> str:
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        return "memory"
    return "compiler" if "INVALID_ARGUMENT" in text or "INTERNAL" in text else "failure"


def run(request: dict[str, Any], folder: pathlib.Path) -> None:
    began = time.perf_counter()
    from bigmodel import compat, costs
    from bigmodel import recipe as recipes
    from bigmodel.plan import gpus, steps, topology

    where = topology.parse(request["topology"], request["slices"])
    devices = topology.devices(where)
    recipe = recipes.make(loaded_of(request), devices=devices)
    with compat.assumed_cudnn(gpus.CUDNN):
        lowered, about = steps.lower(recipe, request["task"], request["prompt"])
    mesh = recipe.mesh
    write(
        folder,
        "meta",
        about
        | {
            "kind": mesh.devices.flat[0].device_kind,
            "mesh": dict(mesh.shape),
            "coords": [place(device, where.platform) for device in mesh.devices.flat],
            "slice_of": [slice_of(device, where.platform) for device in mesh.devices.flat],
            "networks": where.networks,
            "versions": versions(),
            "trace_seconds": time.perf_counter() - began,
        },
    )
    options = recipe.compiler_options | {"xla_dump_to": str(folder)}
    refused: list[str] = []
    while True:
        try:
            compiled = lowered.compile(compiler_options=options)
            break
        except Exception as error:
            found = re.search(r"No such compile option: '?(\w+)", str(error))
            if not found or found[1] not in options:
                raise
            options.pop(found[1])
            refused.append(found[1])
            write(folder, "refused", refused)
    if where.platform != "tpu":  # a TPU's compiler has written it; jax 0.10 fails to read some back
        put(folder / "program.txt", compiled.as_text() or "")
    write(folder, "memory", costs.memory(compiled))


def loaded_of(request: dict[str, Any]) -> Any:
    """The config of a request: its values, and the builders of its file."""
    from bigmodel import config

    values, text, path = config.from_json(request["values"]), request["text"], request["path"]
    if not text:
        return config.Loaded(values, text, path)
    of_file = config.load_text(text, request["argument"], (), path)
    return config.Loaded(values, text, path, extensions=of_file.extensions)


def place(device: Any, platform: str) -> list[int]:
    """In the torus of its slice; GPUs stand in none."""
    return [] if platform == "gpu" else list(getattr(device, "coords", ()) or ())


def slice_of(device: Any, platform: str) -> int:
    """The slice of a device; of a GPU its host."""
    return device.process_index if platform == "gpu" else getattr(device, "slice_index", 0) or 0


def versions() -> dict[str, str]:
    from bigmodel import compat

    return compat.versions(PACKAGES)


def write(folder: pathlib.Path, name: str, value: Any) -> None:
    put(folder / f"{name}.json", json.dumps(value))


def put(path: pathlib.Path, text: str) -> None:
    """Whole or not at all: somebody is reading."""
    waiting = path.with_suffix(".tmp")
    waiting.write_text(text)
    os.replace(waiting, path)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
