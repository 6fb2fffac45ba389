"""From a loaded config to a `Recipe`: checked, every builder bound, nothing compiled."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bigmodel import config, models, objectives, optimizers
from bigmodel.data import tokenizers
from bigmodel.layers import linear
from bigmodel.models.handle import Model
from bigmodel.objectives import Objective
from bigmodel.recipe import checks, defaults
from bigmodel.sharding import kernels, rules
from bigmodel.sharding import mesh as meshes


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
        boxed_params: abstract parameters in boxes that name their axes.
        example: an abstract-shaped batch of one short row, enough to make parameters.
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
    boxed_params: Any
    example: dict[str, jax.Array]
    fields: Mapping[str, Any]

    @property
    def config(self) -> Any:
        return self.loaded.config

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.load(self.config.data.tokenizer)

    @property
    def batch_sharding(self) -> jax.sharding.NamedSharding:
        return rules.batch_sharding(self.rules, self.mesh)


def resolve(loaded: config.Loaded | Any) -> config.Loaded:
    """The config with every None filled by its builder's default, checked field by field."""
    if not isinstance(loaded, config.Loaded):
        loaded = config.Loaded(config=loaded, text="", path="")
    values = loaded.config.copy_and_resolve_references()
    tables = defaults.builders(loaded.extensions)
    against_schema(values, loaded.extensions)
    for section, table in tables.items():
        if section == "source":
            continue
        name = values[section].name
        checks.known(f"{section}.name", name, table)
        drop_foreign(values[section], table[name], section, loaded.overrides)
        given = config.resolve(
            values[section], table[name], section, besides=BESIDES.get(section, ("name",))
        )
        filled = {field: default for field, (_, default) in config.schema(table[name]).items()}
        with values.ignore_type():
            for field, value in (filled | given).items():
                if field in values[section] and not callable(value):
                    values[section][field] = value
    checks.values(config.flat(values))
    return dataclasses.replace(loaded, config=values.lock())


# Fields of a section that someone other than its builder reads.
BESIDES = {"optimizer": ("name", "clip")}


def against_schema(values: Any, extensions: Mapping) -> None:
    """Refuses fields beside the schema: a dict assigned to a section replaces it whole."""
    complete = defaults.default_config(
        values.model.name, objective=values.objective.name, extensions=extensions
    )
    for name, section in complete.items():
        if name not in values:
            raise config.InputError(
                f"{name}: missing from the config; start from bigmodel.default_config()."
            )
        if not isinstance(section, defaults.ConfigDict) or name in ("evals", "compiler"):
            continue
        missing = sorted(set(section) - set(values[name]))
        extra = sorted(set(values[name]) - set(section))
        if extra:
            raise config.InputError(
                f"{name}.{extra[0]}: no such field.{config.nearest(extra[0], section)}"
            )
        if missing:
            raise config.InputError(
                f"{name}.{missing[0]}: missing; a dict assigned to a section replaces it. "
                f"Use config.{name}.update(...)."
            )


def drop_foreign(section: Any, builder: Callable, where: str, overrides: Sequence[str]) -> None:
    """Another builder chosen on the command line drops what only the file's own one takes."""
    said = {override.partition("=")[0] for override in overrides}
    if f"{where}.name" not in said:
        return
    kept = {*config.schema(builder), *BESIDES.get(where, ("name",))}
    for field in section:
        if field not in kept and f"{where}.{field}" not in said:
            section[field] = None


def make(loaded: config.Loaded | Any, devices: Sequence[jax.Device] | None = None) -> Recipe:
    """Checks a config against the devices and binds every builder.

    Raises:
        InputError: one line that names the field, its value, and what is allowed.
    """
    loaded = resolve(loaded)
    values = loaded.config
    tables = defaults.builders(loaded.extensions)

    mesh = meshes.make(values.mesh.to_dict(), slices=values.mesh_slices, devices=devices)
    table = rules.table(values.rules, values.extra_rules, mesh.axis_names)
    parts = rules.batch_parts(table, mesh)
    axes = " x ".join(rules.as_tuple(dict(table)["batch"]))
    checks.batch(values.batch, accumulate=values.accumulate, parts=parts, mesh_axes=axes)

    model, fields = make_model(values, tables["model"], loaded.extensions, mesh, table)
    example = {"tokens": jnp.zeros((1, 1), jnp.int32)}
    boxed = jax.eval_shape(model.init, jax.random.key(0), example)
    rules.shardings(boxed, table, mesh)  # refuses what the mesh does not divide

    objective_builder = tables["objective"][values.objective.name]
    terms = config.resolve(values.objective, objective_builder, "objective")
    if terms.get("chunk") == 0 and "vocab" in fields:
        rows = values.batch // (parts * values.accumulate)  # of one device
        terms["chunk"] = objectives.chunk_length(rows, values.data.length, fields["vocab"])
    objective = objective_builder(model, **terms)
    schedule_builder = tables["schedule"][values.schedule.name]
    schedule = schedule_builder(
        values.steps, **config.resolve(values.schedule, schedule_builder, "schedule")
    )
    optimizer_builder = tables["optimizer"][values.optimizer.name]
    optimizer = optimizers.make(
        optimizer_builder,
        schedule,
        rules.axes_of(boxed),
        clip=values.optimizer.clip,
        **config.resolve(values.optimizer, optimizer_builder, "optimizer", BESIDES["optimizer"]),
    )
    return Recipe(
        loaded=loaded,
        seed=values.seed,
        steps=values.steps,
        batch=values.batch,
        accumulate=values.accumulate,
        ema=values.ema,
        model=model,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh,
        rules=table,
        boxed_params=boxed,
        example=example,
        fields=fields,
    )


def make_model(
    values: Any,
    table: Mapping[str, Callable],
    extensions: Mapping,
    mesh: jax.sharding.Mesh,
    rule_table: rules.Rules,
) -> tuple[Model, dict[str, Any]]:
    """The model's handle, with the kernels of this mesh in it, and the fields that it got."""
    name = values.model.name
    fields = config.resolve(values.model, table[name], "model")
    if name in extensions.get("model", {}):
        return table[name](**fields), fields
    module, builder = models.FAMILIES[name]
    checks.decoder(fields, length=values.data.length)
    attend = kernels.make_attention(fields["attention"], mesh, rule_table, fields)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    # Measured: docs/performance.md. A length cut over the mesh cannot be merged with the batch.
    flat = on_cpu and mesh.shape["context"] == 1
    chosen = {"scan": not on_cpu} if fields.get("scan") is None else {}
    einsum = linear.flat_einsum if flat else jnp.einsum
    return builder(attend=attend, einsum=einsum, **fields | chosen), fields


def unboxed_params(recipe: Recipe) -> Any:
    """Shapes of the parameters, without the boxes."""
    return nn.unbox(recipe.boxed_params)
