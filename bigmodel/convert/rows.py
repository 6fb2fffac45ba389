"""Rows of a table of names: how parameters of ours are tensors of theirs, read both ways."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from bigmodel import config, trees
from bigmodel.convert.tensors import Tensors

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Form:
    """How one array is stored the other way.

    Attributes:
        shape: of ours -> shape of theirs.
        ours: (theirs, shape of ours) -> ours.
        theirs: ours -> theirs.
    """

    shape: Callable[[Shape], Shape]
    ours: Callable[[np.ndarray, Shape], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


def linear(inputs: int = 1) -> Form:
    """A kernel [inputs ..., outputs ...] as torch's Linear has it: [outputs, inputs]."""

    def flat(shape: Shape) -> Shape:
        return math.prod(shape[:inputs]), math.prod(shape[inputs:])

    return Form(
        lambda shape: flat(shape)[::-1],
        lambda theirs, shape: theirs.T.reshape(shape),
        lambda ours: ours.reshape(flat(ours.shape)).T,
    )


def plain(inputs: int = 1) -> Form:
    """A kernel [inputs ..., outputs ...] as [inputs, outputs], and a bias (no inputs) as a row."""

    def flat(shape: Shape) -> Shape:
        rows = (math.prod(shape[:inputs]),) if inputs else ()
        return *rows, math.prod(shape[inputs:])

    return Form(
        flat,
        lambda theirs, shape: theirs.reshape(shape),
        lambda ours: ours.reshape(flat(ours.shape)),
    )


SAME = Form(lambda shape: shape, lambda theirs, _: theirs, lambda ours: ours)
LINEAR, OUT = linear(1), linear(2)  # OUT: [heads, head_dim, width] -> [width, heads * head_dim]
BIAS = plain(0)


def patches(channels: int) -> Form:
    """Squares of pixels [row * column * channel, width] as torch's Conv2d."""

    def side(pixels: int) -> int:
        return math.isqrt(pixels // channels)

    return Form(
        lambda shape: (shape[1], channels, side(shape[0]), side(shape[0])),
        lambda theirs, shape: theirs.transpose(2, 3, 1, 0).reshape(shape),
        lambda ours: ours.reshape(
            side(ours.shape[0]), side(ours.shape[0]), channels, ours.shape[1]
        ).transpose(3, 2, 0, 1),
    )


def led(ones: int) -> Form:
    """An array that has so many dimensions of one before it there."""
    return Form(
        lambda shape: (1,) * ones + shape,
        lambda theirs, shape: theirs.reshape(shape),
        lambda ours: ours.reshape((1,) * ones + ours.shape),
    )


# A convolution over time [place, in, out] as torch's Conv1d: [out, in, place].
CONVOLUTION = Form(
    lambda shape: shape[::-1], lambda theirs, _: theirs.transpose(), lambda ours: ours.transpose()
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        ours: path of a parameter. Each placeholder in `theirs` is a leading dimension of it.
        theirs: name of their tensors, such as "model.layers.{layer}.mlp.up_proj.weight".
        form: how they are stored.
        part: (which, of how many) where their tensor holds several of ours.
        axis: along which of its axes.
    """

    ours: str
    theirs: str
    form: Form = SAME
    part: tuple[int, int] = (0, 1)
    axis: int = 0

    @property
    def stacked(self) -> int:
        """Leading dimensions that are one tensor each."""
        return len(re.findall(r"\{\w+\}", self.theirs))

    def name(self, place: Sequence[int]) -> str:
        """Of their tensor at a place in the leading dimensions."""
        numbers = iter(place)
        return re.sub(r"\{\w+\}", lambda _: str(next(numbers)), self.theirs)

    def places(self, shape: Shape) -> Iterator[tuple[int, ...]]:
        return itertools.product(*map(range, shape[: self.stacked]))

    def shape(self, shape: Shape) -> Shape:
        """Of each of their tensors, from the shape of ours."""
        found = list(self.form.shape(shape[self.stacked :]))
        if self.part[1] > 1:
            found[self.axis] *= self.part[1]
        return tuple(found)


def dense(ours: str, theirs: str, form: Form = LINEAR, *, bias: bool = True) -> list[Row]:
    """A product's kernel and bias."""
    kernel = Row(f"{ours}/kernel", f"{theirs}.weight", form)
    flat = BIAS if form is LINEAR else SAME  # of [heads, head_dim], where there are heads
    return [kernel, Row(f"{ours}/bias", f"{theirs}.bias", flat)] if bias else [kernel]


def norm(ours: str, theirs: str) -> list[Row]:
    """A layer norm's scale and bias."""
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def check(rows: Sequence[Row], shapes: Mapping[str, Any], tensors: Tensors, unread: str) -> None:
    """Refuses a folder in which tensors are missing, too many, or of another shape.

    Args:
        rows: the family's table.
        shapes: of our parameters, by path.
        tensors: the folder's.
        unread: a regular expression of names that hold no weights.
    """
    wanted = {
        row.name(place): (row, row.shape(shapes[row.ours].shape))
        for row in rows
        for place in row.places(shapes[row.ours].shape)
    }
    faults = [
        f"  {name}: missing, of {list(shape)} for {row.ours}"
        for name, (row, shape) in wanted.items()
        if name not in tensors.shapes
    ]
    faults += [
        f"  {name}: is {list(tensors.shapes[name])}, should be {list(shape)} for {row.ours}"
        for name, (row, shape) in wanted.items()
        if tensors.shapes.get(name, shape) != shape
    ]
    extra = [name for name in tensors.shapes if name not in wanted]
    faults += [f"  {name}: nothing reads it" for name in extra if not re.search(unread, name)]
    if faults:
        more = [f"  and {len(faults) - MOST_FAULTS:,} more"] * (len(faults) > MOST_FAULTS)
        lines = "\n".join([*faults[:MOST_FAULTS], *more])
        raise config.InputError(
            f"{tensors.folder}: its tensors are not those that its config.json says:\n{lines}"
        )


MOST_FAULTS = 40


def read(rows: Sequence[Row], shapes: Mapping[str, Any], tensors: Tensors) -> dict[str, jax.Array]:
    """Our parameters by path, each made where it lies; at most one of them is whole on the host.

    Args:
        rows: the family's table.
        shapes: of our parameters by path, with dtype and sharding.
        tensors: of a folder that `check` has passed.
    """
    found: dict[str, jax.Array] = {}
    for row in rows:
        leaf = shapes[row.ours]
        part = functools.partial(_part, row, leaf, tensors, {})
        found[row.ours] = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    return found


def _part(
    row: Row, leaf: Any, tensors: Tensors, known: dict, index: tuple[slice, ...] | None
) -> np.ndarray:
    """What a device holds of a parameter; devices that hold the same share it."""
    index = index or (slice(None),) * len(leaf.shape)
    key = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True))
    if key not in known:
        known[key] = _slice(row, leaf.shape, index, tensors, np.dtype(leaf.dtype))
    return known[key]


