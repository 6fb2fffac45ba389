"""From a loaded config to a `Recipe`: checked, every builder bound, nothing compiled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bigmodel import config, models, objectives, optimizers, trees
from bigmodel.data import kinds, tokenizers
from bigmodel.layers import linear
from bigmodel.models.handle import Model
from bigmodel.objectives import Objective
from bigmodel.recipe import checks, defaults, entries, model_checks, schema, tuning, widths
from bigmodel.recipe import layout as layouts
from bigmodel.sharding import experts, kernels, rules, splash
from bigmodel.sharding.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    Attributes:
        loaded: the config, complete and checked, and where it came from.
        seed: of everything random.
        steps: of the whole run.
        batch: sequences over the whole mesh.
        accumulate: parts of a batch that go one after another.
        ema: decay of the weights' average, 0 for none.
        model: its pure functions.
        objective: (params, batch, rng) -> (loss sum, sums).
        optimizer: with clipping and schedule inside.
        schedule: step -> learning rate.
        mesh: of devices.
        rules: logical axis -> mesh axes.
        pipeline: what runs the layers in stages, where the mesh has some.
        boxed_params: abstract parameters in boxes that name their axes.
        tuning: what of the parameters begins anew and what trains.
        example: a batch of one short row, enough to make parameters.
        fields: the model's, as its builder got them.
    """

    loaded: config.Loaded
    seed: int
    steps: int
    batch: int
    accumulate: int
    ema: float
    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    mesh: jax.sharding.Mesh
    rules: rules.Rules
    pipeline: Pipeline | None
    boxed_params: Any
    tuning: tuning.Tuning
    example: dict[str, jax.Array]
    fields: Mapping[str, Any]

    @property
    def config(self) -> Any:
        return self.loaded.config

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """Of the data. Raises InputError where that has none: no text goes in or comes out."""
        if "tokenizer" not in self.config.data:
            raise config.InputError(
                f"data.kind = {self.config.data.kind!r} has no tokenizer, and the run no text."
            )
        return tokenizers.load(self.config.data.tokenizer)

    @property
    def unit(self) -> str:
        """What a batch is counted in: "tokens", or "examples" of rows that have no length."""
        return "tokens" if "length" in self.config.data else "examples"

    @property
    def units(self) -> int:
        """Of a batch."""
        return self.batch * row_length(self.config)

    @property
    def layer_order(self) -> np.ndarray | None:
        """memory[i] = disk[order[i]], where a pipeline wants layers in another order."""
        return order_of_layers(self.pipeline, self.boxed_params)

    @property
    def compiler_options(self) -> dict[str, Any]:
        """XLA's; what is of kernels is in the model."""
        given = self.config.compiler.to_dict()
        return {name: value for name, value in given.items() if name not in splash.BLOCKS}

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        return rules.batch_sharding(self.rules, self.mesh)


def resolve(loaded: config.Loaded | Any) -> config.Loaded:
    """The config with every None filled by its builder's default, checked field by field."""
    if not isinstance(loaded, config.Loaded):
        loaded = config.Loaded(config=loaded, text="", path="")
    values = loaded.config.copy_and_resolve_references()
    tables = defaults.builders(loaded.extensions)
    schema.against_schema(values, loaded.extensions)
    for section, table in tables.items():
        if section in ("source", "filter", "data"):
            continue
        name = values[section].name
        config.known(f"{section}.name", name, table)
        schema.drop_foreign(values[section], table[name], section, loaded.overrides)
        given = config.resolve(
            values[section], table[name], section, besides=schema.BESIDES[section]
        )
        filled = {field: default for field, (_, default) in config.schema(table[name]).items()}
        with values.ignore_type():
            for field, value in (filled | given).items():
                if field in values[section] and not callable(value):
                    values[section][field] = value
    checks.values(config.flat(values))
    if "mixture" in values.data:
        entries.mixture(values.data.mixture)
    entries.compiler(values.compiler)
    entries.prices(values.prices)
    entries.rates(values.rates)
    for name, entry in values.evals.items():
        entries.evaluation(name, entry)
    return dataclasses.replace(loaded, config=values.lock())


def unsaid(loaded: config.Loaded) -> dict[str, Any]:
    """What a config's fields are where nobody says them, by the builders that it names."""
    values = loaded.config
    plain = defaults.default_config(
        values.model.name,
        objective=values.objective.name,
        data=values.data.kind,
        extensions=loaded.extensions,
    )
    plain.optimizer.name, plain.schedule.name = values.optimizer.name, values.schedule.name
    filled = resolve(dataclasses.replace(loaded, config=plain, overrides=()))
    return config.flat(config.plain(filled.config))


