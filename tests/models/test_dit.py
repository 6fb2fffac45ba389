"""Laws of the diffusion transformer: its start, its blocks in float64, its classes, its counts."""

import functools
import math
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel import config, trees
from bigmodel.layers import modulated
from bigmodel.models import dit, vit
from tests import runs
from tests.models import families

EPSILON = 1e-6


def batch(rows=3):
    return families.FAMILIES["dit"].batch(rows, 0)


def test_at_the_start_nothing_moves():
    """Zero gates make every block the identity, and a zero last product all velocities zero."""
    model = families.make("dit")
    params = meta.unbox(jax.jit(model.init)(jax.random.key(0), model.example))
    assert not np.any(jax.jit(model.apply)(params, batch())["velocity"])

    params["velocity"] = families.params("dit")["velocity"]
    whole = jax.jit(model.apply)(params, batch())["velocity"]
    params["layers"] = {
        name: family if name == "modulation" else jax.tree.map(lambda p: 5 * p + 1, family)
        for name, family in params["layers"].items()
    }
    assert np.abs(whole).max() > 0.1
    np.testing.assert_array_equal(jax.jit(model.apply)(params, batch())["velocity"], whole)


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)


def stated_block(p, x, condition):
    """Peebles and Xie 2023, figure 3, in float64."""
    p = jax.tree.map(lambda leaf: np.float64(leaf), p)
    product = p["modulation"]["product"]
    made = silu(condition) @ product["kernel"] + product["bias"]
    shift, scale, gate, shift2, scale2, gate2 = np.split(made[:, None], 6, axis=-1)

    h = norm(x) * (1 + scale) + shift
    q, k, v = (
        np.einsum("BTD,DHC->BHTC", h, p["attention"][n]["kernel"])
        + p["attention"][n]["bias"][:, None]
        for n in ("query", "key", "value")
    )
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    out = p["attention"]["out"]
    x = x + gate * (np.einsum("BHTC,HCD->BTD", weights @ v, out["kernel"]) + out["bias"])

    h = norm(x) * (1 + scale2) + shift2
    up, down = p["feedforward"]["up"], p["feedforward"]["down"]
    h = h @ up["kernel"] + up["bias"]
    h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return x + gate2 * (h @ down["kernel"] + down["bias"])


def test_a_block_is_what_the_paper_states():
    from bigmodel.models import tower, transformer

    fields = dict(width=16, layers=1, heads=4, norm_epsilon=EPSILON, feedforward="gelu_tanh")
    block = transformer.make_modulated_block(tower.Shape(**fields, dtype="float32"), causal=False)
    assert isinstance(block, modulated.ModulatedBlock)
    params = jax.tree.map(lambda p: p[0], families.params("dit")["layers"])
    draw = np.random.default_rng(1)
    x, condition = draw.normal(size=(2, 5, 16)), draw.normal(size=(2, 16))
    given = (np.float32(x), None, None, None)
    found = block.apply({"params": params}, *given, condition=np.float32(condition))[0]
    np.testing.assert_allclose(found, stated_block(params, x, condition), rtol=1e-4, atol=1e-5)


def test_patches_put_together_are_the_image():
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    for size in (2, 3, 4, 12):
        np.testing.assert_array_equal(vit.unpatchify(vit.patches(images, size), size, 12), images)


@functools.cache
def velocity(**fields):
    model = families.make("dit", **fields)
    return functools.partial(jax.jit(model.apply), families.params("dit"))


def test_a_dropped_class_is_no_class():
    given, none = batch(), batch() | {"labels": np.full(3, 5, np.int32)}
    key = {"dropout": jax.random.key(0)}
    plain = velocity()(given)["velocity"]
    without = velocity()(none)["velocity"]
    assert np.abs(plain - without).max() > 1e-3
    dropped = velocity(class_dropout=1.0)(given, key)["velocity"]
    np.testing.assert_allclose(dropped, without, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(velocity(class_dropout=0.0)(given, key)["velocity"], plain)
    unsaid = {name: array for name, array in given.items() if name != "labels"}
    np.testing.assert_allclose(velocity()(unsaid)["velocity"], without)


def test_classes_are_dropped_at_their_rate_row_by_row():
    rows = 400
    given = {name: np.repeat(array[:1], rows, 0) for name, array in batch(1).items()}
    given["rows"] = np.arange(rows, dtype=np.int32)
    keyed = velocity(class_dropout=0.25)(given, {"dropout": jax.random.key(3)})["velocity"]
    plain = velocity()(batch(1))["velocity"]
    changed = (np.abs(keyed - plain) > 1e-4).any((1, 2, 3))
    assert 0.17 < changed.mean() < 0.33


def test_places_of_a_grid_differ_and_rows_have_half_of_the_width():
    from bigmodel.layers import positions

    table = np.asarray(positions.sinusoids_2d(3, 4, 16)).reshape(3, 4, 16)
    assert len(np.unique(table.reshape(12, 16).round(6), axis=0)) == 12
    np.testing.assert_array_equal(table[:, 0, :8], table[:, 3, :8])
    np.testing.assert_array_equal(table[0, :, 8:], table[2, :, 8:])
    np.testing.assert_allclose(table[2, 3, :4], np.sin(2 * 10_000.0 ** -(np.arange(4) / 4)), 1e-5)


# Peebles and Xie 2023 (arXiv:2212.09748), table 4: millions of parameters. They count the fixed
# positions, and a last product of twice as many numbers, for noise and variance.
PUBLISHED = {"s2": 33, "b2": 130, "l2": 458, "xl2": 675}


def counted(size):
    """Fields of a size, and its parameters."""
    fields = runpy.run_path(str(runs.ROOT / "configs" / "dit.py"))["SIZES"][size]
    model = dit.make(**fields)
    shapes = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
    return fields, trees.count(shapes)


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_size_has_the_published_parameters(size):
    fields, found = counted(size)
    D, outputs, places = fields["width"], 4 * fields["patch"] ** 2, (32 // fields["patch"]) ** 2
    published = found + places * D + outputs * (D + 1)
    assert abs(published / 1e6 - PUBLISHED[size]) < 0.6
    if size == "xl2":  # DiT-XL-2-256x256.pt, as facebookresearch/DiT counts it
        assert published == 675_129_632


@pytest.mark.parametrize("size", ["s4", "s8", "b4", "b8", "l4", "l8", "xl4", "xl8"])
def test_a_size_of_larger_patches_has_larger_products_in_and_out_alone(size):
    fields, found = counted(size)
    base, of_base = counted(size[:-1] + "2")
    assert fields == base | {"patch": int(size[-1])}
    assert found - of_base == 4 * (fields["patch"] ** 2 - 4) * (2 * fields["width"] + 1)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(patch=3), "model.patch = 3 does not divide model.image = 8"),
        (dict(width=18), "model.width = 18.*multiples of 4"),
        (dict(class_dropout=1.5), "model.class_dropout = 1.5.*rate"),
    ],
)
def test_fields_that_make_no_model_are_refused(fields, words):
    with pytest.raises(config.InputError, match=words):
        families.make("dit", **fields)


@pytest.mark.parametrize(
    "arrays, words",
    [
        (dict(images=jnp.zeros((3, 8, 8, 1))), "images are 8 x 8 x 1, and .* is 8 x 8 x 3"),
        (dict(labels=jnp.zeros((3, 5))), "mixed images.*data.mixup"),
    ],
)
def test_batches_of_another_form_are_refused(arrays, words):
    with pytest.raises(config.InputError, match=words):
        families.make("dit").apply(families.params("dit"), batch() | arrays)
