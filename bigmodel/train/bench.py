"""Measures the step of a config here: time, tokens, utilisation, memory, waiting for data."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from bigmodel import compat, config, costs, trees
from bigmodel import recipe as recipes
from bigmodel.data import pipeline
from bigmodel.sharding import mesh as meshes
from bigmodel.train import compiled, meter, processes
from bigmodel.train import state as states

Predict = Callable[[recipes.Recipe, jax.stages.Compiled], float | None]


def bench(
    loaded: config.Loaded | Any, *, steps: int = 20, warmup: int = 3, predict: Predict | None = None
) -> dict[str, Any]:
    """Compiles the step that would train, runs it on the config's own data, and times it.

    Args:
        loaded: from `bigmodel.load_config`, or a config.
        steps: that are timed, after `warmup` that are not.
        warmup: steps before those.
        predict: what tells how long the compiled step should take, such as `plan.here.predict`.

    Returns:
        Figures by name, units in the names.
    """
    processes.join()
    compat.use_compilation_cache()
    recipe = recipes.make(loaded)
    batches = recipes.train_batches(recipe, recipes.preparing())
    with meshes.use(recipe.mesh, recipe.rules):
        like = states.abstract(recipe)
        step, state = compiled.compile_beside(
            recipe, like, batches.spec, lambda: states.create(recipe, like)
        )

        def make(at):
            return pipeline.place(batches, at, lambda *_: recipe.batch_sharding)

        seconds, waits = [], []
        with pipeline.ahead(make, 0, warmup + steps) as ready:
            began, waited = time.perf_counter(), 0.0
            for _, batch in ready:
                state, metrics = step.run(state, batch)
                loss = float(jax.device_get(metrics["loss"]))
                now = time.perf_counter()
                seconds.append(now - began)
                waits.append(ready.waited_seconds - waited)
                began, waited = now, ready.waited_seconds
    seconds, waits = seconds[warmup:], waits[warmup:]
    found = figures(recipe, step, seconds, waits, loss, trees.count((state.params, state.frozen)))
    predicted = predict(recipe, step.program) if predict else None
    return found | {"predicted_step_seconds": predicted}


def figures(
    recipe: recipes.Recipe,
    step: compiled.Compiled,
    seconds: list[float],
    waits: list[float],
    loss: float,
    parameters: int,
) -> dict[str, Any]:
    """What was measured, and what follows from it."""
    median = statistics.median(seconds)
    units, unit = recipe.units, recipe.unit
    flops = {name: n * units for name, n in meter.flops_per_token(recipe).items()}
    devices = recipe.mesh.devices
    peak = costs.peak_flops(devices.flat[0].device_kind)
    if peak is None and devices.flat[0].platform == "cpu":
        peak = costs.cpu_matmul_flops() / devices.size
    counted: dict[str, float | None] = {}  # None: nobody knows the model's FLOPs, or the chip
    for convention, suffix in costs.CONVENTIONS.items():
        count = flops[convention] if flops else None
        rate = count / median if count else None
        counted[f"model_flops_per_step{suffix}"] = count
        counted[f"model_flops_per_second{suffix}"] = rate
        counted[f"utilization{suffix}"] = rate / (peak * devices.size) if rate and peak else None
    return {
        "device": devices.flat[0].device_kind,
        "devices": int(devices.size),
        "mesh": {axis: size for axis, size in recipe.mesh.shape.items() if size > 1},
        "parameters": parameters,
        "unit": unit,
        f"{unit}_per_step": units,
        "trace_seconds": step.trace_seconds,
        "compile_seconds": step.compile_seconds,
        "steps": len(seconds),
        "step_seconds": median,
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        f"{unit}_per_second": units / median,
        "flops_convention": "causal" if flops else None,
        **counted,
        "peak_flops_per_second": peak * devices.size if peak else None,
        "memory_bytes": costs.memory(step.program)["peak"],
        "pipeline_bubble": recipe.pipeline.bubble if recipe.pipeline else 0.0,
        "data_wait_share": sum(waits) / sum(seconds),
        "loss": loss,
    }


def table(found: dict[str, Any]) -> str:
    """The figures for a person."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items()) or "one device"
    peak, unit = found["peak_flops_per_second"], found["unit"]
    of = "this machine's own float32 matrix product" if "cpu" in found["device"].lower() else "peak"
    work = share = "unknown model"
    if flops := found["model_flops_per_step"]:
        rate, share = found["model_flops_per_second"] / 1e9, "unknown chip"
        work = f"{flops / 1e9:,.2f} GFLOP a step, {rate:,.1f} GFLOP/s, attention causal"
    if found["utilization"]:
        share = (
            f"{found['utilization']:.1%} ({found['utilization_full_attention']:.1%} with full "
            f"attention) of {peak / 1e9:,.0f} GFLOP/s ({of})"
        )
    rows = {
        "device": f"{found['devices']} x {found['device']} ({mesh})",
        "parameters": f"{found['parameters']:,}",
        "trace": f"{found['trace_seconds']:.2f} s",
        "compile": f"{found['compile_seconds']:.2f} s",
        "step": f"{found['step_seconds'] * 1e3:.1f} ms median of {found['steps']} "
        f"({found['step_seconds_min'] * 1e3:.1f} to {found['step_seconds_max'] * 1e3:.1f})",
        unit: f"{found[f'{unit}_per_second']:,.0f} per second, "
        f"{found[f'{unit}_per_step']:,} a step",
        "model FLOPs": work,
        "utilization": share,
        "memory": f"{found['memory_bytes'] / 2**20:,.1f} MiB a device, as compiled",
        "waiting": f"{found['data_wait_share']:.2%} of the time for data",
    }
    if predicted := found["predicted_step_seconds"]:
        ratio = found["step_seconds"] / predicted
        rows["predicted"] = f"{predicted * 1e3:.1f} ms; measured is {ratio:.2f} times that"
    if found["pipeline_bubble"]:
        rows["bubble"] = f"{found['pipeline_bubble']:.1%} of a stage's time, by the schedule"
    return "\n".join(f"{name:<12}{value}" for name, value in rows.items())
