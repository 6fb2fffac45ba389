"""A small training state whose every value follows from its step: what a test can check."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec


class State(flax.struct.PyTreeNode):
    step: jax.Array
    params: dict
    frozen: dict
    opt_state: tuple
    rng: jax.Array
    ema: dict | None


def make(step):
    """The state of a step, as NumPy arrays (and one key)."""

    def noise(seed, *shape):
        return np.random.default_rng([seed, step]).normal(size=shape).astype(np.float32)

    params = {
        "layers": {"up": {"kernel": noise(0, 2, 16, 32)}, "scale": -np.zeros((8, 16), np.float32)},
        "head": noise(1, 16, 8).astype(jnp.bfloat16),
    }
    moments = jax.tree.map(lambda x: x * 2, params)
    return State(
        step=np.int32(step),
        params=params,
        frozen={"mask": np.arange(16) % 3 == 0, "int8": np.arange(-8, 8, dtype=np.int8)},
        opt_state=(optax.ScaleByAdamState(np.int32(step), params, moments), optax.EmptyState()),
        rng=jax.random.key(step),
        ema=None,
    )


def mesh_of(*sizes):
    devices = np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes)
    return jax.sharding.Mesh(devices, ("data", "tensor")[: len(sizes)])


def abstract(mesh):
    """The state's shapes, matrices cut over all axes of the mesh."""

    def place(leaf):
        cut = PartitionSpec(*[None] * (leaf.ndim - 2), *mesh.axis_names)
        spec = cut if leaf.ndim >= 2 else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, make(0))


def on(mesh, step):
    """The state of a step, laid out on a mesh."""
    return jax.tree.map(
        lambda x, like: jax.device_put(x, like.sharding), make(step), abstract(mesh)
    )


def bits(tree):
    """Every leaf as bytes, so that -0.0 and NaN count too."""

    def leaf_bits(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes()

    return jax.tree.map(leaf_bits, tree)
