"""Which experts a token goes to, with what weights, and what that costs in balance."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers.linear import Initializer
from bigmodel.layers.parameter import parameter

SCORES = ("softmax", "sigmoid")


class Routes(NamedTuple):
    """Where the tokens of a batch go.

    Attributes:
        chosen: int32 [B, T, k], experts, the best first.
        weights: float32 [B, T, k], of their outputs.
        keep: bool [B, T, k]; False where a token is padding or an expert has no room for it.
        losses: sums over tokens: "balance", "router_z".
        stats: sums over tokens: "load" [E], how many chose an expert; "dropped", for lack of room.
    """

    chosen: jax.Array
    weights: jax.Array
    keep: jax.Array
    losses: dict[str, jax.Array]
    stats: dict[str, jax.Array]


class Router(nn.Module):
    """Scores each token's experts and takes the best.  [B, T, D] -> `Routes`

    softmax: Shazeer et al. 2017 (arXiv:1701.06538); sigmoid, groups and the balance that is a bias
    of the choice alone: DeepSeek-AI 2024 (arXiv:2412.19437), section 2.1.2.

    Attributes:
        experts: E.
        chosen: k, experts of a token.
        scores: "softmax" over all experts, or "sigmoid" of each.
        normalize: whether the weights of a token's experts are made to sum to one.
        scale: of the weights.
        balance: whether there is a bias that only the choice sees. Its gradient is how much more
            than the mean an expert is loaded; the optimizer takes its sign (optimizers/__init__).
        groups: 0, or of how many groups of experts some are chosen first, by their two best.
        groups_chosen: how many of them.
        capacity: 0: room for all; else an expert takes of each row at most this many times its
            even share, the earlier tokens first.
        initializer: of the kernel.
        param_dtype: dtype of the kernel; the bias, which moves by little, and the arithmetic are
            float32.
    """

    experts: int
    chosen: int
    scores: str
    normalize: bool
    scale: float
    balance: bool
    groups: int
    groups_chosen: int
    capacity: float
    initializer: Initializer | None
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, real: jax.Array | None, indices: jax.Array | None = None
    ) -> Routes:
        D, E = x.shape[-1], self.experts
        init = self.initializer or nn.initializers.lecun_normal()
        axes = ("router_embed", "router")
        kernel = parameter(self, "kernel", axes, init, (D, E), self.param_dtype)
        logits = jnp.einsum("BTD,DE->BTE", x.astype(jnp.float32), kernel.astype(jnp.float32))
        scores = jax.nn.softmax(logits) if self.scores == "softmax" else jax.nn.sigmoid(logits)

        ranked = scores
        if self.balance:
            zeros = nn.initializers.zeros
            bias = parameter(self, "balance", ("router",), zeros, (E,), jnp.float32)
            ranked = scores + jax.lax.stop_gradient(bias)
        chosen = jax.lax.top_k(self.of_groups(ranked), self.chosen)[1]
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdims=True)

        real = jnp.ones(x.shape[:2], bool) if real is None else real
        hits = (chosen[..., None] == jnp.arange(E)).any(-2) & real[..., None]  # [B, T, E]
        keep = jnp.broadcast_to(real[..., None], chosen.shape)
        if self.capacity:
            room = capacity_of(x.shape[1], E, self.chosen, self.capacity)
            keep = keep & (ranks(hits, chosen, indices) < room)
        losses = {
            "balance": balance_loss(scores, hits, real, self.chosen),
            "router_z": (jnp.square(jax.nn.logsumexp(logits, -1)) * real).sum(),
        }
        load = hits.sum((0, 1)).astype(jnp.float32)
        if self.balance:  # its value is zero, its gradient what the bias should fall by
            steering = (bias * jax.lax.stop_gradient(load - load.mean())).sum()
            losses["steering"] = steering - jax.lax.stop_gradient(steering)
        dropped = (real[..., None] & ~keep).sum().astype(jnp.float32)
        stats = {"load": load, "dropped": dropped}
        return Routes(chosen, weights * self.scale, keep, losses, stats)

    def of_groups(self, ranked: jax.Array) -> jax.Array:
        """The scores, those of groups that are not chosen made too low to be taken."""
        if not self.groups:
            return ranked
        in_groups = ranked.reshape(*ranked.shape[:-1], self.groups, -1)
        of_group = jax.lax.top_k(in_groups, min(2, in_groups.shape[-1]))[0].sum(-1)
        best = jax.lax.top_k(of_group, self.groups_chosen)[1]
        allowed = (best[..., None] == jnp.arange(self.groups)).any(-2)
        return jnp.where(allowed[..., None], in_groups, -jnp.inf).reshape(ranked.shape)


def capacity_of(length: int, experts: int, chosen: int, factor: float) -> int:
    """Tokens of a row that an expert has room for."""
    return min(length, math.ceil(factor * length * chosen / experts))


def ranks(hits: jax.Array, chosen: jax.Array, indices: jax.Array | None) -> jax.Array:
    """How many earlier tokens of its row chose the same expert.  int32 [B, T, k]

    Earlier by the index in the row, in whatever order the row lies on the mesh: what is counted is
    one small integer for each token and expert, and brought together over the length.
    """
    hits = nn.with_logical_constraint(hits.astype(jnp.int32), ("batch", None, None))
    if indices is None:
        before = jnp.cumsum(hits, axis=1) - hits
    else:
        indices = jnp.broadcast_to(indices, hits.shape[:2])
        in_order = jnp.take_along_axis(hits, jnp.argsort(indices, axis=1)[..., None], axis=1)
        before = jnp.cumsum(in_order, axis=1) - in_order
        before = jnp.take_along_axis(before, indices[..., None], axis=1)
    return jnp.take_along_axis(before, chosen, axis=-1)


def balance_loss(scores: jax.Array, hits: jax.Array, real: jax.Array, chosen: int) -> jax.Array:
    """n E / k sum_e f_e P_e for each row, summed: n of a balanced router.

    f_e is the share of the row's n tokens that chose expert e, P_e their mean probability. Fedus et
    al. 2021, Switch (arXiv:2101.03961), eq. 4, by row: as a product of means over the batch it
    would depend on how the batch is cut.
    """
    E = scores.shape[-1]
    probabilities = scores / scores.sum(-1, keepdims=True) * real[..., None]
    n = jnp.maximum(real.sum(1).astype(jnp.float32), 1.0)  # [B]
    f, P = hits.sum(1) / n[:, None], probabilities.sum(1) / n[:, None]
    return (n * E / chosen * (f * P).sum(-1)).sum()
