"""Laws of the decoder, over a table of every published kind (variants.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel import trees
from tests import tables
from tests.models import shapes
from tests.models.variants import (
    VARIANTS,
    VOCAB,
    WIDTH,
    T,
    batch,
    gradient_program,
    make,
    of_documents,
    outputs_of,
    params,
    program,
)

over_variants = pytest.mark.parametrize("name", VARIANTS)
# Of laws of gradients, which take long, `make test` has these, `make test-families` all.
FIRST = ("gpt", "mistral", "gemma3", "original", "mixtral_room", "deepseek")
over_first_variants = pytest.mark.parametrize("name", tables.rows(VARIANTS, FIRST))


def assert_close(found, wanted, tolerance=1e-4):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def weights(shape=(2, T)):
    """Of a sum in which no position or element cancels another."""
    draw = np.random.default_rng(1)
    return [draw.normal(size=(*shape, n)).astype(np.float32) for n in (WIDTH, VOCAB)]


@functools.cache
def gradient(name):
    grads, outputs = program(name)(params(name), batch(), *weights())
    return outputs["logits"], grads


@over_first_variants
def test_no_gradient_flows_back_from_a_later_token(name):
    """d hidden[t] / d embedding of token s is zero exactly where s > t."""
    given = batch() | {"tokens": np.arange(2 * T, dtype=np.int32).reshape(2, T)}  # each token once
    of_hidden, of_logits = weights()
    strength = np.zeros((T, T))
    for t in range(T):
        at_t = (np.arange(T) == t)[None, :, None]
        grads, _ = program(name)(params(name), given, of_hidden * at_t, 0 * of_logits)
        strength[t] = np.abs(grads["embed"]["table"][:T]).sum(-1)
    reach = np.tril(np.ones((T, T), bool))
    if name == "mistral":  # three layers that see two tokens back each
        reach &= np.triu(np.ones((T, T), bool), -6)
    assert (strength[~reach] == 0).all()
    assert (strength[reach] > 0).all()


@over_variants
@pytest.mark.parametrize("of", shapes.LESS)
def test_parameters_of_another_shape_are_refused(name, of):
    others, law = shapes.less(params(name), of)
    with pytest.raises(ValueError, match=law):
        jax.eval_shape(make(name).apply, others, batch())


@over_variants
def test_a_forward_pass_draws_no_parameter(name, monkeypatch):
    shapes.assert_none_is_drawn(make(name), params(name), batch(), monkeypatch)


@over_variants
def test_no_value_depends_on_a_later_token(name):
    """Gradients do not see choices: later tokens might take the experts, or the room in them."""
    given = batch()
    whole = outputs_of(name, given)["logits"]
    for t in (1, 5, T - 1):
        later = np.arange(T) >= t
        others = outputs_of(name, given | {"tokens": np.where(later, 3, given["tokens"])})["logits"]
        assert_close(others[:, :t], whole[:, :t], 1e-5)


@over_first_variants
def test_scanned_layers_are_the_unrolled_ones_in_value_and_gradient(name):
    grads, outputs = program(name)(params(name), batch(), *weights())
    unrolled = gradient_program(make(name, scan=False))
    other_grads, others = unrolled(params(name), batch(), *weights())
    assert set(outputs) == set(others)
    jax.tree.map(assert_close, others, outputs)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), other_grads, grads)


@over_first_variants
def test_every_parameter_has_a_gradient(name):
    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(name)[1]):
        assert np.isfinite(grad).all(), path
        of_key_bias = [key.key for key in path[-2:]] == ["key", "bias"]
        # Without rotation a bias of all keys changes no choice between them.
        assert np.abs(grad).max() > 0 or of_key_bias, path


@pytest.mark.parametrize(
    "name, more",
    [
        ("gpt", dict(remat="full")),
        ("gpt", dict(remat="dots")),
        ("gpt", dict(remat="attention")),
        ("gpt", dict(remat="names", remat_save=("attention", "up"))),
        ("gpt", dict(remat="full", scan=False)),
        ("mixtral_room", dict(remat="full")),
        ("deepseek", dict(remat="names", remat_save=("key_value", "gate"))),
    ],
    ids=str,
)
def test_recomputing_activations_changes_nothing(name, more):
    logits, grads = gradient(name)
    again = gradient_program(make(name, **more))
    other_grads, outputs = again(params(name), batch(), *weights())
    assert_close(outputs["logits"], logits, 1e-5)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-4), other_grads, grads)


def kept_bytes(**more):
    """What is kept of six layers between the way forward and the way back."""
    model, values = make("gpt", layers=6, **more), params("gpt")

    def pullback(layers):
        run = lambda layers: model.apply(values | {"layers": layers}, batch(rows=8))["hidden"]  # noqa: E731
        return jax.vjp(run, layers)[1]

    stack = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), values["layers"])
    kept = jax.tree.leaves(jax.eval_shape(pullback, stack))
    return sum(x.size * x.dtype.itemsize for x in kept)


def test_policies_keep_less_the_more_they_recompute():
    kept = {policy: kept_bytes(remat=policy) for policy in ("none", "attention", "dots", "full")}
    kept["names"] = kept_bytes(remat="names", remat_save=("attention",))
    assert kept["none"] > kept["attention"] > kept["dots"] > kept["names"] > kept["full"]


# Not with room: documents of a row share the room that its experts have for it.
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "mixtral_room"])
def test_packed_documents_are_as_if_alone(name):
    documents = [np.arange(5) + 2, np.arange(7)[::-1] + 9]
    packed = outputs_of(name, of_documents([documents, documents[::-1]]))["logits"]
    alone = outputs_of(name, of_documents([documents[:1], documents[1:]]))["logits"]
    assert_close(packed[0, :5], alone[0, :5])
    assert_close(packed[0, 5:], alone[1, :7])
    assert_close(packed[1, :7], alone[1, :7])
    assert_close(packed[1, 7:], alone[0, :5])


@over_variants
def test_what_stands_in_the_padding_changes_nothing(name):
    padded = of_documents([[np.arange(5)], [np.arange(9)]])
    outputs, real = outputs_of(name, padded), padded["segments"] > 0
    again = outputs_of(name, padded | {"tokens": np.where(real, padded["tokens"], 17)})
    np.testing.assert_array_equal(outputs["logits"][real], again["logits"][real])
    assert np.isfinite(outputs["logits"]).all()
    for sums in ("losses", "stats"):  # of experts
        jax.tree.map(assert_close, outputs.get(sums, {}), again.get(sums, {}))


@pytest.mark.parametrize("name", ["gpt", "llama", "original"])
def test_only_tokens_are_needed(name):
    alone = jax.jit(make(name).apply)(params(name), {"tokens": batch()["tokens"]})
    assert_close(alone["logits"], outputs_of(name, batch())["logits"], 1e-5)


# With room a prompt is one part: of four tokens an expert takes another share than of twelve.
PARTS = dict.fromkeys(VARIANTS, 4) | {"mixtral_room": T}


@pytest.mark.parametrize(
    "name, at_a_time", [*PARTS.items(), ("gpt", 1), ("gemma3", 1), ("deepseek", 1)]
)
def test_cached_decoding_is_the_whole_forward_pass_position_by_position(name, at_a_time):
    """Prompts of different length are padded at their left and continued together."""
    model, values = make(name), params(name)
    rows = [np.arange(n) * 5 % VOCAB for n in (T, T - 3)]
    whole = outputs_of(name, of_documents([[row] for row in rows]))["logits"]

    column = np.arange(T)[None] - np.array([[0], [3]])  # position; negative in the padding
    laid = {
        "tokens": np.stack([np.pad(row, (T - len(row), 0), constant_values=1) for row in rows]),
        "segments": (column >= 0).astype(np.int32),
        "positions": np.maximum(column, 0),
    }
    laid = jax.tree.map(np.int32, laid)

    step = jax.jit(model.apply)
    cache, found = jax.jit(model.new_cache, static_argnums=2)(values, laid, T + 2), []
    for start in range(0, T, at_a_time):
        columns = slice(start, start + at_a_time)
        outputs = step(values, {key: x[:, columns] for key, x in laid.items()}, None, cache)
        cache = outputs["cache"]
        found.append(outputs["logits"])
    assert int(cache["index"]) == T
    found = np.concatenate(found, axis=1)
    assert_close(found[0], whole[0], 2e-4)
    assert_close(found[1, 3:], whole[1, : T - 3], 2e-4)


def test_a_cache_is_written_at_its_index_alone_and_its_layers_lead():
    model, values = make("llama"), params("llama")
    cache = model.new_cache(values, batch(), 20)
    assert cache["key"].shape == cache["value"].shape == (2, 2, 20, 2, 4)
    outputs = jax.jit(model.apply)(values, batch(), None, cache | {"index": jnp.int32(3)})
    key = np.asarray(outputs["cache"]["key"])
    assert (key[:, :, :3] == 0).all()
    assert (key[:, :, 3:15] != 0).any((-1, -2)).all()
    assert (key[:, :, 15:] == 0).all()


@over_variants
@pytest.mark.parametrize(
    "dtype, param_dtype", [("bfloat16", "float32"), ("float32", "bfloat16")], ids=str
)
def test_parameters_are_of_their_dtype_and_outputs_of_the_other(name, dtype, param_dtype):
    model = make(name, dtype=dtype, param_dtype=param_dtype)

    def whole(key):
        params = meta.unbox(model.init(key, batch()))
        return params, model.apply(params, batch())

    made, outputs = jax.eval_shape(whole, jax.random.key(0))
    for path, leaf in trees.flatten(made).items():  # a balance bias moves by less than 2^-8
        assert leaf.dtype == ("float32" if path.endswith("balance") else param_dtype), path
    assert outputs["hidden"].dtype == dtype
    assert outputs["logits"].dtype == jnp.float32


@pytest.mark.parametrize("name", ["gpt", "gemma2"])
def test_bfloat16_is_close_to_float32(name):
    exact = np.asarray(outputs_of(name, batch())["logits"])
    rounded = jax.jit(make(name, dtype="bfloat16").apply)(params(name), batch())["logits"]
    assert np.linalg.norm(rounded - exact) < 0.03 * np.linalg.norm(exact)


def test_a_logit_softcap_bounds_the_logits_and_keeps_their_order():
    capped = outputs_of("gemma2", batch())["logits"]
    free = jax.jit(make("gemma2", logit_softcap=0.0).apply)(params("gemma2"), batch())["logits"]
    assert np.abs(capped).max() < 1.0 < np.abs(free).max()
    assert_close(capped, np.tanh(np.asarray(free)), 1e-5)


def test_a_window_is_felt_where_the_text_is_longer():
    wide = jax.jit(make("gemma2", window=T).apply)(params("gemma2"), batch())["logits"]
    narrow = outputs_of("gemma2", batch())["logits"]
    assert_close(wide[:, :4], narrow[:, :4], 1e-5)
    assert np.abs(wide[:, 5:] - narrow[:, 5:]).max() > 1e-2


def test_local_layers_turn_by_their_own_base():
    """Only the one global layer in three feels the global base."""
    other = jax.jit(make("gemma3", rope_theta=1e4, rope_factor=1.0, pattern=("local",)).apply)
    all_local = jax.jit(make("gemma3", pattern=("local",)).apply)
    given = params("gemma3"), batch()
    assert_close(other(*given)["logits"], all_local(*given)["logits"], 1e-6)
    assert (
        np.abs(all_local(*given)["logits"] - outputs_of("gemma3", batch())["logits"]).max() > 1e-3
    )


def test_a_pattern_goes_on_from_dense_layers_to_those_of_experts():
    """Where the dense layer adds nothing, the kind of the other is seen alone."""
    values = params("deepseek")
    silent = jax.tree.map(np.zeros_like, values["dense_layers"])
    half = jax.tree.map(lambda leaf: leaf[:1], values["layers"])
    values = values | {"dense_layers": silent, "layers": half}

    def logits(*pattern):
        model = make("deepseek", layers=2, pattern=pattern, window=2)
        return jax.jit(model.apply)(values, batch())["logits"]

    assert_close(logits("local", "global"), logits("global"), 1e-6)
    assert np.abs(logits("global", "local") - logits("global")).max() > 1e-3


def test_losses_are_means_over_the_layers_of_experts_and_loads_are_sums():
    """Layers that are the same in a stream that nothing is added to."""
    alike = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 2, axis=0), params("mixtral")["layers"])
    still = {"attention": {"out": 0}, "experts": {"down": 0}}
    alike = alike | {
        part: alike[part] | {name: {"kernel": 0 * alike[part][name]["kernel"]} for name in names}
        for part, names in still.items()
    }
    two = outputs_after("mixtral", alike, layers=2)
    one = outputs_after("mixtral", jax.tree.map(lambda leaf: leaf[:1], alike), layers=1)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-5), two["losses"], one["losses"])
    np.testing.assert_array_equal(two["stats"]["load"], 2 * one["stats"]["load"])


def outputs_after(name, stack, **more):
    return jax.jit(make(name, **more).apply)(params(name) | {"layers": stack}, batch())
