"""Mixture of experts: many feed-forward layers, of which each token goes through a few."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers.feedforward import ACTIVATIONS, GatedFeedForward
from bigmodel.layers.linear import Initializer
from bigmodel.layers.parameter import parameter
from bigmodel.layers.router import Router, Routes

# compute(x [B, T, D], routes, kernels) -> [B, T, D]
Compute = Callable[[jax.Array, Routes, "Kernels"], jax.Array]


class Kernels(NamedTuple):
    """What the experts are: W_down (f(W_gate x) * W_up x), each.

    Attributes:
        gate: [E, D, F].
        up: [E, D, F].
        down: [E, F, D].
        activation: f, a name of feedforward.ACTIVATIONS.
        room: 0, or tokens of a row that an expert takes.
    """

    gate: jax.Array
    up: jax.Array
    down: jax.Array
    activation: str
    room: int


class Experts(nn.Module):
    """Chosen experts, weighed, and those that all tokens go through.  [B, T, D] -> [B, T, D], sums

    Shazeer et al. 2017 (arXiv:1701.06538), eq. 1; shared experts: Dai et al. 2024, DeepSeekMoE
    (arXiv:2401.06066), section 3.2.

    Attributes:
        experts: E.
        hidden: F of one expert.
        activation: of the gates, a name of feedforward.ACTIVATIONS.
        shared: how many experts, as one layer of so many times F, each token goes through besides.
        router: makes the router, given its name.
        room: tokens of a row of T that an expert takes, 0 for all: a function of T.
        compute: what runs the experts: `dropless`, `with_room`, or these on a mesh.
        initializer: of the kernels that go up.
        out_initializer: of the kernel that comes back.
        dtype: dtype of the arithmetic.
        param_dtype: dtype of the parameters.
        einsum: see `linear.Einsum`.
    """

    experts: int
    hidden: int
    activation: str
    shared: int
    router: Callable[..., Router]
    room: Callable[[int], int]
    compute: Compute
    initializer: Initializer | None
    out_initializer: Initializer | None
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(
        self, x: jax.Array, real: jax.Array | None = None, indices: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        D, E, F = x.shape[-1], self.experts, self.hidden
        routes = self.router(name="router")(x, real, indices)
        up, down = ("experts", "expert_embed", "mlp"), ("experts", "mlp", "expert_embed")
        kernels = Kernels(
            gate=self.kernel("gate", (E, D, F), up, self.initializer),
            up=self.kernel("up", (E, D, F), up, self.initializer),
            down=self.kernel("down", (E, F, D), down, self.out_initializer),
            activation=self.activation,
            room=self.room(x.shape[1]),
        )
        y = self.compute(x.astype(self.dtype), routes, kernels)
        if self.shared:
            y = y + GatedFeedForward(
                hidden=self.shared * F,
                activation=self.activation,
                bias=False,
                initializer=self.initializer,
                out_initializer=self.out_initializer,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                einsum=self.einsum,
                name="shared",
            )(x)
        return y, {"losses": routes.losses, "stats": routes.stats}

    def kernel(
        self, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Initializer | None
    ) -> jax.Array:
        init = init or nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        holder = Kernel(shape, axes, init, self.param_dtype, name=name)
        return holder().astype(self.dtype)


class Kernel(nn.Module):
    """A stack of matrices as a parameter "kernel"."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initializer: Initializer
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self) -> jax.Array:
        return parameter(self, "kernel", self.axes, self.initializer, self.shape, self.param_dtype)


