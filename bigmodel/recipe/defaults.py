"""Every field of a config at its default. The builders' own fields are the schema."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from bigmodel import config, models, objectives, optimizers
from bigmodel.data import filters, kinds
from bigmodel.sharding import mesh

Extensions = Mapping[str, Mapping[str, Callable]]


def default_config(
    model: str = "decoder",
    *,
    objective: str = "next_token",
    data: str = "text",
    extensions: Extensions | None = None,
) -> ConfigDict:
    """A locked config with every field at its default.

    A field of None stands for the default of whatever builder the section names, so that another
    optimizer by name brings its own numbers; `bigmodel config` prints what comes of it.

    Args:
        model: a family of models.FAMILIES, or of the extensions.
        objective: a name of objectives.OBJECTIVES, or of the extensions.
        data: a kind of data.kinds.KINDS, or of the extensions.
        extensions: the config file's own builders, {"optimizer": {"mine": make_mine}}.
    """
    extensions = extensions or {}
    tables = builders(extensions)
    config.known("model", model, tables["model"])
    config.known("objective", objective, tables["objective"])
    config.known("data", data, tables["data"])
    fields = {
        "seed": 0,
        "steps": 1000,
        "batch": 8,  # sequences over the whole mesh
        "accumulate": 1,  # parts that a batch is cut into, one after another
        "ema": 0.0,  # decay of the weights' moving average; 0: none is kept
        # what a NaN or inf in loss or gradient does: "stop", "skip" its update, or "rollback" to
        # the newest checkpoint and go on without its batch
        "nonfinite": "stop",
        "spikes": {
            "action": "off",  # what a spike does: "tell", "skip", "rollback" or "stop"
            "factor": 10.0,  # a gradient norm so many times its running mean is a spike
            "loss_factor": 3.0,  # and so is a loss
            "steps": 100,  # of the mean; before so many there is no verdict
        },
        "rollbacks": 5,  # to one checkpoint, before the run stops
        "replay": {"every": 0},  # steps between replays of a gradient, for silent faults; 0: none
        "model": {"name": model} | of_builder(tables["model"][model]),
        "objective": {"name": objective} | of_builder(tables["objective"][objective]),
        "data": {"kind": data, "shuffle": True} | of_opener(tables["data"][data]),
        # offload: between steps the optimizer's state is in the host's memory
        "optimizer": {"name": "adamw", "clip": 1.0, "offload": False}
        | of_table(tables["optimizer"]),
        "schedule": {"name": "warmup_cosine"} | of_table(tables["schedule"]),
        "mesh": dict.fromkeys(mesh.AXES, 1),
        "mesh_slices": 1,
        "pipeline": {"microbatches": 0, "repeats": 1},  # over mesh.stage; 0: one for each stage
        "rules": "fsdp_tensor",
        "extra_rules": (),  # rows (logical axis, mesh axes) put in or over the table
        "compiler": {},  # XLA options, and sizes of kernels' blocks (sharding/splash.py)
        "prices": {},  # dollars of a chip and hour, such as {"v5p": 4.2}; what `plan` counts with
        "checkpoint": {
            "every": 1000,
            "every_minutes": 0.0,
            "keep": 3,
            "best": "",  # a metric such as "validation/loss" whose best checkpoint is kept too
            "best_is": "lowest",  # or "highest"
            "local": "",  # a folder of each host's own, such as "/dev/shm/bigmodel"; "": none
            "local_every": 100,  # steps between checkpoints there
            "local_keep": 2,
        },
        # stalled_seconds: after which a step that does not end ends the job, and ten times as many
        # for evaluations, saves and compilations; 0: never
        "watch": {"silent_seconds": 30.0, "stalled_seconds": 600.0},
        "evals": {},  # name -> fields of entries.EVAL_FIELDS
        "log": {"every": 10, "tensorboard": True, "wandb": ""},  # wandb: name of the project
        "profile": {"start": 0, "steps": 0},  # window of steps that a trace records
        # weights that exist: a workdir, DIR@STEP of one, or a Hugging Face folder; read once
        "init_from": "",
        "fresh": (),  # regular expressions of parameters that begin as a new model's all the same
        "frozen": (),  # of parameters that do not train
        "frozen_dtype": "",  # of those; "": model.param_dtype
        "rates": {},  # regular expression of parameters -> factor of the learning rate
        "layer_decay": 1.0,  # factor of the learning rate for each layer down from the head
        # fields of the model of another width whose rates these are: {"width": 128, "heads": 4}
        "mup": {},
        # rank 0: none; targets: regular expressions of kernels that get an adapter
        "lora": {"rank": 0, "alpha": 16.0, "targets": (r"attention/(query|value)/kernel$",)},
    }
    section = ConfigDict(fields, allow_dotted_keys=True).lock()
    mixtures = [section.data.mixture] if "mixture" in section.data else []
    named = (section.evals, section.compiler, section.prices, section.rates, section.mup)
    for open_dict in (*named, *mixtures):
        open_dict.unlock()
    return section


def builders(extensions: Extensions) -> dict[str, dict[str, Callable]]:
    """Section -> name -> builder, the library's and the config file's own."""
    own: dict[str, dict[str, Callable]] = {
        "model": {name: schema for name, (schema, _) in models.FAMILIES.items()},
        "objective": objectives.OBJECTIVES,
        "data": kinds.KINDS,
        "optimizer": optimizers.OPTIMIZERS,
        "schedule": optimizers.SCHEDULES,
        "source": {},
        "filter": filters.FILTERS,
    }
    for section in extensions:
        config.known("EXTENSIONS", section, own)
    return {section: {**table, **extensions.get(section, {})} for section, table in own.items()}


def of_builder(builder: Callable) -> dict[str, Any]:
    """A builder's fields and their defaults; callables are no matter of a config."""
    fields = {}
    for name, (kind, default) in config.schema(builder).items():
        if not callable(default):
            fields[name] = placeholder(kind) if default in (None, config.REQUIRED) else default
    return fields


def of_opener(opener: Callable) -> dict[str, Any]:
    """The fields of what opens rows, and their defaults; a mixture's entries are open."""
    found = kinds.fields(opener)
    return found | ({"mixture": {}} if "mixture" in found else {})


def of_table(table: Mapping[str, Callable]) -> dict[str, Any]:
    """All fields of all builders of a table, each None: its builder's own default."""
    fields: dict[str, Any] = {}
    for builder in table.values():
        for name, (kind, _) in config.schema(builder).items():
            fields.setdefault(name, placeholder(kind))
    return fields


def placeholder(kind: Any) -> Any:
    """None, but with the type that a value must have."""
    options = getattr(kind, "__args__", (kind,))
    known = [option for option in options if option in (bool, int, float, str, tuple)]
    return config_dict.placeholder(known[0] if known else object)
