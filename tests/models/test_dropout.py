"""Laws of dropout in a whole decoder: masks belong to a row, a layer, a place and a step."""

import jax
import numpy as np
import pytest

from bigmodel import trees
from bigmodel.layers import attention_bands
from tests.models.variants import (
    VOCAB,
    WIDTH,
    T,
    batch,
    gradient_program,
    make,
    outputs_of,
    params,
    shapes,
)

RATES = dict(dropout=0.3, attention_dropout=0.2)


def forward(**more):
    model = make("gpt", **RATES, **more)
    return jax.jit(lambda batch, key: model.apply(params("gpt"), batch, {"dropout": key})["logits"])


def test_dropout_is_fixed_by_its_key_and_other_for_another_step():
    apply, key = forward(), jax.random.key(5)
    first, again, other = (apply(batch(), k) for k in (key, key, jax.random.fold_in(key, 1)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_dropout_happens_only_when_there_is_a_key():
    without = jax.jit(make("gpt", **RATES).apply)(params("gpt"), batch())["logits"]
    np.testing.assert_array_equal(without, outputs_of("gpt", batch())["logits"])


def test_masks_belong_to_rows_in_any_order_and_any_part_of_the_batch():
    apply, key, whole = forward(), jax.random.key(5), batch(rows=4)
    logits = apply(whole, key)
    for rows in (slice(None, None, -1), slice(0, 2), slice(2, 4)):
        part = jax.tree.map(lambda x, rows=rows: x[rows], whole)
        np.testing.assert_allclose(apply(part, key), logits[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "more", [dict(scan=False), dict(attend=attention_bands.chunked)], ids=["unrolled", "chunked"]
)
def test_masks_are_the_same_whatever_runs_the_layers(more):
    key = jax.random.key(5)
    wanted, found = forward()(batch(), key), forward(**more)(batch(), key)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_recomputed_layers_draw_their_masks_again():
    ones = [np.ones((2, T, n), np.float32) * np.arange(n) for n in (WIDTH, VOCAB)]
    given = (params("gpt"), batch(), *ones, jax.random.key(5))
    grads, _ = gradient_program(make("gpt", **RATES))(*given)
    again, _ = gradient_program(make("gpt", remat="full", **RATES))(*given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), again, grads)


def test_each_layer_draws_masks_of_its_own():
    """A stack whose layers add ones, in which one layer at a time is silenced."""
    silent = jax.tree.map(np.zeros_like, params("gpt")["layers"])
    apply = jax.jit(
        lambda layers: make("gpt", dropout=0.5).apply(
            params("gpt") | {"layers": layers}, batch(), {"dropout": jax.random.key(0)}
        )["hidden"]
    )

    def only(layer):
        down = {"bias": np.eye(2, dtype=np.float32)[layer][:, None] * np.ones((2, WIDTH), "f")}
        feedforward = silent["feedforward"] | {"down": silent["feedforward"]["down"] | down}
        return apply(silent | {"feedforward": feedforward})

    assert np.abs(only(0) - only(1)).max() > 0.1


def test_dense_layers_before_experts_draw_masks_of_their_own():
    """Two stacks of one layer, in which one at a time adds ones."""
    model = make("mixtral", dropout=0.5, bias=True, dense_layers=1)
    silent = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(model))
    silent |= {"final_norm": {"scale": np.ones(WIDTH, np.float32)}}
    apply = jax.jit(lambda params: model.apply(params, batch(), {"dropout": jax.random.key(0)}))

    def only(stack):
        one = lambda path, leaf: leaf + (path == f"{stack}/attention/out/bias")  # noqa: E731
        return apply(trees.map_with_path(one, silent))["hidden"]

    assert np.abs(only("layers")).max() > 0.1
    assert np.abs(only("layers") - only("dense_layers")).max() > 0.1
