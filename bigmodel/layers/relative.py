"""What a head adds to the score of a query and a key for how far apart they stand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bigmodel.layers.parameter import parameter


class RelativeBias(nn.Module):
    """A learned number for each bucket of distances and each head.  () -> float32 [1, H, T, S]

    Raffel et al. 2020 (arXiv:1910.10683), section 2.1: distances share buckets that widen with
    their logarithm up to a distance beyond which all are one.

    Attributes:
        buckets: N, of all distances; to both sides half of them are of later keys.
        distance: from which on all keys are in the last bucket of their side.
        heads: H.
        causal: whether no query sees a later key: then all buckets are of earlier ones.
        initializer: of the table.
        param_dtype: of the table.
    """

    buckets: int
    distance: int
    heads: int
    causal: bool
    initializer: jax.nn.initializers.Initializer
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, T: int, S: int, offset: jax.Array | int = 0) -> jax.Array:
        """The bias of T queries and S keys; the first query stands at key `offset`."""
        axes, shape = ("positions", "heads"), (self.buckets, self.heads)
        table = parameter(self, "table", axes, self.initializer, shape, self.param_dtype)
        # Each distance is looked up once: [T + S - 1, H], not [T, S, H] whose gradient is a sum of
        # T S terms into N rows.
        apart = jnp.arange(T + S - 1) - (T - 1) - offset
        number = bucket(apart, self.buckets, self.distance, causal=self.causal)
        hit = jax.nn.one_hot(number, self.buckets)
        of_distance = jnp.dot(hit, table.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
        bias = along_diagonals(of_distance.T, T)[None]
        return nn.with_logical_constraint(bias, (None, "act_heads", "length", None))


def bucket(apart: jax.Array, buckets: int, distance: int, *, causal: bool) -> jax.Array:
    """The bucket of a key that stands so many places after the query.  int [...] -> int [...]"""
    own = buckets if causal else buckets // 2
    number = jnp.asarray(of_distances(own, distance))[jnp.clip(jnp.abs(apart), 0, distance)]
    if causal:
        return jnp.where(apart > 0, 0, number)  # unseen
    return jnp.where(apart > 0, own + number, number)


def of_distances(buckets: int, distance: int) -> np.ndarray:
    """The bucket of each distance from 0 to `distance`, int32.

    The first half of N are of one distance each. With E = N / 2 of them, distance n is in bucket
    E + floor((N - E) log(n / E) / log(distance / E)); here in whole numbers, which round nothing.
    """
    exact = buckets // 2
    rest = buckets - exact

    def beyond(n: int) -> int:
        scaled = n**rest
        return sum(
            scaled * exact**k >= distance**k * exact**rest for k in range(1, rest)
        )  # the last k is never reached: buckets end at N - 1

    return np.array([n if n < exact else exact + beyond(n) for n in range(distance + 1)], np.int32)


def along_diagonals(of_distance: jax.Array, T: int) -> jax.Array:
    """[H, T + S - 1] -> [H, T, S]: element (i, j) is that of j - i + T - 1.

    By copying rows one element longer than they are read, so that each starts one further left: a
    gather's gradient would be a scatter.
    """
    H, L = of_distance.shape
    rows = jnp.pad(of_distance, ((0, 0), (0, 1)))
    rows = jnp.broadcast_to(rows[:, None], (H, T, L + 1)).reshape(H, T * (L + 1))
    return rows[:, : T * L].reshape(H, T, L)[:, :, T - 1 :]
