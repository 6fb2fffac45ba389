"""Laws of the checksum: one flipped bit always shows; the layout never does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.checkpoint import checksums

DTYPES = ["float32", "bfloat16", "float16", "int32", "int8", "uint8", "bool", "float8_e4m3fn"]


def random_array(dtype, shape=(8, 16), seed=0):
    values = np.random.default_rng(seed).integers(-100, 100, shape)
    return jnp.asarray(values % 2 if dtype == "bool" else values).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_shows(dtype):
    x = np.array(random_array(dtype, (4, 8)))
    before = int(checksums.checksum(jnp.asarray(x)))
    raw = x.view(np.uint8)
    for byte in range(raw.size):
        for bit in range(1 if dtype == "bool" else 8):
            raw.reshape(-1)[byte] ^= 1 << bit
            assert int(checksums.checksum(jnp.asarray(x))) != before, (byte, bit)
            raw.reshape(-1)[byte] ^= 1 << bit


@pytest.mark.parametrize("spec", [(), ("a",), (None, "a"), ("a", "b"), (("b", "a"),)], ids=str)
def test_no_mesh_changes_it(spec):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    x = random_array("float32")
    cut = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    assert int(checksums.checksum(cut)) == int(checksums.checksum(x))


def test_cut_arrays_are_not_gathered():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("a",))
    struct = jax.ShapeDtypeStruct(
        (8, 16, 8), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "a"))
    )
    text = checksums.checksum.lower(struct).compile().as_text()
    assert "all-gather" not in str(text)


def test_moved_swapped_and_negated_values_show():
    x = jnp.arange(64, dtype=jnp.float32).reshape(8, 8)
    others = [x[::-1], x.T, x.at[0, 1].set(-1).at[0, 2].set(-2), jnp.roll(x, 1), -x, x * 0, -x * 0]
    sums = {int(checksums.checksum(y)) for y in [x, *others]}
    assert len(sums) == 1 + len(others)


def test_it_is_the_same_number_for_ever():
    assert int(checksums.checksum(jnp.arange(10, dtype=jnp.float32))) == 1245510411
