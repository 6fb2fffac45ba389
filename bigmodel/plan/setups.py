"""What memory and time of a layout depend on, and the bytes of arrays cut over its mesh."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel.plan import tensors
from bigmodel.sharding import rules as tables

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
LANES, ROWS = 128, 8  # of a TPU's tile: two dimensions of an array are padded to it


class Setup(NamedTuple):
    """All of a config and a mesh that memory and time depend on.

    Attributes:
        fields: the model's.
        parameters: its arrays.
        mesh: size of each mesh axis.
        rules: logical axis -> mesh axes.
        batch: sequences over the whole mesh.
        length: tokens of each.
        accumulate: parts of a batch that go one after another.
        microbatches: of a pipeline; 0: one for each stage.
        repeats: runs of layers that each stage has.
        optimizer: the section of the config.
        ema: whether an average of the parameters is kept.
        slices: parts of the mesh joined by DCN.
        kind: of the chips, such as "v5p".
    """

    fields: Mapping[str, Any]
    parameters: tuple[tensors.Tensor, ...]
    mesh: Mapping[str, int]
    rules: Mapping[str, tuple[str, ...]]
    batch: int
    length: int
    accumulate: int
    microbatches: int
    repeats: int
    optimizer: Mapping[str, Any]
    ema: bool
    slices: int
    kind: str

    def parts(self, *axes: str) -> int:
        """Into how many parts the mesh cuts what lies along these logical axes."""
        cut = (mesh_axis for axis in axes for mesh_axis in self.rules[axis])
        return math.prod(self.mesh[mesh_axis] for mesh_axis in cut)

    def local(self, size: int, axis: str) -> int:
        return -(-size // self.parts(axis))

    @property
    def stages(self) -> int:
        return self.mesh["stage"]

    @property
    def ticks(self) -> int:
        """Times that each stage runs a microbatch, or has none to run."""
        if self.stages == 1:
            return 1
        return (self.microbatches or self.stages) * self.repeats + self.stages - 1

    @property
    def flights(self) -> int:
        """Microbatches of a pipeline that a part of a batch is cut into; 1 without stages."""
        return (self.microbatches or self.stages) if self.stages > 1 else 1

    @property
    def rows(self) -> int:
        """Sequences that a device has at one time."""
        return max(1, self.batch // (self.parts("batch") * self.accumulate * self.flights))


def of(values: Any, mesh: Mapping[str, int], rules: Mapping[str, Any], kind: str) -> Setup:
    """What of a resolved config counts here, on a mesh of these sizes.

    Args:
        values: `recipe.resolve`'s config.
        mesh: size of each axis.
        rules: logical axis -> mesh axes, as `sharding.rules.table` gives them.
        kind: of the chips.
    """
    fields = values.model.to_dict()
    return Setup(
        fields=fields,
        parameters=_parameters(tuple(sorted((k, v) for k, v in fields.items() if k in SHAPE))),
        mesh=mesh,
        rules={axis: tables.as_tuple(cut) for axis, cut in dict(rules).items()},
        batch=values.batch,
        length=values.data.length,
        accumulate=values.accumulate,
        microbatches=values.pipeline.microbatches,
        repeats=values.pipeline.repeats,
        optimizer=values.optimizer.to_dict(),
        ema=bool(values.ema),
        slices=values.mesh_slices,
        kind=kind,
    )


SHAPE = frozenset(
    [
        "vocab",
        "width",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "kv_rank",
        "query_rank",
        "rope_dim",
        "hidden",
        "length",
        "norm",
        "norm_bias",
        "norm_placement",
        "qk_norm",
        "position",
        "feedforward",
        "experts",
        "expert_hidden",
        "shared_experts",
        "dense_layers",
        "router_balance",
        "bias",
        "qkv_bias",
        "tied",
    ]
)


@functools.cache
def _parameters(fields: tuple) -> tuple[tensors.Tensor, ...]:
    return tensors.of_decoder(dict(fields))


@functools.lru_cache(maxsize=1 << 16)
def compact(shape: tuple[int, ...], itemsize: int) -> float:
    """Bytes of an array as a TPU keeps it: tiles pad the two dimensions that pad least."""
    shape = (1,) * (2 - len(shape)) + shape
    size = math.prod(shape)
    best = min(
        tiled(shape[i], shape[j]) * (size // max(1, shape[i] * shape[j]))
        for i in range(len(shape))
        for j in range(len(shape))
        if i != j
    )
    return float(best * itemsize)


def tiled(rows: int, lanes: int) -> int:
    tile = min(ROWS, 1 << (rows - 1).bit_length())
    return -(-rows // tile) * tile * -(-lanes // LANES) * LANES


def on_device(
    setup: Setup, tensor: tensors.Tensor, itemsize: int, whole: tuple[str, ...] = ()
) -> float:
    """Bytes of a parameter's part on a device; `whole`: logical axes that are brought together."""
    shape = tuple(
        n if axis in whole else setup.local(n, axis)
        for n, axis in zip(tensor.shape, tensor.axes, strict=True)
    )
    return compact(shape, itemsize)
