"""Laws of every family's model, over the table of families.py."""

import functools

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel import trees
from bigmodel.models import handle
from bigmodel.optimizers import matrices
from bigmodel.sharding import rules
from tests import tables
from tests.models import shapes
from tests.models.families import FAMILIES, applied, chosen, make, params, program

IN_FLOAT32 = ("logits", "velocity", "reconstructed", "masked")  # whatever the dtype
over_families = pytest.mark.parametrize("name", FAMILIES)

# Of laws that take long `make test` has an encoder, both sides, images, an image beside text, two
# towers and sound.
FIRST = ("bert", "t5", "vit_class", "paligemma", "siglip", "speech_encoder")
over_first_families = pytest.mark.parametrize("name", tables.rows(FAMILIES, FIRST))


def assert_close(found, wanted, tolerance=1e-4):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def batch(name, rows=2, seed=0):
    return FAMILIES[name].batch(rows, seed)


@functools.cache
def gradient(name):
    return program(make(name), name)(params(name), batch(name), None)


@over_first_families
def test_scanned_layers_are_the_unrolled_ones_in_value_and_gradient(name):
    grads, outputs = gradient(name)
    others = program(make(name, scan=False), name)(params(name), batch(name), None)
    jax.tree.map(assert_close, others[1], outputs)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), others[0], grads)


@over_first_families
def test_recomputing_activations_changes_nothing(name):
    grads, outputs = gradient(name)
    others = program(make(name, remat="full"), name)(params(name), batch(name), None)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-5), others[1], outputs)
    jax.tree.map(assert_close, others[0], grads)


@over_first_families
def test_every_parameter_has_a_gradient(name):
    for path, grad in trees.flatten(gradient(name)[0]).items():
        assert np.isfinite(grad).all(), path
        # Without rotation a bias of all keys changes no choice between them.
        assert np.abs(grad).max() > 0 or path.endswith("key/bias"), path


@over_families
def test_optimizers_know_every_stack_of_layers(name):
    """Muon and Adafactor take a kernel layer by layer, whatever its stack is called."""
    model = make(name)
    boxed = trees.flatten(
        jax.eval_shape(model.init, jax.random.key(0), model.example), is_leaf=rules.is_box
    )
    first = [box.names[0] for box in boxed.values() if box.names]
    stacks = [axis for axis in first if axis.endswith("layers")]
    assert stacks
    assert set(stacks) <= set(matrices.STACKS)


@over_families
def test_a_forward_pass_draws_no_parameter(name, monkeypatch):
    shapes.assert_none_is_drawn(make(name), params(name), batch(name), monkeypatch)


@over_families
@pytest.mark.parametrize("of", shapes.LESS)
def test_parameters_of_another_shape_are_refused(name, of):
    others, law = shapes.less(params(name), of)
    with pytest.raises(ValueError, match=law):
        jax.eval_shape(make(name).apply, others, batch(name))


@over_first_families
def test_a_row_does_not_depend_on_the_others(name):
    given = batch(name, rows=3)
    whole = chosen(name, applied(name)(params(name), given))
    for row in range(3):
        alone = {key: array[row : row + 1] for key, array in given.items()}
        found = chosen(name, applied(name)(params(name), alone))
        for one, all_ in zip(found, whole, strict=True):
            assert_close(one[0], all_[row])


@over_first_families
def test_dropout_masks_belong_to_rows(name):
    """Rows in another order, or some of them, draw the masks of their numbers."""
    model, given, key = make(name, dropout=0.3), batch(name, rows=4), jax.random.key(1)
    run, rngs = jax.jit(model.apply), {"dropout": key}
    whole = run(params(name), given, rngs)
    turned = run(params(name), {k: v[::-1] for k, v in given.items()}, rngs)
    plain = run(params(name), given)
    found = (chosen(name, outputs) for outputs in (whole, turned, plain))
    for one, other, dry in zip(*found, strict=True):
        assert_close(other[::-1], one)
        assert np.abs(one - dry).max() > 1e-3


