"""Which parameters begin anew, which train and at which rate: patterns become paths."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bigmodel import config, trees
from bigmodel.adapt import lora
from bigmodel.objectives import Objective
from bigmodel.optimizers import matrices
from bigmodel.sharding import rules


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Of each parameter, by its path, what is said of it.

    Attributes:
        boxed: abstract parameters in boxes that name their axes: the model's, and of adapters.
        paths: of all of them.
        fresh: those that begin as a new model's where a run starts from weights that exist.
        frozen: those that do not train.
        frozen_dtype: of those; "": of the parameters.
        factors: path -> what its learning rate is multiplied by, a number or one for each layer.
        scale: of what adapters add (`adapt.lora`).
        widths: path -> the same as in `factors`, of the section `mup`; decay is as it was.
    """

    boxed: Any
    paths: tuple[str, ...]
    fresh: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    frozen_dtype: str = ""
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scale: float = 1.0
    widths: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def split(self, params: Any, is_leaf: Any = None) -> tuple[Any, Any]:
        """Parameters, or anything like them, as those that train and those that are frozen."""
        if not self.frozen:
            return params, {}
        train = frozenset(self.paths) - self.frozen
        return trees.pick(params, train, is_leaf), trees.pick(params, self.frozen, is_leaf)

    @property
    def adapts(self) -> bool:
        return any(map(lora.is_adapter, self.paths))

    def merged(self, params: Any) -> Any:
        """Parameters on a mesh as the model's own: with what adapters add, without the adapters."""
        return lora.merged(params, self.scale, lora.on_mesh) if self.adapts else params

    def adapted(self, objective: Objective) -> Objective:
        return lora.adapted(objective, self.scale) if self.adapts else objective


def make(values: Any, boxed: Any, order: np.ndarray | None, widths: Mapping[str, float]) -> Tuning:
    """What a config says of the parameters.

    Args:
        values: the config.
        boxed: abstract parameters in boxes that name their axes.
        order: memory[i] = disk[order[i]] of layers in a pipeline, see `Recipe.layer_order`.
        widths: what the section `mup` makes of rates.

    Raises:
        InputError: a pattern that finds no parameter, or nothing that trains.
    """
    boxes = trees.flatten(boxed, is_leaf=rules.is_box)
    fresh = found(values.fresh, boxes, "fresh")
    frozen = found(values.frozen, boxes, "frozen")
    scale = 1.0
    if values.lora.rank:
        if frozen:
            raise config.InputError(
                f"frozen = {tuple(values.frozen)}: with lora.rank = {values.lora.rank} all but "
                "adapters and `fresh` is frozen; allowed is ()."
            )
        frozen = frozenset(boxes) - fresh
        boxed = lora.boxes(
            boxed, targets(values.lora, boxes, fresh), values.lora.rank, rules.is_box
        )
        boxes = trees.flatten(boxed, is_leaf=rules.is_box)
        scale = values.lora.alpha / values.lora.rank
    paths = tuple(boxes)
    if both := sorted(fresh & frozen):
        raise config.InputError(
            f"frozen: {both[0]} is in `fresh` too; what begins anew and never trains stays random."
        )
    train = [path for path in paths if path not in frozen]
    if not train:
        raise config.InputError("frozen: finds every parameter; nothing is left to train.")
    factors: dict[str, Any] = {}
    for pattern, factor in values.rates.items():
        for path in found((pattern,), train, "rates"):  # of what trains
            factors[path] = factors.get(path, 1.0) * factor
    if values.layer_decay != 1.0:
        decays = layer_decays({path: boxes[path] for path in train}, values.layer_decay, boxes)
        for path, decay in decays.items():
            if order is not None and trees.is_stacked(path, boxes[path].value, len(order)):
                decay = np.asarray(decay)[order]
            factors[path] = np.asarray(factors.get(path, 1.0) * decay, np.float32)
    return Tuning(boxed, paths, fresh, frozen, values.frozen_dtype, factors, scale, widths)


def targets(section: Any, boxes: Mapping[str, Any], fresh: frozenset[str]) -> frozenset[str]:
    """The kernels that get an adapter."""
    kernels = [path for path in boxes if path.split("/")[-1] == lora.KERNEL]
    chosen = found(section.targets, kernels, "lora.targets")
    if not chosen:
        raise config.InputError("lora.targets: is empty; name the kernels that get an adapter.")
    for path in sorted(chosen):
        names, shape = boxes[path].names, boxes[path].value.shape
        if path in fresh:
            raise config.InputError(f"lora.targets: {path} is in `fresh` and trains as a whole.")
        if not lora.can_have(path, names):
            raise config.InputError(
                f"lora.targets: {path} of axes {names} is no product of inputs and outputs."
            )
        if section.rank > (most := min(lora.sizes(names, shape))):
            raise config.InputError(
                f"lora.rank = {section.rank}: {path} has matrices of "
                f"{' x '.join(map(str, lora.sizes(names, shape)))}; allowed are up to {most}."
            )
    return chosen


def asked(values: Any) -> bool:
    """Whether a config says anything of its parameters."""
    says = (
        values.init_from,
        values.fresh,
        values.frozen,
        len(values.rates),
        values.lora.rank,
        values.mup,
    )
    return any(says) or values.layer_decay != 1.0


