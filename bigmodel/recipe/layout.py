"""How a config lies on the devices: mesh, rules, the pipeline, the order of rows; all checked."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bigmodel.objectives import Objective
from bigmodel.recipe import checks
from bigmodel.sharding import context, rules
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding.pipeline import Pipeline


class Layout(NamedTuple):
    """Where a run's numbers live.

    Attributes:
        mesh: of devices.
        rules: logical axis -> mesh axes.
        pipeline: what runs the layers over the mesh axis "stage", where that is cut.
        batch_parts: into how many the rows of a batch are cut.
        length_parts: into how many a row is.
    """

    mesh: jax.sharding.Mesh
    rules: rules.Rules
    pipeline: Pipeline | None
    batch_parts: int
    length_parts: int


def make(values: Any, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The layout of a resolved config on some devices, None for all there are."""
    mesh = meshes.make(values.mesh.to_dict(), slices=values.mesh_slices, devices=devices)
    table = rules.table(values.rules, values.extra_rules, mesh.axis_names)
    pipeline = None
    if (stages := mesh.shape["stage"]) > 1:
        microbatches = values.pipeline.microbatches or stages
        pipeline = Pipeline(stages, microbatches, values.pipeline.repeats)
    parts, axes = parts_of("batch", table, mesh)
    checks.batch(
        values.batch,
        accumulate=values.accumulate,
        parts=parts,
        mesh_axes=axes,
        microbatches=pipeline.microbatches if pipeline else 1,
    )
    return Layout(mesh, table, pipeline, parts, parts_of("residual_length", table, mesh)[0])


def parts_of(axis: str, table: rules.Rules, mesh: jax.sharding.Mesh) -> tuple[int, str]:
    """Into how many parts a logical axis is cut, and the mesh axes for messages."""
    cut = dict(table)[axis]
    return rules.parts(mesh, cut), " x ".join(rules.as_tuple(cut)) or "none"


def ordered(
    objective: Objective, layout: Layout, fields: Mapping[str, Any], length: int
) -> Objective:
    """The objective, of batches whose rows are first put in the order that they lie in.

    Once for all layers: only a ring of attention wants another order than the row's own.
    """
    order = length_order(length, fields, layout)
    n, multiple = layout.mesh.shape["context"], layout.length_parts
    _, axes = parts_of("residual_length", layout.rules, layout.mesh)
    multiple = multiple if order is None else math.lcm(multiple, 2 * n)
    checks.length(length, multiple=multiple, mesh_axes=axes)
    if order is None:
        return objective

    def of_ordered(params, batch, rng):
        return objective(params, context.in_order(batch, order()), rng)

    return of_ordered


def length_order(
    length: int, fields: Mapping[str, Any], layout: Layout
) -> Callable[[], np.ndarray] | None:
    """In which order a row lies on the mesh, where that is another than its own."""
    parts = rules.parts(layout.mesh, dict(layout.rules)["length"])
    if parts == 1 or fields.get("context_attention") != "ring":
        return None
    return functools.partial(context.zigzag, length, parts)
