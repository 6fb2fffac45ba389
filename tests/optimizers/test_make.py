"""Laws of what `make` puts around an optimizer: clipping, and float32 for bfloat16 parameters."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bigmodel import optimizers
from bigmodel.config import InputError
from bigmodel.optimizers import OPTIMIZERS, SCHEDULES, make

RATE = 0.05


def constant():
    return SCHEDULES["constant"](10, peak=RATE)


def test_a_second_moment_does_not_stall_in_bfloat16():
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    fields = {"b2": 0.99}
    ours = make(OPTIMIZERS["adam"], constant(), {"kernel": ("embed", "mlp")}, **fields)

    def second_moment(optimizer):
        def step(state, _):
            return optimizer.update(params, state, params)[1], None

        state, _ = jax.lax.scan(step, optimizer.init(params), length=1000)
        return np.asarray(optax.tree.get(state, "nu")["kernel"], np.float32)

    np.testing.assert_allclose(second_moment(ours), 1.0, rtol=1e-3)
    assert np.all(second_moment(optax.adam(RATE, **fields)) < 0.9)  # why `in_float32` is there


@pytest.mark.parametrize("norm", [0.0, 0.5, 3.0])
def test_clipping_is_by_the_norm_of_all_gradients(norm):
    gradient = {"a": np.full((2, 2), 0.4 * norm, np.float32), "b": np.float32(0.6 * norm)}
    ours, _ = optimizers.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    optax_own, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, optax_own)
    np.testing.assert_allclose(optax.tree.norm(ours), min(norm, 1.0), rtol=1e-5)


def test_clipped_adamw_is_three_loops_a_parameter():
    params = {"kernel": jnp.ones((64, 129))}
    optimizer = make(OPTIMIZERS["adamw"], constant(), {"kernel": ("embed", "mlp")}, clip=1.0)

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    entry = str(compiled.as_text()).partition("ENTRY")[2]
    made = re.findall(r"= f32\[64,129\]\S* (\w+)\(", entry)
    assert made.count("fusion") <= 3  # two moments and the parameter
    assert set(made) <= {"fusion", "parameter"}


def test_a_negative_clip_is_refused():
    with pytest.raises(InputError, match=re.escape("optimizer.clip=-1")):
        make(OPTIMIZERS["sgd"], constant(), {}, clip=-1)