def table(tuned: Tuning) -> list[str]:
    """A line for each parameter: its shape, and what becomes of it."""
    boxes = trees.flatten(tuned.boxed, is_leaf=rules.is_box)
    shapes = {path: str(list(box.value.shape)) for path, box in boxes.items()}
    widths = [max(map(len, column)) for column in (shapes, shapes.values())]
    lines = [
        f"{path:{widths[0]}}  {shape:{widths[1]}}  {rule(tuned, path)}"
        for path, shape in shapes.items()
    ]
    train, frozen = (
        trees.count(box_values(part)) for part in tuned.split(tuned.boxed, rules.is_box)
    )
    return [*lines, f"{train + frozen:,} parameters, {train:,} train, {frozen:,} are frozen"]


def box_values(boxed: Any) -> list[Any]:
    return [box.value for box in trees.flatten(boxed, is_leaf=rules.is_box).values()]


def rule(tuned: Tuning, path: str) -> str:
    """What becomes of a parameter, in some words."""
    words = ["fresh"] if path in tuned.fresh else []
    factor = np.unique(np.float32(tuned.factors.get(path, 1.0) * tuned.widths.get(path, 1.0)))
    rate = " to ".join(f"x{one:.3g}" for one in dict.fromkeys((factor[0], factor[-1])))
    trained = "trained" if rate == "x1" else f"trained {rate}"
    words.append("frozen" if path in tuned.frozen else trained)
    branch, _, last = path.rpartition("/")
    if last == lora.KERNEL and (a := f"{branch}/{lora.A}") in tuned.paths:
        box = trees.flatten(tuned.boxed, is_leaf=rules.is_box)[a]
        words.append(f"lora r{box.value.shape[-1]}")
    return ", ".join(words)


def found(patterns: Iterable[str], paths: Iterable[str], field: str) -> frozenset[str]:
    """The paths that regular expressions find; each expression must find one."""
    paths = list(paths)
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            of_pattern = [path for path in paths if re.search(pattern, path)]
        except (re.error, RecursionError, OverflowError) as error:
            raise config.InputError(
                f"{field}: {pattern!r} is no regular expression ({error})."
            ) from error
        if not of_pattern:
            raise config.InputError(
                f"{field}: {pattern!r} finds no parameter; near are "
                f"{', '.join(near(pattern, paths))}."
            )
        chosen.update(of_pattern)
    return frozenset(chosen)


def near(pattern: str, paths: Iterable[str]) -> list[str]:
    """Some paths that look most like a pattern."""
    words = re.sub(r"[\\^$()|.*+?\[\]]", "", pattern)

    def likeness(path: str) -> float:
        parts = path.split("/")
        pieces = {"/".join(parts[i:j]) for i in range(len(parts)) for j in range(i, len(parts) + 1)}
        return max(difflib.SequenceMatcher(None, words, piece).ratio() for piece in pieces)

    return sorted(paths, key=likeness, reverse=True)[:3]


# Of parameters in no stack: those that stand before the layers, of a model's towers too.
BEFORE = re.compile(
    r"^((decoder|image)/)?(embed|embed_norm|tokens|token_types|(\w+_)?positions|(\w+_)?relative"
    r"|patches|class_token|stem|first_norm|classes_table|time_up|time_down)(/|$)"
)


def layer_decays(
    boxes: Mapping[str, Any], decay: float, every: Mapping[str, Any]
) -> dict[str, np.ndarray | float]:
    """Path -> decay^(layers - l) for layer l of a stack, counted from 0; deeper is slower.

    Clark et al. 2020, ELECTRA (arXiv:2003.10555), appendix A; Bao et al. 2021, BEiT
    (arXiv:2106.08254). What stands before the layers has decay^(layers + 1), what comes after them
    1. Each stack counts from its own top; dense layers before the experts go on into theirs.

    Args:
        boxes: of the parameters that are asked about.
        decay: a layer's.
        every: boxes of all parameters, for the depth of stacks.
    """
    depth: dict[str, int] = {}
    for box in every.values():
        if (axis := stack_of(box.names)) is not None:
            depth[axis] = box.value.shape[0]
    if not depth:
        raise config.InputError("layer_decay: the model has no stack of layers.")
    above = {"dense_layers": depth.get("layers", 0)}
    deepest = max(n + above.get(axis, 0) for axis, n in depth.items())
    factors: dict[str, np.ndarray | float] = {}
    for path, box in boxes.items():
        axis = stack_of(box.names)
        if axis is not None:
            n = depth[axis]
            by_layer = decay ** (n + above.get(axis, 0) - np.arange(n, dtype=np.float64))
            factors[path] = by_layer.reshape(-1, *[1] * (len(box.names) - 1))
        elif BEFORE.search(path):
            factors[path] = decay ** (deepest + 1)
    return factors


def stack_of(names: tuple[str | None, ...]) -> str | None:
    """The stack that a parameter is of, by its logical axes."""
    first = names[0] if names else None
    return first if first in matrices.STACKS and first != "experts" else None