def dropless(x: jax.Array, routes: Routes, kernels: Kernels) -> jax.Array:
    """Every token through all of its experts, sorted by them, in products of ragged groups.

    Gale et al. 2022, MegaBlocks (arXiv:2211.15841).
    """
    (B, T, D), k, E = x.shape, routes.chosen.shape[-1], kernels.gate.shape[0]
    expert = routes.chosen.reshape(-1)
    order = jnp.argsort(expert, stable=True)
    rows = x.reshape(B * T, D)[order // k]
    y = in_groups(rows, jnp.bincount(expert, length=E), kernels)
    return weighed(y[jnp.argsort(order)].reshape(B, T, k, D), routes)


def in_groups(rows: jax.Array, sizes: jax.Array, kernels: Kernels) -> jax.Array:
    """Each group of rows through its expert.  [N, D], group sizes int [E] -> [N, D]"""
    sizes = sizes.astype(jnp.int32)
    gate = checkpoint_name(jax.lax.ragged_dot(rows, kernels.gate, sizes), "gate")
    up = checkpoint_name(jax.lax.ragged_dot(rows, kernels.up, sizes), "up")
    hidden = ACTIVATIONS[kernels.activation](gate) * up
    return jax.lax.ragged_dot(hidden, kernels.down, sizes)


def weighed(y: jax.Array, routes: Routes) -> jax.Array:
    """The sum of a token's experts.  [B, T, k, D] -> [B, T, D]"""
    weights = jnp.where(routes.keep, routes.weights, 0.0)
    return jnp.einsum("BTkD,BTk->BTD", y.astype(jnp.float32), weights).astype(y.dtype)


def with_room(x: jax.Array, routes: Routes, kernels: Kernels) -> jax.Array:
    """Tokens in the slots that experts have for each row; who finds none goes without."""
    slots = Slots.of(routes, kernels.gate.shape[0], kernels.room)
    return weighed(slots.back(of_slots(slots.fill(x), kernels)), routes)


def of_slots(rows: jax.Array, kernels: Kernels) -> jax.Array:
    """Each expert's slots through it.  [B, E, S, D] -> [B, E, S, D]"""
    gate = checkpoint_name(jnp.einsum("BESD,EDF->BESF", rows, kernels.gate), "gate")
    up = checkpoint_name(jnp.einsum("BESD,EDF->BESF", rows, kernels.up), "up")
    hidden = ACTIVATIONS[kernels.activation](gate) * up
    return jnp.einsum("BESF,EFD->BESD", hidden, kernels.down)


class Slots(NamedTuple):
    """Which slot each token has with each of its experts.

    Attributes:
        at: int32 [B, T, k], slots counted through all experts; E S where there is none.
        shape: (E, S).
    """

    at: jax.Array
    shape: tuple[int, int]

    @classmethod
    def of(cls, routes: Routes, experts: int, room: int) -> "Slots":
        """Slots in the order of the tokens; of a row that is cut, each device counts its own."""
        B, T, k = routes.chosen.shape
        S = min(room, T)
        kept = (routes.chosen[..., None] == jnp.arange(experts)) & routes.keep[..., None]
        kept = kept.any(-2).astype(jnp.int32)
        before = jnp.take_along_axis(jnp.cumsum(kept, axis=1) - kept, routes.chosen, axis=-1)
        at = jnp.where(routes.keep, routes.chosen * S + before, experts * S)
        return cls(at, (experts, S))

    def fill(self, x: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, E, S, D], zeros where nobody is."""
        (B, T, k), (E, S) = self.at.shape, self.shape

        def of_row(x, at):
            token = jnp.full((E * S + 1,), T, jnp.int32)
            token = token.at[at.reshape(-1)].set(jnp.repeat(jnp.arange(T, dtype=jnp.int32), k))
            return jnp.take(x, token[:-1], axis=0, mode="fill", fill_value=0)

        return jax.vmap(of_row)(x, self.at).reshape(B, E, S, -1)

    def back(self, y: jax.Array) -> jax.Array:
        """[B, E, S, D] -> [B, T, k, D], zeros for those without a slot."""
        rows = y.reshape(y.shape[0], -1, y.shape[-1])
        take = jax.vmap(lambda y, at: jnp.take(y, at, axis=0, mode="fill", fill_value=0))
        return take(rows, self.at)
