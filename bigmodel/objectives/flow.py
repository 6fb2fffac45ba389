"""Flow matching: a model learns which way leads from data to noise."""

from typing import Any

import jax
import jax.numpy as jnp

from bigmodel import config
from bigmodel.objectives.contract import Objective, rngs, weights_of

# Numbers of the draws of a row, far from those of layers (`layers.dropout.row_keys`).
TIME, NOISE = 2**30, 2**30 + 1
GOLDEN = 2654435769  # the golden ratio's inverse in parts of 2^32
TIMES = ("uniform", "logit_normal")


def flow_matching(
    model: Any, *, time: str = "logit_normal", time_mean: float = 0.0, time_std: float = 1.0
) -> Objective:
    """Squared error of the velocity on the straight way from an image to noise, given `velocity`.

    x_t = (1 - t) x + t e, with e of a normal distribution; the velocity is dx_t/dt = e - x, and
    loss = sum over rows of w mean over pixels of (velocity(x_t, t) - (e - x))^2. Time 0 is data
    and time 1 is noise. Lipman et al. 2023 (arXiv:2210.02747), eq. 23, with the time the other way
    round; Liu et al. 2023 (arXiv:2209.03003), eq. 1; Esser et al. 2024 (arXiv:2403.03206), eq. 13.

    Where nothing is random (evaluation), rows have fixed noise and fixed times, by their numbers:
    multiples of the golden ratio, which spread evenly over however many rows there are.

    Args:
        model: a handle (models/handle.py); it gets x_t as `images` and t as `noise_time` [B].
        time: how t is distributed, "uniform", or "logit_normal": that of 1 / (1 + e^-u) with u of
            a normal distribution (Esser et al. 2024, eq. 19).
        time_mean: of u.
        time_std: of u.

    Returns:
        An objective whose sum is `weight` (rows that count).
    """
    config.known("objective.time", time, TIMES)
    if not time_std > 0:
        raise config.InputError(f"objective.time_std = {time_std}: must be above 0.")

    def objective(params, batch, rng):
        images = batch["images"]
        B = images.shape[0]
        rows = batch.get("rows", jnp.arange(B))
        weights = weights_of(batch, (B,))
        share = shares_of_one(rng, rows)
        t = share if time == "uniform" else logit_normal(share, time_mean, time_std)
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(
            keys_of(jax.random.key(0) if rng is None else rng, NOISE, rows)
        )
        at = t[:, None, None, None]
        given = {**batch, "images": (1 - at) * images + at * noise, "noise_time": t}
        found = model.apply(params, given, rngs=rngs(rng))["velocity"]
        error = jnp.square(found - (noise - images)).mean((1, 2, 3))
        return (error * weights).sum(), {"weight": weights.sum()}

    return objective


def shares_of_one(rng: jax.Array | None, rows: jax.Array) -> jax.Array:
    """A number in [0, 1) for each row, drawn, or without a key spread evenly.  float32 [B]"""
    if rng is None:
        parts = (rows + 1).astype(jnp.uint32) * jnp.uint32(GOLDEN)
        return (parts >> 8).astype(jnp.float32) / 2**24
    return jax.vmap(jax.random.uniform)(keys_of(rng, TIME, rows))


def logit_normal(share: jax.Array, mean: float, std: float) -> jax.Array:
    """What so large a share of the times is less than: the quantile of the distribution."""
    return jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(share))


def keys_of(rng: jax.Array, draw: int, rows: jax.Array) -> jax.Array:
    """One key for each row [B], of one of the draws: whatever the mesh and the other rows."""
    key = jax.random.fold_in(rng, draw)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
