"""Where logical axes lie on the mesh: one row each, and the checks that a table holds."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import config, trees
from bigmodel.shares import as_tuple

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

# fmt: off
#    logical axis         mesh axes            cut because
FSDP_TENSOR: Rules = (
    # activations
    ("batch",             ("data", "fsdp", "expert")),  # each device has its own rows
    ("length",            "context"),          # long rows; attention brings keys round
    ("residual_length",   "context"),          # of the stream between the layers
    ("act_embed",         None),
    ("act_mlp",           "tensor"),           # these follow the kernels below
    ("act_heads",         "tensor"),
    ("act_kv_heads",      "tensor"),
    # parameters
    ("embed",             ("fsdp", "expert", "context")),  # gathered just before use
    ("mlp",               "tensor"),
    ("heads",             "tensor"),
    ("kv_heads",          "tensor"),
    ("head_dim",          None),
    ("latent",            None),               # of latent attention: each device makes its heads
    ("experts",           "expert"),           # tokens go to where theirs are
    ("expert_embed",      ("fsdp", "context")),
    ("router",            None),
    ("router_embed",      None),
    ("vocab",             "tensor"),
    ("positions",         None),
    ("token_types",       None),
    ("patch",             None),               # pixels of a patch, taps of a convolution
    ("classes",           None),
    ("frequencies",       None),               # of a time's sines, of sound
    ("norm",              None),               # vectors as long as the width: too small to cut
    ("layers",            "stage"),            # each stage of a pipeline has its own
    ("dense_layers",      None),               # those before the experts are in none
    ("decoder_layers",    None),               # nor those of a small decoder after an encoder
    ("encoder_layers",    None),               # nor those of an encoder before a decoder
    ("image_layers",      None),               # nor two towers side by side
    ("text_layers",       None),
    ("joint",             None),               # of two towers' projections: small
)
# fmt: on


def changed(table: Rules, **rows: str | tuple[str, ...] | None) -> Rules:
    """A table with some of its rows, or more of them, put otherwise."""
    return tuple((dict(table) | rows).items())


# Sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198): norms, dropout and the residual
# stream are cut over "tensor" too, and what was an all-reduce is a reduce-scatter and a gather.
SEQUENCE: Rules = changed(FSDP_TENSOR, residual_length=("context", "tensor"))

# Every parameter whole on every device: the classic data parallelism.
REPLICATED: Rules = tuple(
    (axis, cut if axis in ("batch", "length", "residual_length", "layers") else None)
    for axis, cut in FSDP_TENSOR
)

# ZeRO-1 (Rajbhandari et al. 2019, arXiv:1910.02054): parameters as in FSDP_TENSOR; what the
# optimizer keeps, and so its update, is cut over "data" besides. A row "optimizer/AXIS" is that of
# AXIS in the optimizer's state.
ZERO1: Rules = changed(
    FSDP_TENSOR,
    **{
        "optimizer/embed": ("fsdp", "expert", "context", "data"),
        "optimizer/expert_embed": ("fsdp", "context", "data"),
    },
)

RULES = {
    "fsdp_tensor": FSDP_TENSOR,
    "sequence": SEQUENCE,
    "replicated": REPLICATED,
    "zero1": ZERO1,
}

OF_STATE = "optimizer/"


def table(name: str, extra: Sequence[tuple], mesh_axes: Sequence[str]) -> Rules:
    """The rules of a run: a table by name, with rows of the config's own put in or over it.

    Raises:
        InputError: an unknown table, or a row that names an unknown mesh axis.
    """
    if name not in RULES:
        known = ", ".join(RULES)
        raise config.InputError(
            f"rules = {name!r}: known tables are {known}.{config.nearest(name, RULES)}"
        )
    rows = dict(RULES[name])
    for row in extra:
        if len(row) != 2:
            raise config.InputError(f"extra_rules: a row is (logical axis, mesh axes), not {row!r}")
        rows[row[0]] = tuple(row[1]) if isinstance(row[1], list | tuple) else row[1]
    for axis, cut in rows.items():
        for mesh_axis in as_tuple(cut):
            if mesh_axis not in mesh_axes:
                raise config.InputError(
                    f"rules: logical axis {axis!r} lies on mesh axis {mesh_axis!r}; known are "
                    f"{', '.join(mesh_axes)}.{config.nearest(mesh_axis, mesh_axes)}"
                )
    return tuple(rows.items())


def axes_of(boxed: Any) -> Any:
    """The logical axes of each parameter, a tree of tuples, from boxed (abstract) parameters."""
    return jax.tree.map(lambda box: tuple(box.names), boxed, is_leaf=is_box)


def is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def shardings(boxed: Any, rules: Rules, mesh: jax.sharding.Mesh) -> Any:
    """Where each parameter lies, checked.

    Args:
        boxed: abstract parameters in boxes that name their logical axes.
        rules: of the run.
        mesh: of the run.

    Returns:
        A tree like the unboxed parameters, of `NamedSharding`.

    Raises:
        InputError: an axis has no rule, two axes of an array lie on one mesh axis, or a length
            does not divide.
    """
    known = dict(rules)

    def one(path: str, box: Any) -> NamedSharding:
        check(path, box.names, box.value.shape, known, mesh)
        cuts = (as_tuple(known[axis]) if axis is not None else () for axis in box.names)
        return NamedSharding(mesh, PartitionSpec(*(c or None for c in cuts)))

    return trees.map_with_path(one, boxed, is_leaf=is_box)


def check(
    path: str,
    axes: Sequence[str | None],
    shape: Sequence[int],
    known: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
) -> None:
    """Refuses an array that the rules cannot lay out, naming it."""
    taken: dict[str, str] = {}
    for axis, length in zip(axes, shape, strict=True):
        if axis is None:
            continue
        if axis not in known:
            close = difflib.get_close_matches(axis, known, 1)
            raise config.InputError(
                f"{path}: logical axis {axis!r} is not in the sharding rules.\n"
                f"  axes of this array: {tuple(axes)}\n"
                f"  axes with a rule:   {', '.join(sorted(known))}\n"
                f"Add a row ({axis!r}, <mesh axis or None>) to `extra_rules` of the config"
                + (f", or name the axis {close[0]!r}." if close else ".")
            )
        cut = 1
        for mesh_axis in as_tuple(known[axis]):
            if mesh_axis in taken:
                raise config.InputError(
                    f"{path}: logical axes {taken[mesh_axis]!r} and {axis!r} both lie on mesh axis "
                    f"{mesh_axis!r}; an array can be cut along it once. Give one of them another "
                    f"mesh axis or None in `extra_rules`."
                )
            taken[mesh_axis] = axis
            cut *= mesh.shape[mesh_axis]
        if length % cut:
            raise config.InputError(
                f"{path}: axis {axis!r} of length {length} is cut {cut} ways over mesh "
                f"{' x '.join(as_tuple(known[axis]))}, which does not divide it; sizes that do: "
                f"{', '.join(str(n) for n in range(1, length + 1) if length % n == 0 and n <= 64)}"
            )


def batch_sharding(rules: Rules, mesh: jax.sharding.Mesh) -> NamedSharding:
    """Of every array of a batch: its first axis is cut, the rest is whole."""
    return NamedSharding(mesh, PartitionSpec(as_tuple(dict(rules)["batch"]) or None))


def parts(mesh: jax.sharding.Mesh, cut: str | tuple[str, ...] | None) -> int:
    """Into how many parts an axis is cut."""
    return math.prod(mesh.shape[axis] for axis in as_tuple(cut))


def of_state(rules: Rules) -> Rules:
    """The rules of what the optimizer keeps: its rows "optimizer/AXIS" are those of AXIS."""
    own = {axis.removeprefix(OF_STATE): cut for axis, cut in rules if axis.startswith(OF_STATE)}
    return tuple((dict(rules) | own).items())


def like_params(tree: Any, params: Any, params_shardings: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shardings of a tree that holds arrays shaped like parameters, such as an optimizer's state.

    A leaf whose path ends with a parameter's path and whose shape is the parameter's lies where
    the parameter does; every other leaf is whole on every device.
    """
    cuts = trees.flatten(params_shardings)
    shapes = {path: leaf.shape for path, leaf in trees.flatten(params).items()}
    whole = NamedSharding(mesh, PartitionSpec())

    def one(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for i in range(len(parts)):
            suffix = "/".join(parts[i:])
            if suffix in shapes and shapes[suffix] == leaf.shape:
                return cuts[suffix]
        return whole

    return trees.map_with_path(one, tree)
