"""What makes the parameters of layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers import stack
from bigmodel.layers.parameter import parameter

ZEROS = nn.initializers.zeros


class Twice(nn.Module):
    """Two parameters of one name."""

    @nn.compact
    def __call__(self):
        for _ in range(2):
            parameter(self, "kernel", ("embed",), ZEROS, (3,), "float32")


class Stacks(nn.Module):
    """Two stacks of one name."""

    @nn.compact
    def __call__(self):
        for _ in range(2):
            stack.parameter(self, "layers", One(), 2)


class One(nn.Module):
    """One parameter, its shape a list."""

    @nn.compact
    def __call__(self):
        return parameter(self, "kernel", ("embed",), ZEROS, [3], jnp.float32)


@pytest.mark.parametrize("module", [Twice, Stacks])
def test_two_of_one_name_are_refused(module):
    with pytest.raises(nn.module.errors.NameInUseError):
        jax.eval_shape(module().init, jax.random.key(0))


def test_it_is_drawn_in_a_box_and_read_as_it_is():
    made = One().init(jax.random.key(0))["params"]
    assert made["kernel"].names == ("embed",)
    for given in (np.arange(3.0), made["kernel"].replace(value=np.arange(3.0))):
        np.testing.assert_array_equal(One().apply({"params": {"kernel": given}}), np.arange(3.0))
