"""The layouts whose budgets are kept in tests/golden/budgets, and plans of them with code changed.

A plan is made in another process, which runs the config's file first: what the file puts in place
of a piece of the library is what is compiled, and the library knows nothing of it.

    python -m tests.plan.budgeted [LAYOUT ...]     writes their budgets anew
"""

import hashlib
import inspect
import json
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import bigmodel
from bigmodel import config
from bigmodel.plan import answer, budget, compiling, make_request, requests

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
TINY = dict(vocab=1024, width=256, heads=4, kv_heads=4, head_dim=64, hidden=1024)

# The digest of what is patched in is there so that an answer is kept by it.
HEAD = """# {digest}
import bigmodel
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


class Case(NamedTuple):
    """A change, the layout it is made in, and fields of the config or a patch that make it."""

    name: str
    layout: str
    change: Mapping[str, Any] = types.MappingProxyType({})
    patch: Callable[[], None] | None = None

    def __str__(self) -> str:
        name = self.patch.__name__ if self.patch else self.name
        return f"{self.layout}: {name}".replace("_", " ")


def request(case: Case, *more: Mapping[str, Any]) -> requests.Request:
    """Of a case; a patch is run in the process that compiles, before anything is made there."""
    made = values(LAYOUTS[case.layout], case.change, *more)
    text = ""
    if case.patch is not None:
        module = sys.modules[case.patch.__module__]
        digest = hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
        text = HEAD.format(module=module.__name__, name=case.patch.__name__, digest=digest)
    slices = made.mesh_slices
    where = "v5e:2x4" if slices == 1 else "v5e:2x2"
    loaded = config.Loaded(made, text, f"{case.layout}.py")
    return make_request(loaded, where, slices=slices)


def plans(wanted: Iterable[requests.Request]) -> list[dict[str, Any] | Exception]:
    """All of them, compiled side by side."""
    wanted = list(wanted)
    found: dict[int, Any] = dict(compiling.compile_all(wanted))
    return [
        one if isinstance(one, Exception) else answer.plan(asked, one)
        for asked, one in zip(wanted, (found[n] for n in range(len(wanted))), strict=True)
    ]


def kept(layout: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{layout}.json").read_text())


def main(names: Sequence[str]) -> None:
    """Writes the budgets of some layouts, or of all, anew."""
    names = names or list(LAYOUTS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, plan in zip(names, plans([request(Case("", n)) for n in names]), strict=True):
        if isinstance(plan, Exception):
            raise plan
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(budget.make(plan), indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
