"""Maximal update parametrisation: first weights and rates of a width, from those of another.

Yang et al. 2022, "Tensor Programs V" (arXiv:2203.03466), table 3: with r the growth of a kernel's
fan-in against the base model, and of its fan-out,

                              first weights' deviation     rate of Adam
fan-in grows, fan-out too     r^-1/2                       r^-1
fan-in grows alone            r^-1                         r^-1
fan-in does not grow          1                            1

and tables, biases and norms as where no fan-in grows. Muon's updates have a norm that grows as the
square root of the longer side; here it grows as (fan-out / fan-in)^1/2 (Yang, Simon and Bernstein
2023, arXiv:2310.17813, condition 1). Rate times decay is that of the base model everywhere.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bigmodel import trees
from bigmodel.config import InputError
from bigmodel.optimizers import matrices

# Axes that a model's width makes longer; all others are of what it is told and tells.
WIDTHS = (
    *("embed", "norm", "mlp", "heads", "kv_heads", "head_dim", "latent"),
    *("expert_embed", "router_embed"),
)

ADAM, MUON = "adam", "muon"
OPTIMIZERS = {"adam": ADAM, "adamw": ADAM, "lion": ADAM, "muon": MUON}


class Growth(NamedTuple):
    """How much longer the sides of a parameter's matrix are than the base model's.

    Attributes:
        fan_in, fan_out: of a kernel; of all else 1 and 1.
        longer: of the longer side.
        hidden: whether it is a matrix of a stack of layers.
    """

    fan_in: float = 1.0
    fan_out: float = 1.0
    longer: float = 1.0
    hidden: bool = False

    @property
    def deviation(self) -> float:
        """Of the first weights, against the base's."""
        return self.fan_in ** (-0.5 if self.fan_out != 1 else -1.0)

    def rate(self, optimizer: str) -> float:
        """Of an update, against the base's, by the kind of optimizer that makes it."""
        if optimizer == MUON and self.hidden:
            return math.sqrt(self.fan_out / self.fan_in / self.longer)
        return 1 / self.fan_in


def growth(path: str, axes: matrices.Axes, shape: tuple[int, ...], base: tuple[int, ...]) -> Growth:
    """Of one parameter.

    Raises:
        InputError: the base differs in more than widths, or not in all of them.
    """
    differ = {axis for axis, n, before in zip(axes, shape, base, strict=True) if n != before}
    if others := differ - {*WIDTHS}:
        raise InputError(
            f"mup: {path} is {list(shape)}, of the base model {list(base)}; models may differ in "
            f"widths, not in {', '.join(sorted(map(str, others)))}."
        )
    if differ == {"embed"} and "mlp" in axes:
        raise InputError(
            f"mup: {path} is {list(shape)}, of the base model {list(base)}; what is inside of the "
            "feed-forward layers grows as the width does: name it too, as by mup.hidden."
        )
    if path.split("/")[-1] != "kernel":
        return Growth()
    sides = matrices.sides(axes)
    now, then = ([math.prod(of[dim] for dim in side) for side in sides] for of in (shape, base))
    grown = [n / before for n, before in zip(now, then, strict=True)]
    hidden = bool(matrices.stacked(axes)) and len(sides) == 2
    return Growth(math.prod(grown[:-1]), grown[-1], max(now) / max(then), hidden)


def rates(grown: Mapping[str, Growth], optimizer: str) -> dict[str, float]:
    """Path -> factor of the rate, of those whose factor is not 1.

    Raises:
        InputError: an optimizer for which the table has no line.
    """
    if optimizer not in OPTIMIZERS:
        raise InputError(
            f"mup: of the optimizer {optimizer!r} no rule is known; allowed are "
            f"{', '.join(OPTIMIZERS)}."
        )
    found = {path: one.rate(OPTIMIZERS[optimizer]) for path, one in grown.items()}
    return {path: factor for path, factor in found.items() if factor != 1.0}


def with_rates(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformation:
    """The optimizer with each parameter's update times a factor, and its decay as it is.

    Decay is a multiple of the parameter, which the optimizer is shown divided by the factor.
    """

    def update(updates, state, params):
        shown = trees.map_with_path(lambda path, p: p / factors.get(path, 1.0), params)
        steps, state = optimizer.update(updates, state, shown)
        return trees.map_with_path(lambda path, s: s * factors.get(path, 1.0), steps), state

    return optax.GradientTransformation(optimizer.init, update)


def first_weights(
    init: Callable[[], Any],
    base: Callable[[], Any],
    grown: Mapping[str, Growth],
    is_leaf: Callable[[Any], bool],
) -> Any:
    """A model's first parameters, with the deviations that table 3 makes of the base's.

    Args:
        init: gives the model's own, whatever its initializers are.
        base: gives the base model's.
        grown: of each parameter.
        is_leaf: whether a node is the box of a parameter.
    """
    narrow = trees.flatten(base(), is_leaf)

    def scaled(path: str, box: Any) -> Any:
        if box.value.shape == narrow[path].value.shape:
            return box
        leaf, wanted = box.value, rms(narrow[path].value) * grown[path].deviation
        factor = wanted / jnp.maximum(rms(leaf), 1e-30)  # of a head that begins at 0 any does
        return box.replace_boxed((leaf * factor).astype(leaf.dtype))

    return trees.map_with_path(scaled, init(), is_leaf=is_leaf)


def rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))
