"""What a traced or compiled program costs, whatever it computes: FLOPs, bytes."""

import math
import time
from collections.abc import Iterator
from typing import Any


def jaxpr_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products in a traced function (`jax.make_jaxpr`), loops by their trips.

    What the program does, so what it recomputes is counted, and of attention all that it computes.
    Of a branch the dearest counts, of a `while` loop all trips where constants tell how many, else
    one; inside a Pallas kernel nothing does, for it skips blocks as it likes.
    """
    return sum(flops_of(equation) for equation in living(jaxpr))


def living(jaxpr: Any) -> Iterator[Any]:
    """The equations whose results are used: the compiler drops the others."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)  # of a closed one
    used = {var for var in inner.outvars if not hasattr(var, "val")}  # literals have no maker
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(equation.outvars):
            used.update(var for var in equation.invars if not hasattr(var, "val"))
            yield equation


def flops_of(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        summed = math.prod(shape[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
    if name == "ragged_dot_general":
        return ragged_flops(equation)
    if name == "cond":
        return max(map(jaxpr_flops, params["branches"]))
    if name == "pallas_call":
        return 0.0
    times = params["length"] if name == "scan" else 1
    if name == "while":
        times = trips(equation)
    if name == "shard_map":  # its shapes are one device's
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(jaxpr_flops(inner) for inner in params.values() if hasattr(inner, "eqns"))


def trips(equation: Any) -> int:
    """How often a `while` loop runs that counts from one constant up to another; of others 1."""
    params = equation.params
    cond, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
    own, before = params["cond_nconsts"], params["body_nconsts"]

    def course(var: Any) -> tuple[int, int] | None:
        """What the condition reads: its first value and how it grows, where constants tell."""
        if (value := whole(var)) is not None:
            return value, 0
        if hasattr(var, "val") or var not in cond.invars:
            return None
        at = cond.invars.index(var)
        first = whole(equation.invars[at if at < own else at + before])
        if first is None:
            return None
        if at < own or body.outvars[at - own] is body.invars[before + at - own]:
            return first, 0
        old, new = body.invars[before + at - own], body.outvars[at - own]
        adds = [e.invars for e in body.eqns if e.primitive.name == "add" and new in e.outvars]
        steps = [whole(term) for terms in adds if old in terms for term in terms if term is not old]
        return (first, steps[0]) if steps and steps[0] is not None else None

    if [test.primitive.name for test in cond.eqns] != ["lt"]:
        return 1
    counter, bound = map(course, cond.eqns[0].invars)
    if counter is None or bound is None or counter[1] <= 0 or bound[1]:
        return 1
    return max(0, -((counter[0] - bound[0]) // counter[1]))


def whole(var: Any) -> int | None:
    """The value of a literal integer; None of all else."""
    return int(var.val) if hasattr(var, "val") and var.aval.dtype.kind in "iu" else None


def ragged_flops(equation: Any) -> float:
    """Of a product whose groups of rows have kernels of their own: each row goes through one."""
    rows, kernels = (equation.invars[i].aval.shape for i in range(2))
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    shared = {*contracted, *batch, *numbers.rhs_group_dimensions}
    return 2.0 * math.prod(rows) * math.prod(n for i, n in enumerate(kernels) if i not in shared)


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device of a `jax.stages.Compiled`: `peak`, and what it is made of.

    On CPU the compiler's own peak is arguments and outputs without temporaries (jax 0.10 and 0.12),
    so there the peak is their sum; elsewhere it is the compiler's, and `temporaries` overstates.
    """
    import jax

    stats = compiled.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    platforms = {device.platform for s in shardings for device in s.device_set}
    if platforms == {"cpu"}:
        sizes = parts["arguments"] + parts["outputs"] + parts["temporaries"]
        return parts | {"peak": sizes - parts["aliased"]}
    return parts | {"peak": stats.peak_memory_in_bytes}


def cpu_matmul_flops(seconds: float = 0.5) -> float:
    """This machine's float32 FLOP/s in a large matrix product, best of several, measured now."""
    import jax
    import jax.numpy as jnp

    n = 1024
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        x = jax.jit(lambda: jnp.full((n, n), 1 / n, jnp.float32))()
        product = jax.jit(jnp.matmul).lower(x, x).compile()
        best = math.inf
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or best == math.inf:
            start = time.perf_counter()
            product(x, x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best
