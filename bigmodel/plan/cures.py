"""What would make a step fit that does not: the cheapest changes, tried."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from bigmodel import config
from bigmodel.plan import answer, changed, compiling, estimate, search
from bigmodel.plan.requests import Found, Request

Change = tuple[tuple[str, Any], ...]
ENOUGH, MOST = 3, 6  # changes that fit, and that are compiled to find them
NAMES = ("query", "key", "value", "attention")
ON_HOST = ("input",)


def candidates(values: Any, platform: str) -> Iterator[Change]:
    """Changes of the config that take memory from a step and not from what it learns.

    More is computed again, or done in more parts, or kept elsewhere or in fewer bits (the last
    changes rounding).
    """
    model, optimizer = values.model, values.optimizer
    again: list[Change] = [()]
    if model.remat == "none":
        again.append((("model.remat", "attention"),))
        again.append((("model.remat", "names"), ("model.remat_save", NAMES)))
    if model.remat != "full":
        again.append((("model.remat", "full"),))
    if platform == "tpu":
        host = (("model.remat", "names"), ("model.remat_save", ()))
        again.append((*host, ("model.remat_offload", ON_HOST)))
    parts: list[Change] = [()]
    parts += [(("accumulate", values.accumulate * 2**k),) for k in range(1, 8)]
    stored: list[Change] = [()]
    if optimizer.name == "adamw" and optimizer.mu_dtype != "bfloat16":
        stored.append((("optimizer.mu_dtype", "bfloat16"),))
    if platform == "tpu" and not optimizer.offload:
        stored.append((("optimizer.offload", True),))
    rules: list[Change] = [()]
    if values.rules == "fsdp_tensor":
        rules += [(("rules", name),) for name in search.tables_for(values.mesh)[1:]]
    for change in itertools.product(again, parts, stored, rules):
        if joined := tuple(itertools.chain(*change)):
            yield joined


def tried(request: Request, plan: dict[str, Any], say: Callable[[str], None]) -> list[dict]:
    """The changes that the analytic model takes for the cheapest that fit, compiled in order.

    The model is held to the plan: what it is off by for the step as it is, it is off by for all.
    """
    values = request.loaded.config
    now = estimate.of(request)
    scale = min(1.5, max(0.75, plan["hbm_bytes"] / now.hbm_bytes))
    found = []
    for change in candidates(values, request.topology.platform):
        try:
            other = Request(changed(request.loaded, change), request.topology, request.task)
            guess = estimate.of(other)
        except config.InputError:
            continue  # not allowed here, such as a batch that does not come apart
        if guess.hbm_bytes * scale <= plan["hbm_limit_bytes"]:
            found.append((guess.step_seconds, len(change), change, other))
    found.sort(key=lambda each: each[:2])
    rows: list[dict[str, Any]] = []
    for number, (_, _, change, other) in enumerate(found[:MOST]):
        say(f"does not fit; trying {number + 1}: {words(change)}")
        try:
            result: Found = compiling.compile_one(other)
        except (config.InputError, compiling.CompileError):
            continue
        rows.append(row(change, answer.plan(other, result)))
        if sum(each["fits"] for each in rows) >= ENOUGH:
            break
    return rows


def row(change: Change, plan: dict[str, Any]) -> dict[str, Any]:
    kept = ("fits", "hbm_bytes", "step_seconds", "mfu", "memory")
    return {"change": dict(change), **{name: plan[name] for name in kept}}


def words(change: Change) -> str:
    return ", ".join(f"{path}={value}" for path, value in change)
