"""Laws of the two kinds of parameters: products and tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel.layers.linear import Einsum, Table

# equation, shape of x, shape of the kernel, its fan-in, shape of its bias
PRODUCTS = [
    ("BTD,DF->BTF", (2, 3, 64), (64, 96), 64, (96,)),
    ("BTD,DHC->BTHC", (2, 3, 64), (64, 4, 24), 64, (4, 24)),
    ("BTHC,HCD->BTD", (2, 3, 4, 24), (4, 24, 64), 96, (64,)),
    ("BTED,EDF->BTEF", (2, 3, 5, 64), (5, 64, 32), 64, (5, 32)),
]
over_products = pytest.mark.parametrize("equation, x_shape, shape, fan_in, bias_shape", PRODUCTS)


def made(equation, x_shape, shape, bias_axes, dtype=jnp.float32):
    axes = tuple(equation.split(",")[1].split("->")[0])
    product = Einsum(equation, shape, axes, bias_axes=bias_axes, dtype=dtype)
    x = np.random.default_rng(0).normal(size=x_shape).astype(np.float32)
    return product, product.init(jax.random.key(0), x)["params"], x


@over_products
def test_a_kernel_starts_with_variance_one_by_what_the_sum_removes(
    equation, x_shape, shape, fan_in, bias_shape
):
    _, params, _ = made(equation, x_shape, shape, None)
    assert params["kernel"].names == tuple(equation.split(",")[1].split("->")[0])
    kernel = params["kernel"].value
    assert kernel.shape == shape
    assert kernel.var() * fan_in == pytest.approx(1.0, rel=0.08)
    assert np.abs(kernel).max() < 2.3 * fan_in**-0.5  # cut off at two deviations


@over_products
def test_a_product_is_its_equation_and_a_bias_is_added(
    equation, x_shape, shape, fan_in, bias_shape
):
    product, params, x = made(equation, x_shape, shape, ("b",) * len(bias_shape))
    params = meta.unbox(params)
    assert params["bias"].shape == bias_shape
    assert (params["bias"] == 0).all()
    params["bias"] += np.arange(np.prod(bias_shape)).reshape(bias_shape)
    wanted = np.einsum(equation, x.astype(np.float64), params["kernel"]) + params["bias"]
    found = product.apply({"params": params}, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_parameters_keep_their_dtype_and_products_have_the_other():
    product, params, x = made(*PRODUCTS[0][:3], None, dtype=jnp.bfloat16)
    assert params["kernel"].value.dtype == jnp.float32
    assert product.apply({"params": meta.unbox(params)}, x).dtype == jnp.bfloat16


def test_a_table_gives_its_rows():
    table = Table(7, 4, ("vocab", "embed"), jax.nn.initializers.normal(1.0), dtype=jnp.float32)
    ids = np.array([[3, 0], [6, 3]])
    params = meta.unbox(table.init(jax.random.key(0), ids)["params"])
    np.testing.assert_array_equal(table.apply({"params": params}, ids), params["table"][ids])


def test_the_gradient_of_a_row_that_many_places_read_is_whole():
    table = Table(3, 4, ("vocab", "embed"), jax.nn.initializers.ones, dtype=jnp.bfloat16)
    ids = jnp.zeros((8, 512), jnp.int32).at[0, 0].set(2)
    params = table.init(jax.random.key(0), ids)
    grads = jax.jit(jax.grad(lambda p: table.apply(p, ids).astype(jnp.float32).sum()))(params)
    found = meta.unbox(grads)["params"]["table"][:, 0]
    # bfloat16 has eight bits: a sum of ones in it would stay at 256.
    np.testing.assert_allclose(found, [4095, 0, 1], rtol=2**-8)
