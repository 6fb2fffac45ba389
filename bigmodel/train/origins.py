"""Parameters that exist, of a run of ours or in a Hugging Face folder, read onto another mesh."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import checkpoint, config, models, optimizers, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import lora
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
        show: is told of checkpoints that are unsound, and of weights that have no place.
    """
    step = None
    if (at := re.fullmatch(r"(.+)@(\d+)", place)) and not epath.Path(place).exists():
        place, step = at[1], int(at[2])
    folder = config.place(place, "init_from", schemes=("gs",))
    if (folder / "checkpoints").exists():
        return OfRun(recipe, folder, step, show)
    if step is None and (folder / "config.json").exists():
        if "://" in place:
            raise config.InputError(
                f"init_from = {place!r}: a Hugging Face folder is read from a local path; copy it "
                "there, or make it a workdir by `bigmodel import`."
            )
        return OfFolder(recipe, pathlib.Path(place), show)
    raise config.InputError(
        f"init_from = {place!r}: is no workdir with checkpoints, and no folder with a config.json "
        "and safetensors files."
    )


class OfRun:
    """A checkpoint of a run: what it is evaluated with.

    That is its moving average if it keeps one, with adapters in their kernels.
    """

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
        names = {**self.under("params/"), **self.under("ema/")}
        self.names = {path: name for path, name in names.items() if not lora.is_adapter(path)}
        self.adapters = {path: name for path, name in names.items() if lora.is_adapter(path)}
        self.scale = values.lora.alpha / values.lora.rank if self.adapters else 1.0
        self.averages = self.schedule_free()
        self.shapes: Mapping[str, Shape] = {
            path: tuple(self.leaves[name]["shape"]) for path, name in self.names.items()
        }
        self.everywhere = NamedSharding(recipe.mesh, PartitionSpec())

    def __str__(self) -> str:
        return str(self.folder) + ("" if self.step is None else f"@{self.step}")

    def under(self, prefix: str) -> dict[str, str]:
        """Path -> name of the checkpoint's leaves whose names begin so."""
        return {n.removeprefix(prefix): n for n in self.leaves if n.startswith(prefix)}

    def checkpoints(self) -> checkpoint.Checkpoints:
        return checkpoint.Checkpoints(self.folder / "checkpoints", order=self.order)

    def schedule_free(self) -> dict[str, tuple[str, str]]:
        """Path -> names of the z and the b1 of a schedule-free optimizer; of averages none.

        A balance bias moves beside the optimizer, and is what it is (`optimizers.eval_params`).
        """
        found = {}
        for name in self.leaves:
            before, middle, path = name.partition("/z/")
            if optimizers.is_balance(path):
                continue
            if middle and name.startswith("opt_state/") and f"{before}/b1" in self.leaves:
                found[path] = (name, f"{before}/b1")
        return {path: names for path, names in found.items() if f"ema/{path}" not in self.leaves}

    def read(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        places: dict[str, Any] = {self.names[path]: leaf.sharding for path, leaf in wanted.items()}
        thin = {path: name for path, name in self.adapters.items() if kernel_of(path) in wanted}
        places |= dict.fromkeys(thin.values(), self.everywhere)
        averages = {p: n for p, n in self.averages.items() if p in wanted or p in thin}
        for path, (z, b1) in averages.items():
            places |= {z: places[(self.names | thin)[path]], b1: self.everywhere}
        asked = {name: self.abstract(name, where) for name, where in places.items()}
        with self.checkpoints() as checkpoints:
            try:
                found = checkpoints.restore(asked, step=self.step, warn=self.show).tree
            except (FileNotFoundError, checkpoint.UnsoundError) as error:
                raise config.InputError(f"init_from: {' '.join(str(error).split())}") from error
        params = {path: found[(self.names | thin)[path]] for path in (*wanted, *thin)}
        for path, (z, b1) in averages.items():
            params[path] = averaged(params[path], found[z], found[b1])
        for path in {kernel_of(path) for path in thin}:
            branch = path.removesuffix(lora.KERNEL)
            a, b = (params.pop(f"{branch}{name}") for name in (lora.A, lora.B))
            params[path] = lora.on_mesh(params[path], a, b, self.scale)
        return params

    def abstract(self, name: str, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        leaf = self.leaves[name]
        return jax.ShapeDtypeStruct(tuple(leaf["shape"]), jnp.dtype(leaf["dtype"]), sharding=where)


def kernel_of(path: str) -> str:
    """The kernel beside which an adapter lies."""
    return f"{path.rpartition('/')[0]}/{lora.KERNEL}"


@jax.jit
def averaged(y: jax.Array, z: jax.Array, b1: jax.Array) -> jax.Array:
    """Schedule-free's average x, where y = b1 x + (1 - b1) z (Defazio et al. 2024, eq. 2)."""
    return ((y - (1.0 - b1) * z) / b1).astype(y.dtype)


class OfFolder:
    """A folder as the Hugging Face Hub has them."""

    tokenizer = ""

    def __init__(self, recipe: recipes.Recipe, folder: pathlib.Path, show: Callable[[str], None]):
        from bigmodel import convert  # its tables, which few runs read

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
        if passed := self.found.passed_over(self.complete):
            show(f"{self}: no place for {', '.join(passed)}")

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
