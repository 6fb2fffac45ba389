"""Laws of a program's costs: what is counted in a trace, what a compiled one holds."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from bigmodel import costs


def test_a_traced_program_counts_loops_branches_and_devices():
    x = jnp.ones((8, 8))
    once = 2 * 8**3

    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    def ragged(x):
        sizes = jnp.array([3, 0, 5])
        return jax.value_and_grad(lambda x: jax.lax.ragged_dot(x, jnp.stack([x] * 3), sizes).sum())(
            x
        )

    def again(x):
        return jax.value_and_grad(lambda x: jax.checkpoint(lambda x: jnp.sin(x @ x))(x).sum())(x)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    sharded = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows)

    assert costs.jaxpr_flops(jax.make_jaxpr(scanned)(x)) == 5 * once
    assert costs.jaxpr_flops(jax.make_jaxpr(jax.jit(branched))(x)) == 2 * once
    assert costs.jaxpr_flops(jax.make_jaxpr(ragged)(x)) == 3 * once  # each row through one of them
    assert costs.jaxpr_flops(jax.make_jaxpr(again)(x)) == 4 * once  # forward twice, backward two
    assert costs.jaxpr_flops(jax.make_jaxpr(sharded)(x)) == 4 * (2 * 2 * 2 * 8)


LOOPS = {  # name -> (trips, function of x)
    "constant bounds": (5, lambda x: jax.lax.fori_loop(0, 5, lambda i, c: c @ c, x)),
    "constant arrays": (
        4,
        lambda x: jax.lax.fori_loop(jnp.int32(2), jnp.int32(6), lambda i, c: c @ c, x),
    ),
    "steps of 2": (3, lambda x: counted(x, 1, lambda s: s[0] < 7, lambda i: i + 2)),
    "steps of 3": (2, lambda x: counted(x, 1, lambda s: s[0] < 7, lambda i: 3 + i)),
    "none": (0, lambda x: counted(x, 7, lambda s: s[0] < 7, lambda i: i + 1)),
    # Of these nothing tells how many.
    "a bound that is computed": (
        1,
        lambda x: jax.lax.fori_loop(0, x[0, 0].astype(int), lambda i, c: c @ c, x),
    ),
    "a condition of the values": (
        1,
        lambda x: counted(x, 0, lambda s: s[1][0, 0] < 7, lambda i: i + 1),
    ),
    "one that ends early": (
        1,
        lambda x: counted(x, 0, lambda s: (s[0] < 7) & (s[1][0, 0] < 7), lambda i: i + 1),
    ),
    "one that doubles": (1, lambda x: counted(x, 1, lambda s: s[0] < 8, lambda i: i * 2)),
    "one that counts down": (1, lambda x: counted(x, 1, lambda s: s[0] < 8, lambda i: i + -1)),
    "fractions": (1, lambda x: counted(x, 0.0, lambda s: s[0] < 0.5, lambda i: i + 0.125)),
}


def counted(x, start, going, following):
    body = lambda state: (following(state[0]), state[1] @ x)  # noqa: E731
    return jax.lax.while_loop(going, body, (start, x))[1]


@pytest.mark.parametrize("name", LOOPS)
def test_a_while_loop_counts_its_trips_where_constants_tell_them(name):
    trips, function = LOOPS[name]
    assert costs.jaxpr_flops(jax.make_jaxpr(function)(jnp.ones((8, 8)))) == trips * 2 * 8**3


def test_a_kernel_counts_nothing():
    def kernel(x, y):
        y[...] = x[...] @ x[...]

    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    program = jax.make_jaxpr(lambda x: pallas.pallas_call(kernel, out_shape=x)(x) @ x)(x)
    assert costs.jaxpr_flops(program) == 2 * 8**3


def test_memory_counts_temporaries_and_donated_arguments():
    def through(x):
        hidden = jnp.sin(x @ x)  # as large as x, and needed whole
        return hidden @ hidden

    x = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    size = 4 * 512**2
    found = costs.memory(jax.jit(through).lower(x).compile())
    assert found["arguments"] == found["outputs"] == size
    assert found["peak"] >= 3 * size

    plain = costs.memory(jax.jit(jnp.sin).lower(x).compile())
    donated = costs.memory(jax.jit(jnp.sin, donate_argnums=0).lower(x).compile())
    assert plain["peak"] == 2 * size
    assert donated["peak"] == donated["aliased"] == size


def test_memory_is_that_of_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows)
    assert costs.memory(jax.jit(jnp.sin).lower(x).compile())["arguments"] == 4 * 64 * 64 / 8


def test_this_machines_matrix_products_have_a_rate():
    assert 1e8 < costs.cpu_matmul_flops(seconds=0.05) < math.inf
