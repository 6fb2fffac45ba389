"""Parameters that exist, of a run of ours or in a Hugging Face folder, read onto another mesh."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath

from bigmodel import checkpoint, config, convert, models, trees
from bigmodel import recipe as recipes
from bigmodel.checkpoint import leaves
from bigmodel.sharding import rules
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


def open_source(recipe: recipes.Recipe, place: str, show: Callable[[str], None]) -> Source:
    """What lies at a place: a workdir, a step of one as DIR@STEP, or a Hugging Face folder.

    Args:
        recipe: of the run that wants it.
        place: where.
        show: is told of checkpoints that are unsound.
    """
    step = None
    if (at := re.fullmatch(r"(.+)@(\d+)", place)) and not epath.Path(place).exists():
        place, step = at[1], int(at[2])
    folder = config.place(place, "init_from", schemes=("gs",))
    if (folder / "checkpoints").exists():
        return OfRun(recipe, folder, step, show)
    if step is None and (folder / "config.json").exists():
        return OfFolder(recipe, pathlib.Path(place))
    raise config.InputError(
        f"init_from = {place!r}: is no workdir with checkpoints, and no folder with a config.json "
        "and safetensors files."
    )


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


class OfFolder:
    """A folder as the Hugging Face Hub has them."""

    tokenizer = ""

    def __init__(self, recipe: recipes.Recipe, folder: pathlib.Path):
        self.found = convert.open_folder(folder, convert.ARCHITECTURES)
        family = self.found.architecture.family
        known = config.schema(models.FAMILIES[family][0])
        self.complete = {name: default for name, (_, default) in known.items()} | self.found.fields
        self.fields: Mapping[str, Any] = {"name": family} | {
            name: value for name, value in self.complete.items() if not callable(value)
        }
        model = models.FAMILIES[family][1](**self.found.fields)
        boxed = jax.eval_shape(model.init, jax.random.key(0), model.example)
        boxes = trees.flatten(boxed, is_leaf=rules.is_box)
        self.shapes: Mapping[str, Shape] = {path: box.value.shape for path, box in boxes.items()}
        self.shardings = trees.flatten(rules.shardings(boxed, recipe.rules, recipe.mesh))
        self.order = recipe.layer_order

    def __str__(self) -> str:
        return f"{self.found.tensors.folder} ({self.found.name})"

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        # All that the folder must hold is read, and so checked; a head that goes unused is small.
        shapes = {
            path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self.shardings[path])
            for path, shape in self.shapes.items()
        }
        found = self.found.read(self.complete, shapes | dict(wanted))
        return leaves.reordered({path: found[path] for path in wanted}, self.order)
