"""The layouts whose budgets are kept in tests/golden/budgets, and plans of them with code changed.

A plan is made in another process, which runs the config's file first: what the file puts in place
of a piece of the library is what is compiled, and the library knows nothing of it.
"""

import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bigmodel
from bigmodel import config
from bigmodel.plan import answer, compiling, make_request, requests

FOLDER = pathlib.Path(__file__).parents[1] / "golden" / "budgets"

# Kernels and activations weigh about as much, so that neither hides the other.
MODEL: dict[str, Any] = dict(
    **dict(vocab=16384, width=2048, layers=2, heads=16, kv_heads=8, head_dim=128, hidden=8192),
    **dict(norm="rms", position="rope", feedforward="swiglu", bias=False, tied=False),
    remat="full",
)
EXPERTS = dict(experts=8, experts_per_token=2, expert_hidden=2048, hidden=4096)

# name -> what of the config it changes, on 8 chips
LAYOUTS: dict[str, dict[str, Any]] = {
    "fsdp": dict(mesh=dict(fsdp=8)),
    "fsdp_tensor": dict(mesh=dict(fsdp=2, tensor=4)),
    "sequence": dict(mesh=dict(fsdp=2, tensor=4), rules="sequence"),
    "zero1": dict(mesh=dict(data=4, fsdp=2), rules="zero1"),
    "ring": dict(mesh=dict(fsdp=2, context=4), batch=8, data=dict(length=8192)),
    "experts": dict(mesh=dict(fsdp=2, expert=4), model=EXPERTS),
    "pipeline": dict(
        **dict(mesh=dict(stage=2, fsdp=2, tensor=2), pipeline=dict(microbatches=4)),
        **dict(model=dict(layers=4), batch=32),
    ),
    "slices": dict(mesh=dict(data=2, fsdp=4), mesh_slices=2),
}
TINY = dict(vocab=1024, width=256, heads=4, kv_heads=2, head_dim=64, hidden=1024)

HEAD = """import bigmodel
from {module} import {name}

{name}()
get_config = bigmodel.default_config
"""


def values(layout: Mapping[str, Any], *more: Mapping[str, Any]) -> Any:
    """The config of a layout, with more of it changed."""
    made = bigmodel.default_config().copy_and_resolve_references().unlock()
    for change in (dict(model=MODEL, batch=64, data=dict(length=1024)), layout, *more):
        for name, value in change.items():
            if isinstance(value, Mapping):
                made[name].update(value)
            else:
                made[name] = value
    made.model.length = made.data.length
    return made.lock()


def request(
    name: str, change: Mapping[str, Any] | None = None, patch: Callable[[], None] | None = None
) -> requests.Request:
    """A layout, with fields of its config changed, or with a patch run before it is made."""
    made = values(LAYOUTS[name], change or {})
    text = ""
    if patch is not None:  # its source is there so that the answer is kept by it
        text = HEAD.format(module=patch.__module__, name=patch.__name__)
        text += "\n".join(f"# {line}" for line in inspect.getsource(patch).splitlines())
    slices = made.mesh_slices
    where = "v5e:2x4" if slices == 1 else "v5e:2x2"
    return make_request(config.Loaded(made, text, f"{name}.py"), where, slices=slices)


def plans(wanted: Sequence[requests.Request]) -> list[dict[str, Any]]:
    """All of them, compiled side by side."""
    found: dict[int, Any] = {}
    for number, one in compiling.compile_all(wanted):
        if isinstance(one, Exception):
            raise one
        found[number] = answer.plan(wanted[number], one)
    return [found[number] for number in range(len(wanted))]