def make(loaded: config.Loaded | Any, devices: Sequence[jax.Device] | None = None) -> Recipe:
    """Checks a config against the devices and binds every builder.

    Raises:
        InputError: one line that names the field, its value, and what is allowed.
    """
    loaded = resolve(loaded)
    values = loaded.config
    tables = defaults.builders(loaded.extensions)

    layout = layouts.make(values, devices)
    mesh, table = layout.mesh, layout.rules
    model, fields = make_model(values, tables["model"], loaded.extensions, layout)
    boxed = jax.eval_shape(model.init, jax.random.key(0), model.example)
    rules.shardings(boxed, table, mesh)  # refuses what the mesh does not divide
    wide = widths.make(values, tables["model"], loaded.extensions, model, fields, boxed)
    model = wide.model

    objective = make_objective(values, tables["objective"], model, fields, layout)
    schedule_builder = tables["schedule"][values.schedule.name]
    schedule = schedule_builder(
        values.steps, **config.resolve(values.schedule, schedule_builder, "schedule")
    )
    tuned = tuning.make(values, boxed, order_of_layers(layout.pipeline, boxed), wide.rates)
    optimizer_builder = tables["optimizer"][values.optimizer.name]
    optimizer = optimizers.make(
        optimizer_builder,
        schedule,
        rules.axes_of(tuned.split(tuned.boxed, rules.is_box)[0]),
        clip=values.optimizer.clip,
        offload=values.optimizer.offload,
        factors=tuned.factors,
        widths=tuned.widths,
        **config.resolve(
            values.optimizer, optimizer_builder, "optimizer", schema.BESIDES["optimizer"]
        ),
    )
    return Recipe(
        loaded=loaded,
        seed=values.seed,
        steps=values.steps,
        batch=values.batch,
        accumulate=values.accumulate,
        ema=values.ema,
        model=model,
        objective=tuned.adapted(objective),
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh,
        rules=table,
        pipeline=layout.pipeline,
        boxed_params=boxed,
        tuning=tuned,
        example=model.example,
        fields=fields,
    )


def order_of_layers(pipeline: Pipeline | None, boxed: Any) -> np.ndarray | None:
    """memory[i] = disk[order[i]], where a pipeline wants layers in another order."""
    if pipeline is None or pipeline.repeats == 1:
        return None
    boxes = trees.flatten(boxed, is_leaf=rules.is_box)
    layers = next(box for path, box in boxes.items() if "layers" in path.split("/"))
    return pipeline.order(layers.value.shape[0])


def row_length(values: Any) -> int:
    """Tokens of a row; 1 where the data has no such length."""
    return values.data.length if "length" in values.data else 1


def make_objective(
    values: Any,
    table: Mapping[str, Callable],
    model: Model,
    fields: Mapping[str, Any],
    layout: layouts.Layout,
) -> Objective:
    """What is good, with as many logits at a time as this mesh has room for."""
    builder = table[values.objective.name]
    terms = config.resolve(values.objective, builder, "objective")
    if terms.get("chunk") == 0 and "vocab" in fields:
        rows = values.batch // (layout.batch_parts * values.accumulate)  # of one device, as length
        length = row_length(values) // layout.length_parts
        on_cpu = layout.mesh.devices.flat[0].platform == "cpu"
        most = objectives.LOGITS_ON_CPU if on_cpu else objectives.LOGITS
        chunk = objectives.chunk_length(rows, length, fields["vocab"], most)
        terms["chunk"] = layout.length_parts * chunk
    objective = builder(model, **terms)
    if values.accumulate > 1 and getattr(builder, "whole_batch", False):
        raise config.InputError(
            f"accumulate = {values.accumulate}: the objective {values.objective.name!r} is about "
            "all rows of a batch together, which parts cannot be; allowed is 1."
        )
    return layouts.ordered(objective, layout, fields, row_length(values))


def make_model(
    values: Any,
    table: Mapping[str, Callable],
    extensions: Mapping,
    layout: layouts.Layout,
) -> tuple[Model, dict[str, Any]]:
    """The model's handle, with the kernels of this mesh in it, and the fields that it got."""
    name = values.model.name
    fields = config.resolve(values.model, table[name], "model")
    if name in extensions.get("model", {}):
        return table[name](**fields), fields
    module, builder = models.FAMILIES[name]
    model_checks.model(name, fields, length=row_length(values))
    model_checks.rows(fields, values.data)
    mesh, pipeline = layout.mesh, layout.pipeline
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    bound: dict[str, Any] = {}
    if "attention" in fields:
        blocks = {name: n for name, n in values.compiler.items() if name in splash.BLOCKS}
        asked = fields | {"prefix": "prefix" in kinds.row_shapes(fields, values.data)}
        # Patches do not follow their places into another order of the row.
        asked |= {"context_attention": "none"} if "connector" in fields else {}
        given = (fields["attention"], mesh, layout.rules, asked, blocks)
        bound["attend"] = kernels.make_attention(*given)
        # Measured: docs/performance.md. A length cut over the mesh is not merged with the batch.
        cut = on_cpu and layout.length_parts == 1
        bound["einsum"] = linear.flat_einsum if cut else jnp.einsum
    if "expert_capacity" in fields:
        capacity = fields["expert_capacity"]
        bound["compute_experts"] = experts.make(mesh, layout.rules, capacity=capacity)
    chosen: dict[str, Any] = {"scan": not on_cpu} if fields.get("scan") is None else {}
    if pipeline and "run" not in config.schema(module):
        raise config.InputError(
            f"mesh.stage = {pipeline.stages}: the model {name!r} has no stack that a pipeline "
            "could run in stages; allowed is 1."
        )
    if pipeline:
        sizes = dict(stages=pipeline.stages, microbatches=pipeline.microbatches)
        model_checks.pipeline(fields, **sizes, repeats=pipeline.repeats)
        remat = tuple(fields[name] for name in ("remat", "remat_save", "remat_offload"))
        chosen = {"scan": True, "run": dataclasses.replace(pipeline, remat=remat)}
    return builder(**bound, **fields | chosen), fields
