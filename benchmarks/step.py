r"""The step of one of three GPT-2-shaped workloads on this machine, as one line of JSON.

    python benchmarks/step.py char --steps 20
    python benchmarks/interleave.py --rounds 5 \
        "python benchmarks/step.py char" "python benchmarks/floor.py char"

It is the step that `bigmodel train` runs, made from a config, on rows as packing gives them (two
documents a row, positions and weights), random tokens. The figures: tokens a second over the median
step, CPU seconds a step, peak memory, and seconds from the start of the process to the end of the
first step.
"""

import argparse
import ast
import contextlib
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

#            layers, width, heads, length, batch, vocab
WORKLOADS = {
    "char": (6, 384, 6, 256, 12, 65),
    "baby50k": (6, 384, 6, 256, 12, 50304),
    "gpt2": (12, 768, 12, 256, 4, 50304),
}


def process_start() -> float:
    """When the kernel started this process, in seconds of `time.time`."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def measure(one: Callable[[], float], *, steps: int, warmup: int, tokens: int) -> dict[str, float]:
    """The figures of a step: `one` runs it, waits for its end and gives the loss."""
    seconds, cpu = [], []
    for number in range(warmup + steps):
        began, began_cpu = time.perf_counter(), time.process_time()
        loss = one()
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        if number == 0:
            first = time.time() - process_start()
    median = statistics.median(seconds[warmup:])
    return {
        "tok_s": round(tokens / median, 1),
        "step_ms": round(median * 1e3, 1),
        "cpu_ms": round(statistics.median(cpu[warmup:]) * 1e3, 1),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "to_first_step_s": round(first, 2),
        "loss": round(loss, 4),
    }


def config_of(workload: str, overrides: list[str]) -> Any:
    import bigmodel

    layers, width, heads, length, batch, vocab = WORKLOADS[workload]
    config = bigmodel.default_config()
    config.model.update(layers=layers, width=width, heads=heads, length=length, vocab=vocab)
    config.model.update(bias=False, norm_bias=False, dtype="float32")
    config.data.length = length
    config.batch = batch
    config.optimizer.update(b2=0.95, weight_decay=0.1)
    config.schedule.update(name="constant", peak=1e-3)
    for override in overrides:
        field, _, text = override.partition("=")
        value: Any = text
        with contextlib.suppress(ValueError):  # of a bare word, which stands for itself
            value = ast.literal_eval(text)
        with config.ignore_type():
            config.update_from_flattened_dict({field: value})
    return config


def packed_rows(workload: str) -> dict[str, Any]:
    """Two documents a row, as packing gives them."""
    import numpy as np

    _, _, _, length, batch, vocab = WORKLOADS[workload]
    stream = np.random.default_rng(0).integers(0, vocab, (batch, length + 1)).astype(np.int32)
    half = np.arange(length) >= length // 2
    return {
        "tokens": stream[:, :-1],
        "targets": stream[:, 1:],
        "weights": np.ones((batch, length), np.float32),
        "segments": np.tile(1 + half, (batch, 1)).astype(np.int32),
        "positions": np.tile(np.arange(length) % (length // 2), (batch, 1)).astype(np.int32),
        "rows": np.arange(batch, dtype=np.int32),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--cache", default="", help="folder of compiled programs; none: cold")
    parser.add_argument("--tune", type=int, default=1, help="0: the process as it comes")
    parser.add_argument("--set", action="append", default=[], help="field=value of the config")
    arguments = parser.parse_args()

    from bigmodel import compat

    if arguments.tune:
        compat.tune_process()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = arguments.cache
    import jax

    from bigmodel import recipe as recipes
    from bigmodel.sharding import mesh as meshes
    from bigmodel.train import compiled
    from bigmodel.train import state as states

    recipe = recipes.make(config_of(arguments.workload, arguments.set))
    rows = packed_rows(arguments.workload)
    with meshes.use(recipe.mesh, recipe.rules):
        placed = jax.device_put(rows, recipe.batch_sharding)
        spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in rows.items()}
        like = states.abstract(recipe)
        step, state = compiled.compile_beside(
            recipe, like, spec, lambda: states.create(recipe, like)
        )

        def one() -> float:
            nonlocal state
            state, metrics = step.run(state, placed)
            loss = float(metrics["loss"])
            jax.block_until_ready(state)
            return loss

        tokens = recipe.batch * recipe.config.data.length
        found = measure(one, steps=arguments.steps, warmup=arguments.warmup, tokens=tokens)
    times = {"trace_s": step.trace_seconds, "compile_s": step.compile_seconds}
    found |= {name: round(seconds, 2) for name, seconds in times.items()}
    print(json.dumps({"workload": arguments.workload, **found}), flush=True)


if __name__ == "__main__":
    main()