def _slice(
    row: Row, shape: Shape, index: tuple[slice, ...], tensors: Tensors, dtype: np.dtype
) -> np.ndarray:
    """A part of a parameter, out of those tensors that hold it."""
    n = row.stacked
    numbers = [range(*s.indices(size)) for s, size in zip(index[:n], shape[:n], strict=True)]
    of_one = tuple(len(range(*s.indices(size))) for s, size in zip(index, shape, strict=True))
    out = np.empty(of_one, dtype)
    which, parts = row.part
    for place in itertools.product(*(range(len(some)) for some in numbers)):
        theirs = tensors.get(row.name([some[i] for some, i in zip(numbers, place, strict=True)]))
        if parts > 1:
            theirs = np.split(theirs, parts, axis=row.axis)[which]
        out[place] = row.form.ours(theirs, shape[n:])[index[n:]]
    return out


def sizes(rows: Sequence[Row], shapes: Mapping[str, Any], dtype: str) -> dict[str, int]:
    """Bytes of each of their tensors, in the order in which `theirs` gives them."""
    found: dict[str, int] = {}
    for group in _groups(rows):
        shape = shapes[group[0].ours].shape
        for place in group[0].places(shape):
            size = math.prod(group[0].shape(shape)) * numpy_dtype(dtype).itemsize
            found[group[0].name(place)] = size
    return found


def theirs(
    rows: Sequence[Row], params: Mapping[str, Any], dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Their tensors one by one, of our parameters by path.

    Args:
        rows: the family's table.
        params: arrays, on whatever mesh; one at a time is brought to the host.
        dtype: of what is given.
    """
    for group in _groups(rows):
        arrays = [trees.on_host(params[row.ours]) for row in group]
        for place in group[0].places(arrays[0].shape):
            parts = [row.form.theirs(a[place]) for row, a in zip(group, arrays, strict=True)]
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=group[0].axis)
            yield group[0].name(place), whole.astype(numpy_dtype(dtype))


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one and the same tensor of theirs together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.theirs, []).append(row)
    return [sorted(group, key=lambda row: row.part) for group in groups.values()]


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
