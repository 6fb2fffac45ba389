"""Where a run begins: with the parameters of another run, or of a Hugging Face folder."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import config, models, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import lora, resize
from bigmodel.train import state as states
from bigmodel.train.origins import Shape, Source, open_source


def find(
    recipe: recipes.Recipe,
    abstract: states.TrainState,
    facts: Mapping[str, Any],
    show: Callable[[str], None],
) -> Source | None:
    """The source that a config names, or None; nothing but names and shapes is read yet.

    Args:
        recipe: of the run.
        abstract: its state.
        facts: of the run, see `workdir.facts`.
        show: is told what differs and may.

    Raises:
        InputError: it cannot be opened, or holds other parameters than the run's.
    """
    place = recipe.config.init_from
    if not place:
        return None
    source = open_source(recipe, place, show)
    wanted = inherited(recipe, abstract)
    check_fit(source, {path: leaf.shape for path, leaf in wanted.items()}, place, recipe)
    if resized := [path for path in wanted if source.shapes[path] != wanted[path].shape]:
        show(f"{source}: {', '.join(resized)} resized")
    if unread := sorted({path.split("/")[0] for path in source.shapes if path not in wanted}):
        show(f"{source}: nothing of this run reads its {', '.join(unread)}")
    for field in differing(source.fields, recipe):
        was, now = source.fields.get(field), recipe.config.model[field]
        show(f"{source}: its model.{field} is {was!r}, here {now!r}")
    if source.tokenizer and source.tokenizer != facts["tokenizer"]:
        show(f"{source}: its texts went through another tokenizer than data.tokenizer")
    return source


def read(
    recipe: recipes.Recipe, abstract: states.TrainState, source: Source
) -> dict[str, jax.Array]:
    """The source's parameters as the run wants them, for `state.create`."""
    wanted = inherited(recipe, abstract)
    everywhere = NamedSharding(recipe.mesh, PartitionSpec())
    asked = {}
    for path, leaf in wanted.items():
        shape = source.shapes[path]
        where = leaf.sharding if shape == leaf.shape else everywhere
        asked[path] = jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=where)
    found = source.read(asked)
    given = {}
    for path, leaf in wanted.items():
        array = found.pop(path)
        if array.shape != leaf.shape:
            make = resizer(recipe, path, array.shape, leaf.shape)
            array = jax.device_put(make(np.asarray(array, np.float32)), leaf.sharding)
        given[path] = array.astype(leaf.dtype)
    return given


def resizer(recipe: recipes.Recipe, path: str, found: Shape, wanted: Shape) -> Any:
    """What makes a parameter of one shape out of one of another, or None."""
    channels = dict(recipe.fields).get("channels")
    return resize.resizer(path, found, wanted, channels) if channels else None


def inherited(recipe: recipes.Recipe, abstract: states.TrainState) -> dict[str, Any]:
    """The parameters of a run that are not fresh, abstract, by path."""
    params = trees.flatten(states.whole(abstract).params)
    fresh = recipe.tuning.fresh
    return {p: leaf for p, leaf in params.items() if p not in fresh and not lora.is_adapter(p)}


MOST_FAULTS = 20


def check_fit(
    source: Source, wanted: Mapping[str, Shape], place: str, recipe: recipes.Recipe
) -> None:
    """Refuses a source without some parameter, or with one of another shape."""
    faults = {
        path: f"  {path}: found {list(source.shapes[path]) if path in source.shapes else 'nothing'}"
        f", wanted {list(shape)}"
        for path, shape in wanted.items()
        if source.shapes.get(path) != shape
        and not (path in source.shapes and resizer(recipe, path, source.shapes[path], shape))
    }
    if not faults:
        return
    more = [f"  and {len(faults) - MOST_FAULTS:,} more"] * (len(faults) > MOST_FAULTS)
    lines = "\n".join([*list(faults.values())[:MOST_FAULTS], *more])
    patterns = sorted({f"^{re.escape(path.split('/')[0])}(/|$)" for path in faults})
    other = [f"model.{field}" for field in differing(source.fields, recipe)]
    cure = f", or set {', '.join(other)} as there" if other else ""
    raise config.InputError(
        f"init_from = {place!r}: its parameters are not those of this model:\n{lines}\n"
        f"Let what should begin anew do so, as fresh = {tuple(patterns)}{cure}."
    )


# Fields of a model that say how numbers are computed, or how it begins, and none of them.
FREE = {
    *("name", "dtype", "param_dtype", "remat", "remat_save", "remat_offload", "scan", "attention"),
    *("context_attention", "init_std", "init_residual", "dropout", "attention_dropout"),
}


def differing(fields: Mapping[str, Any], recipe: recipes.Recipe) -> list[str]:
    """Fields that two models have, with other values that do not stand for the same."""
    from bigmodel.convert import folders  # and its tables, which few runs read

    own, theirs = config.plain(recipe.config.model), config.plain(fields)
    found = {name for name in set(own) & set(theirs) - FREE if own[name] != theirs[name]}
    if {own["name"], theirs["name"]} <= set(models.FAMILIES):
        own, theirs = folders.canonical(own), folders.canonical(theirs)
    return sorted(name for name in found if own.get(name) != theirs.get(name))