@pytest.mark.parametrize("name", [name for name, case in FAMILIES.items() if case.segments])
def test_what_stands_in_the_padding_changes_nothing(name):
    case = FAMILIES[name]
    segments, padded = case.segments
    given = batch(name)
    real = given[segments] > 0
    assert not real.all()
    draw = np.random.default_rng(9)
    others = dict(given)
    for array in padded:
        noise = draw.permutation(given[array].ravel()).reshape(given[array].shape)
        mask = real.reshape(*real.shape, *[1] * (noise.ndim - real.ndim))
        others[array] = np.where(mask, given[array], noise)
        assert not np.array_equal(others[array], given[array])
    outputs, again = (chosen(name, applied(name)(params(name), b)) for b in (given, others))
    for path, one, other in zip(case.outputs, outputs, again, strict=True):
        if path in case.per_token:
            one, other = np.asarray(one)[real], np.asarray(other)[real]
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


OF_TOKENS = ("tokens", "segments", "positions", "prefix")


@pytest.mark.parametrize("name", [n for n in FAMILIES if make(n).new_cache is not handle.no_tokens])
def test_cached_decoding_is_the_full_forward(name):
    """A prompt at once, and the last two tokens one by one; what else there is comes with it."""
    model, given = make(name), batch(name)
    wanted = applied(name)(params(name), given)["logits"]
    T = given["tokens"].shape[1]
    beside = {key: array for key, array in given.items() if key not in (*OF_TOKENS, "rows")}
    cut = {key: array for key, array in given.items() if key in OF_TOKENS}
    cache = jax.jit(model.new_cache, static_argnums=2)(params(name), given, T)
    for start, stop in ((0, T - 2), (T - 2, T - 1), (T - 1, T)):
        some = {key: array[:, start:stop] for key, array in cut.items()}
        some |= beside if start == 0 else {}
        outputs = applied(name)(params(name), some, cache=cache)
        cache = outputs["cache"]
        real = some.get("segments", np.ones_like(some["tokens"])) > 0
        found, full = np.asarray(outputs["logits"]), np.asarray(wanted[:, start:stop])
        assert_close(found[real], full[real])
    assert int(cache["index"]) == T


@pytest.mark.parametrize("name", [n for n, case in FAMILIES.items() if case.packs])
def test_rows_packed_into_one_are_as_if_alone(name):
    """Two rows without padding, one behind the other, of two documents."""
    case, both = FAMILIES[name], batch(name)
    packed = {}
    for segments, positions, arrays in case.packs:
        T = both[arrays[0]].shape[1]
        both.pop(positions, None)
        both[segments] = np.ones_like(both[arrays[0]])
        packed |= {key: both[key].reshape(1, -1) for key in arrays}
        packed[segments] = np.repeat([[1, 2]], T, axis=1).astype(np.int32)
        packed[positions] = np.tile(np.arange(T, dtype=np.int32), 2)[None]
    assert set(packed) | {"rows"} >= set(both)
    alone, found = (applied(name)(params(name), b)["hidden"] for b in (both, packed))
    assert_close(found[0], alone.reshape(-1, alone.shape[-1]), 1e-5)


@over_first_families
@pytest.mark.parametrize("dtype, param_dtype", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_parameters_are_of_their_dtype_and_outputs_of_the_other(name, dtype, param_dtype):
    model = make(name, dtype=dtype, param_dtype=param_dtype)

    def whole(key):
        made = meta.unbox(model.init(key, model.example))
        return made, model.apply(made, batch(name))

    made, outputs = jax.eval_shape(whole, jax.random.key(0))
    for path, leaf in trees.flatten(made).items():
        assert leaf.dtype == param_dtype, path
    for path, found in zip(FAMILIES[name].outputs, chosen(name, outputs), strict=True):
        exact = any(word in path for word in IN_FLOAT32)
        assert found.dtype == ("float32" if exact else dtype), path
