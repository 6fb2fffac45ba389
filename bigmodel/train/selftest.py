"""Devices that multiply wrong: each runs a chain of products whose end is known."""

import functools
import socket
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec


class Chain(NamedTuple):
    """Matrices of small whole numbers, multiplied, and brought back to small ones, again and again.

    All sums are exact in float32, and all factors in bfloat16 and in TF32: every order of summation
    and every unit that multiplies gives the same numbers, and one wrong bit spoils a row.

    Attributes:
        size: of the square matrices.
        blocks: copies of the left one, so that all cores of a device have some; all end alike.
        products: one after another.
    """

    size: int
    blocks: int
    products: int


ON_CPU, ELSEWHERE = Chain(64, 1, 16), Chain(512, 16, 64)
MODULUS = 17  # factors from -8 to 8: 512 products of two of them are at most 2^15
DTYPES = (jnp.bfloat16, jnp.float32)


def faulty_devices() -> list[str]:
    """Names of this process's devices whose chain does not end as NumPy's, by host and id."""
    devices = jax.local_devices()
    chain = ON_CPU if devices[0].platform == "cpu" else ELSEWHERE
    end = known(chain)[-1]
    return [name(device) for device, found in run(devices, chain).items() if (found != end).any()]


def run(devices: Sequence[jax.Device], chain: Chain) -> dict[jax.Device, np.ndarray]:
    """The end of the chain on each device, int8 [dtypes, blocks, size, size]; one program."""
    mesh = jax.sharding.Mesh(np.array(devices), ("device",))
    everywhere, each = PartitionSpec(), PartitionSpec("device")
    mapped = jax.shard_map(
        functools.partial(multiply, chain=chain), mesh=mesh, in_specs=everywhere, out_specs=each
    )
    with jax.set_mesh(mesh):  # there may be another one, over more devices
        given = jax.device_put(known(chain)[:2], jax.sharding.NamedSharding(mesh, everywhere))
        ends = jax.jit(mapped)(*given)
    return {part.device: jax.device_get(part.data) for part in ends.addressable_shards}


def multiply(left: jax.Array, right: jax.Array, *, chain: Chain) -> jax.Array:
    def product(x, dtype):
        x, w = x.astype(dtype), right.astype(dtype)
        y = jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(jnp.int32)
        return (y % MODULUS - MODULUS // 2).astype(jnp.int8)

    def chained(dtype):
        x = jnp.tile(left, (chain.blocks, 1))
        x = jax.lax.fori_loop(0, chain.products, lambda _, x: product(x, dtype), x)
        return x.reshape(chain.blocks, chain.size, chain.size)

    return jnp.stack([chained(dtype) for dtype in DTYPES])


@functools.cache
def known(chain: Chain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first matrices, int8, and the end of their chain by NumPy."""
    draw = np.random.default_rng(0)
    most, shape = MODULUS // 2, (chain.size, chain.size)
    left, right = draw.integers(-most, most, (2, *shape), np.int8, endpoint=True)
    x, w = left, right.astype(np.float64)
    for _ in range(chain.products):
        x = ((x @ w) % MODULUS - most).astype(np.int8)
    return left, right, x


def name(device: jax.Device) -> str:
    kind = device.device_kind
    return f"{socket.gethostname()}, process {device.process_index}, device {device.id} ({kind})"
