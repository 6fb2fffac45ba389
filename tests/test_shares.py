"""Laws of shares: what a device holds of a batch is one, and their sum is the sum of all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import shares
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules

B, T, D = 8, 16, 4


def of(rows=B, length=T, **sizes):
    mesh = meshes.make(sizes)
    with meshes.use(mesh, rules.table("fsdp_tensor", {}, mesh.axis_names)):
        return shares.of(rows, length), mesh


def batch():
    return jnp.arange(B * T * D, dtype=jnp.float32).reshape(B, T, D)


@pytest.mark.parametrize("parts", [(1, 1), (4, 1), (1, 4), (2, 4)])
def test_what_is_cut_and_joined_is_as_it_was(parts):
    own = shares.Shares((), *parts)
    x = batch()
    assert own.cut(x).shape == (own.number, B // parts[0], T // parts[1], D)
    np.testing.assert_array_equal(own.joined(own.cut(x)), x)
    chunks = jnp.stack([x, 2 * x])
    np.testing.assert_array_equal(own.cut(chunks, axis=1)[1], own.cut(2 * x))
    np.testing.assert_array_equal(own.joined(own.cut(chunks, axis=1), axis=1), chunks)


def test_a_share_is_what_a_device_holds():
    own, mesh = of(data=2, fsdp=2, context=2)
    assert own == shares.Shares(("data", "fsdp", "context"), 4, 2)
    spec = jax.sharding.PartitionSpec(("data", "fsdp"), "context")
    x = batch()
    held = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    for share, device in zip(own.cut(x), mesh.devices.flat, strict=True):
        here = next(s.data for s in held.addressable_shards if s.device == device)
        np.testing.assert_array_equal(share, here)


@pytest.mark.parametrize(
    ("rows", "length", "expected"), [(6, T, (1, 2)), (B, 15, (4, 1)), (1, 1, (1, 1))]
)
def test_what_the_mesh_does_not_divide_is_one_share(rows, length, expected):
    own, _ = of(rows, length, data=2, fsdp=2, context=2)
    assert own[1:] == expected


def test_a_sum_over_shares_is_made_in_its_dtype():
    x = jnp.ones((4, 3)) * 1.001
    assert shares.total(x, jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_allclose(shares.total(x, jnp.float32), x.sum(0))
    text = jax.jit(lambda x: shares.total(x, jnp.bfloat16)).lower(x).as_text()
    assert "reduce" in text
    assert text.count("convert") == 1


def test_within_a_share_no_rule_names_its_axes():
    assert shares.without(("data",), ("data", "fsdp")) == ("fsdp",)
    assert shares.without(("data",), "data") is None
    assert shares.without(("data",), None) is None
