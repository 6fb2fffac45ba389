"""Products with a parameter: the einsum that every projection is, and the embedding table."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import shares
from bigmodel.layers.parameter import parameter

Initializer = jax.nn.initializers.Initializer


class Einsum(nn.Module):
    """y = einsum(equation, x, kernel) + bias, the kernel cut by its logical axis names.

    Attributes:
        equation: for example "BTD,DF->BTF"; the second operand is the kernel.
        shape: the kernel's shape, one length per letter.
        axes: the kernel's logical axes, one name per letter (see sharding/rules.py).
        initializer: of the kernel; None: variance 1 / fan-in, where the letters that the sum
            removes are the fan-in.
        bias_axes: the bias' logical axes, one per output letter of the kernel; None: no bias.
        dtype: dtype of the product.
        param_dtype: dtype of kernel and bias as stored.
        einsum: what computes it, `jnp.einsum` or `flat_einsum`.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    initializer: Initializer | None = None
    bias_axes: tuple[str, ...] | None = None
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32
    einsum: Callable[..., jax.Array] = jnp.einsum

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = self.initializer or self.fan_in()
        kernel = parameter(self, "kernel", self.axes, init, self.shape, self.param_dtype)
        kernel = gathered(kernel.astype(self.dtype), self.axes)
        y = self.einsum(self.equation, x.astype(self.dtype), kernel)
        if self.bias_axes is None:
            return y
        letters, output = self.equation.split(",")[1].split("->")
        shape = tuple(n for n, letter in zip(self.shape, letters, strict=True) if letter in output)
        given = self.bias_axes, nn.initializers.zeros, shape, self.param_dtype
        return y + parameter(self, "bias", *given).astype(self.dtype)

    def fan_in(self) -> Initializer:
        inputs, output = self.equation.split("->")
        x, kernel = inputs.split(",")
        summed = tuple(i for i, axis in enumerate(kernel) if axis not in output)
        shared = tuple(i for i, axis in enumerate(kernel) if axis in output and axis in x)
        rest = tuple(i for i in range(len(kernel)) if i not in summed + shared)
        return nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", in_axis=summed, out_axis=rest, batch_axis=shared
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(kernel: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """A kernel brought together over what cuts the width, just before it is used.

    Left to itself the partitioner sends the parts round in a loop beside their products, which
    moves 9 of them where 7 are missing on 8 devices (v5e, jax 0.10). The gradient is the other way
    round: summed where the kernel is whole, of which each device keeps its part.
    """
    return nn.with_logical_constraint(kernel, whole(axes))


def whole(axes: tuple[str, ...]) -> tuple[str | None, ...]:
    return tuple(None if axis == "embed" else axis for axis in axes)


def gathered_backward(axes: tuple[str, ...], _: None, grad: jax.Array) -> tuple[jax.Array]:
    if "vocab" not in axes:  # of a head or an embedding `shares.total` says when
        grad = nn.with_logical_constraint(grad, whole(axes))
    return (nn.with_logical_constraint(grad, axes),)


gathered.defvjp(lambda kernel, axes: (gathered(kernel, axes), None), gathered_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product_in_float32(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """An einsum whose result is float32; the gradient of x is made in the dtype of x.

    Where the kernel's columns are cut over the mesh, that gradient is summed over devices: made in
    float32 it would be rounded after it was sent, and twice as many bytes would move.
    """
    return jnp.einsum(equation, x, kernel, preferred_element_type=jnp.float32)


def product_backward(equation: str, kept: tuple[jax.Array, jax.Array], grad: jax.Array):
    x, kernel = kept
    in_float32 = functools.partial(jnp.einsum, equation, x, preferred_element_type=jnp.float32)
    of_x = jax.linear_transpose(lambda x: jnp.einsum(equation, x, kernel), x)
    of_kernel = jax.linear_transpose(in_float32, kernel)
    return *of_x(grad.astype(x.dtype)), *of_kernel(grad)


product_in_float32.defvjp(lambda *args: (product_in_float32(*args), args[1:]), product_backward)


def flat_einsum(equation: str, x: jax.Array, kernel: jax.Array, **options) -> jax.Array:
    """`jnp.einsum` of a projection as a product of two matrices, rows and columns merged.

    The gradient of a kernel sums over batch and length. As two axes XLA's CPU compiler first
    writes a transposed copy of what comes from behind; as one it does not (docs/performance.md).
    The sum must be over the last letters of x and either the first or the last of the kernel.
    """
    inputs, output = equation.replace("...", "").split("->")
    letters, of_kernel = inputs.split(",")
    summed = [letter for letter in of_kernel if letter not in output]
    n = len(summed)
    inner_letters = "".join(summed)
    at_an_end = of_kernel.startswith(inner_letters) or of_kernel.endswith(inner_letters)
    if not letters.endswith(inner_letters) or not at_an_end:
        raise ValueError(f"flat_einsum cannot merge the axes of {equation!r}")
    inner = math.prod(x.shape[x.ndim - n :])
    rows = x.reshape(-1, inner)
    if of_kernel.startswith(inner_letters):
        columns, flat, contract = kernel.shape[n:], kernel.reshape(inner, -1), ((1,), (0,))
    else:
        columns, flat, contract = kernel.shape[:-n], kernel.reshape(-1, inner), ((1,), (1,))
    y = jax.lax.dot_general(rows, flat, (contract, ((), ())), **options)
    return y.reshape(*x.shape[: x.ndim - n], *columns)


class Table(nn.Module):
    """Rows of a table by index: table[ids].  int [B, T] -> [B, T, D]

    Attributes:
        rows: V, the number of rows.
        width: D.
        axes: logical axes of the two dimensions.
        initializer: of the table.
        dtype: dtype of what comes out.
        param_dtype: dtype of the table as stored.
    """

    rows: int
    width: int
    axes: tuple[str, str]
    initializer: Initializer
    dtype: jnp.dtype = jnp.bfloat16
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        given = self.axes, self.initializer, (self.rows, self.width), self.param_dtype
        table = parameter(self, "table", *given)
        # A lookup in a table that is cut along its width, for a batch that is cut over the same
        # devices, makes the partitioner replicate everything.
        return looked_up(self.rows, self.axes, gathered(table.astype(self.dtype), self.axes), ids)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def looked_up(rows: int, axes: tuple[str, str], table: jax.Array, ids: jax.Array) -> jax.Array:
    """table[ids]; the gradient of a row, a sum over all places of a share, is made in float32.

    Over devices it is summed in the table's dtype. In bfloat16 a sum of some hundred terms stands
    still, and the commonest token has thousands.
    """
    return jnp.take(table, ids, axis=0)


def looked_up_forward(rows, axes, table, ids):
    return looked_up(rows, axes, table, ids), (ids, jnp.zeros((), table.dtype))


def looked_up_backward(rows, axes, kept, grad):
    ids, zero = kept

    def of_share(ids, grad):
        summed = (
            jnp.zeros((rows, grad.shape[-1]), jnp.float32).at[ids].add(grad.astype(jnp.float32))
        )
        return nn.with_logical_constraint(summed, axes)

    own = shares.of(ids.shape[0], ids.shape[1])
    summed = own.each(of_share)(own.cut(ids), own.cut(grad))
    return shares.total(summed, zero.dtype), None


looked_up.defvjp(looked_up_forward, looked_up_backward)
