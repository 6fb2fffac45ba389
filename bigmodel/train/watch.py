"""Numbers that go wrong: how they are told, what is done, and what a run leaves behind."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel import trees

FIGURES = ("loss", "grad_norm")


class WentWrongError(RuntimeError):
    """The run's numbers went wrong and it must not go on as it is."""


class NonFiniteError(WentWrongError):
    """A loss or gradient was NaN or infinite and the config says to stop."""


class SpikeError(WentWrongError):
    """A loss or gradient norm was far above its running mean and the config says to stop."""


def is_finite(metrics: Mapping[str, float]) -> bool:
    return all(math.isfinite(metrics[name]) for name in FIGURES)


def action(metrics: Mapping[str, float], config: Any) -> str:
    """What a config says to do about a step: "" where all is well, else a name that it knows."""
    if not is_finite(metrics):
        return config.nonfinite
    return config.spikes.action if metrics.get("spike") else ""


def describe(step: int, metrics: Mapping[str, float]) -> str:
    """One line: the step and its figures, beside their running means where there are some."""
    figures = []
    for name in FIGURES:
        mean = metrics.get(f"{name}_mean")
        figures.append(f"{name} {metrics[name]:.6g}" + (f" (mean {mean:.6g})" if mean else ""))
    return f"step {step:,}: {', '.join(figures)}"


def stop(
    folder: epath.Path, *, step: int, metrics: Mapping[str, float], resume: int | None, **seen: Any
) -> WentWrongError:
    """Writes what was seen under `folder`, and says it.

    Args:
        folder, step, metrics, **seen: as of `write_down`.
        resume: step of the newest checkpoint, or None.
    """
    told = write_down(folder, step=step, metrics=metrics, **seen)
    kept = f"the newest checkpoint is step {resume}" if resume else "there is no checkpoint yet"
    if is_finite(metrics):
        cure = 'spikes.action="skip" or "rollback" to leave such updates out'
        return SpikeError(f"{told}; {kept}. Lower schedule.peak, or set {cure}.")
    cure = 'nonfinite="skip" or "rollback" to leave such updates out'
    return NonFiniteError(f"{told}; {kept}. Lower schedule.peak, or set {cure}.")


def write_down(
    folder: epath.Path,
    *,
    step: int,
    metrics: Mapping[str, float],
    batch: Mapping[str, Any],
    params: Any,
    params_step: int,
) -> str:
    """Writes what was seen under `folder`, and tells of it in one line.

    Args:
        folder: made for the dump.
        step: number of the update that went wrong.
        metrics: of that step.
        batch: the rows of that step.
        params: after step `params_step`, which may be a later one: it was under way.
    """
    bad = nonfinite_leaves(params)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "batch.npz").open("wb") as file:
            np.savez(file, **dict(batch))
        told = {name: repr(float(value)) for name, value in metrics.items()}
        report = {"step": step, "metrics": told, "parameters_after_step": params_step}
        report["nonfinite_parameters"] = bad
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    where = f"after step {params_step} the parameters are still finite"
    if bad:
        first = next(iter(bad))
        where = f"after step {params_step} {len(bad)} parameters are not finite, first {first}"
    return f"{describe(step, metrics)}; {where}. Its batch and metrics are in {folder}"


def nonfinite_leaves(tree: Any) -> dict[str, int]:
    """Path -> how many elements are NaN or infinite, of the leaves that have some."""
    counts = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.sum(~jnp.isfinite(x)), tree))(tree)
    return {path: int(n) for path, n in trees.flatten(jax.device_get(counts)).items() if n}
