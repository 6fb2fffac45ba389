"""A checksum of an array's bits that no mesh, layout or order of summation can change."""

import math

import jax
import jax.numpy as jnp
import numpy as np

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by itemsize


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
    """Sum over elements of a scrambled (bits, position), modulo 2^32.  [...] -> [] uint32

    For a given position the scramble is a bijection of the bits, so a change of one element
    always shows; any other damage goes unseen once in 2^32. Integer addition has no rounding:
    each device adds up its own part, one number per array crosses the network.

    Scramble: Wellons 2018, "Prospecting for hash functions" (lowbias32).
    """
    return scrambled(jax.device_put(x, jax.memory.Space.Device))  # it may be the host's


def scrambled(x: jax.Array) -> jax.Array:
    """`checksum` within a program, of what is on the device."""
    bits = words(x)
    h = bits + positions(bits.shape) * np.uint32(0x9E3779B1)
    h = (h ^ (h >> 16)) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> 15)) * np.uint32(0x846CA68B)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def words(x: jax.Array) -> jax.Array:
    """The bits of each element, as uint32; 64-bit elements become two words on a last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.stack([words(x.real), words(x.imag)])
    if x.dtype in (jnp.int4, jnp.uint4):
        return (x.astype(jnp.int32) & 0xF).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)


def positions(shape: tuple[int, ...]) -> jax.Array:
    """Row-major index of each element, modulo 2^32; made where the element lies."""
    strides = [math.prod(shape[axis + 1 :]) % 2**32 for axis in range(len(shape))]
    index = jnp.zeros(shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
    return index
