"""Numbers that go wrong: what a run says and leaves behind when its loss is no number."""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bigmodel import trees


class NonFiniteError(RuntimeError):
    """A loss or gradient was NaN or infinite and the config says to stop."""


def is_finite(metrics: Mapping[str, float]) -> bool:
    return math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])


def stop(
    folder: epath.Path,
    *,
    step: int,
    metrics: Mapping[str, float],
    batch: Mapping[str, Any],
    params: Any,
    params_step: int,
    resume: int | None,
) -> NonFiniteError:
    """Writes what was seen under `folder`, and says it.

    Args:
        folder: made for the dump.
        step: number of the update that went wrong.
        metrics: of that step.
        batch: the rows of that step.
        params: after step `params_step`, which may be a later one: it was under way.
        resume: step of the newest checkpoint, or None.
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
    seen = ", ".join(f"{name} {metrics[name]}" for name in ("loss", "grad_norm"))
    where = f"after step {params_step} the parameters are still finite"
    if bad:
        first = next(iter(bad))
        where = f"after step {params_step} {len(bad)} parameters are not finite, first {first}"
    kept = f"the newest checkpoint is step {resume}" if resume else "there is no checkpoint yet"
    return NonFiniteError(
        f"step {step}: {seen}; {where}. Its batch and metrics are in {folder}; {kept}. "
        f'Lower schedule.peak, or set nonfinite="skip" to leave such updates out.'
    )


def nonfinite_leaves(tree: Any) -> dict[str, int]:
    """Path -> how many elements are NaN or infinite, of the leaves that have some."""
    counts = jax.jit(lambda tree: jax.tree.map(lambda x: jnp.sum(~jnp.isfinite(x)), tree))(tree)
    return {path: int(n) for path, n in trees.flatten(jax.device_get(counts)).items() if n}
