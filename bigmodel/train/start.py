"""Where a run begins: with the parameters of another run, or of a Hugging Face folder."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath

from bigmodel import checkpoint, config, trees
from bigmodel import recipe as recipes
from bigmodel.train import state as states
from bigmodel.train import workdir

Shape = tuple[int, ...]


class Source(Protocol):
    """Parameters that exist.

    Attributes:
        fields: of their model.
        shapes: of the parameters, by path.
        tokenizer: fingerprint of the one that their texts went through; "": not known.
    """

    fields: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    tokenizer: str

    def __str__(self) -> str:
        """Where they lie."""

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Some of the parameters, on the shardings that are said; of a dtype of their own."""


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
    if unread := sorted({path.split("/")[0] for path in source.shapes if path not in wanted}):
        show(f"{source}: nothing of this run reads its {', '.join(unread)}")
    for field in differing(source.fields, recipe):
        was, now = source.fields[field], recipe.config.model[field]
        show(f"{source}: its model.{field} is {was!r}, here {now!r}")
    if source.tokenizer and source.tokenizer != facts["tokenizer"]:
        show(f"{source}: its texts went through another tokenizer than data.tokenizer")
    return source


def open_source(recipe: recipes.Recipe, place: str, show: Callable[[str], None]) -> Source:
    """What lies at a place: a run of ours."""
    step = None
    if (at := re.fullmatch(r"(.+)@(\d+)", place)) and not epath.Path(place).exists():
        place, step = at[1], int(at[2])
    folder = config.place(place, "init_from", schemes=("gs",))
    if (folder / "checkpoints").exists():
        return OfRun(recipe, folder, step, show)
    raise config.InputError(f"init_from = {place!r}: is no workdir with checkpoints.")


def read(
    recipe: recipes.Recipe, abstract: states.TrainState, source: Source
) -> dict[str, jax.Array]:
    """The source's parameters as the run wants them, for `state.create`."""
    wanted = inherited(recipe, abstract)
    found = source.read(wanted)
    return {path: found.pop(path).astype(leaf.dtype) for path, leaf in wanted.items()}


def inherited(recipe: recipes.Recipe, abstract: states.TrainState) -> dict[str, Any]:
    """The parameters of a run that are not fresh, abstract, by path."""
    params = trees.flatten(states.whole(abstract).params)
    return {path: leaf for path, leaf in params.items() if path not in recipe.tuning.fresh}


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
    """Fields that two models have, with other values."""
    own = config.plain(recipe.config.model)
    theirs = config.plain(fields)
    return sorted(name for name in set(own) & set(theirs) - FREE if own[name] != theirs[name])


class OfRun:
    """A checkpoint of a run: what it is evaluated with, its moving average if it keeps one."""

    def __init__(
        self,
        recipe: recipes.Recipe,
        folder: epath.Path,
        step: int | None,
        show: Callable[[str], None],
    ):
        values = workdir.read(folder, extensions=False).config
        self.fields: Mapping[str, Any] = values.model.to_dict()
        self.folder, self.step, self.order, self.show = folder, step, recipe.layer_order, show
        with self.checkpoints() as checkpoints:
            if step is not None and step not in checkpoints.steps():
                raise config.InputError(
                    f"init_from = '{folder}@{step}': no such checkpoint; there are "
                    f"{checkpoints.steps() or 'none'}."
                )
            self.leaves = checkpoints.leaves(step)
            self.tokenizer: str = checkpoints.metadata(step).get("tokenizer", "")
        if not self.leaves:
            raise config.InputError(f"init_from = '{folder}': holds no finished checkpoint.")
        self.shapes: Mapping[str, Shape] = {
            name.removeprefix("params/"): tuple(leaf["shape"])
            for name, leaf in self.leaves.items()
            if name.startswith("params/")
        }

    def __str__(self) -> str:
        return str(self.folder) + ("" if self.step is None else f"@{self.step}")

    def checkpoints(self) -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(self.folder / "checkpoints", order=self.order)

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        averages = self.averages()
        names = {path: f"ema/{path}" for path in wanted if f"ema/{path}" in self.leaves}
        names = {path: f"params/{path}" for path in wanted} | names
        asked = {name: self.abstract(name, wanted[path]) for path, name in names.items()}
        for path in wanted:
            for name in averages.get(path, ()):
                like = wanted[path] if self.leaves[name]["shape"] else None
                asked[name] = self.abstract(name, like)
        with self.checkpoints() as checkpoints:
            try:
                found = checkpoints.restore(asked, step=self.step, warn=self.show).tree
            except (FileNotFoundError, checkpoint.UnsoundError) as error:
                raise config.InputError(f"init_from: {' '.join(str(error).split())}") from error
        params = {path: found[name] for path, name in names.items()}
        for path, (z, b1) in averages.items():
            if path in params and names[path].startswith("params/"):
                params[path] = averaged(params[path], found[z], found[b1])
        return params

    def abstract(self, name: str, like: Any) -> jax.ShapeDtypeStruct:
        """A leaf of the checkpoint where a parameter of the run lies."""
        leaf = self.leaves[name]
        where = None if like is None else like.sharding
        return jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]), sharding=where)

    def averages(self) -> dict[str, tuple[str, str]]:
        """Of a schedule-free optimizer's parameters: the names of its z and its b1."""
        found = {}
        for name in self.leaves:
            before, middle, path = name.partition("/z/")
            if middle and name.startswith("opt_state/") and f"{before}/b1" in self.leaves:
                found[path] = (name, f"{before}/b1")
        return found


@jax.jit
def averaged(y: jax.Array, z: jax.Array, b1: jax.Array) -> jax.Array:
    """Schedule-free's average x, where y = b1 x + (1 - b1) z (Defazio et al. 2024, eq. 2)."""
    return ((y - (1.0 - b1) * z) / b1).astype(y.dtype)
