"""Laws of prefix LM in the decoder: what is given sees all that is given, the rest is causal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import config, recipe
from bigmodel.layers import attention, attention_bands
from bigmodel.sharding import kernels, rules
from bigmodel.sharding import mesh as meshes
from tests import runs
from tests.models.variants import VOCAB, WIDTH, T, batch, make, outputs_of, params, program

GIVEN = 5
PLAIN = ("gpt", "gemma2", "deepseek")  # global, local by turns, latent
over_variants = pytest.mark.parametrize("name", PLAIN)


def prefixed(**more):
    return batch() | {"prefix": np.arange(T)[None].repeat(2, 0) < GIVEN} | more


@over_variants
def test_what_is_given_sees_all_that_is_given_and_the_rest_is_causal(name):
    given = prefixed(tokens=np.arange(2 * T, dtype=np.int32).reshape(2, T))  # each token once
    draw = np.random.default_rng(1)
    of_hidden = draw.normal(size=(2, T, WIDTH)).astype(np.float32)
    strength = np.zeros((T, T))
    for t in range(T):
        at_t = (np.arange(T) == t)[None, :, None]
        zeros = np.zeros((2, T, VOCAB), np.float32)
        grads, _ = program(name)(params(name), given, of_hidden * at_t, zeros)
        strength[t] = np.abs(grads["embed"]["table"][:T]).sum(-1)
    reach = np.tril(np.ones((T, T), bool))
    reach[:GIVEN, :GIVEN] = True
    assert (strength[~reach] == 0).all()
    if name != "gemma2":  # whose local layers do not reach all, and its global ones do
        assert (strength[reach] > 0).all()
    assert (strength[:GIVEN, :GIVEN] > 0).all()


@over_variants
def test_a_prefix_of_nothing_is_none(name):
    none = outputs_of(name, prefixed(prefix=np.zeros((2, T), bool)))["logits"]
    np.testing.assert_allclose(none, outputs_of(name, batch())["logits"], rtol=1e-5, atol=1e-5)


@over_variants
@pytest.mark.parametrize("padding", [pytest.param(0, marks=pytest.mark.families), 3])
def test_cached_decoding_of_a_prefix_is_the_full_forward(name, padding):
    given = prefixed()
    whole = outputs_of(name, given)["logits"]
    prompt = {key: x[:, :GIVEN] for key, x in given.items() if x.ndim > 1}
    prompt = {key: np.pad(x, ((0, 0), (padding, 0))) for key, x in prompt.items()}
    model = make(name)
    cache = model.new_cache(params(name), prompt, padding + T + 2)
    outputs = jax.jit(model.apply)(params(name), prompt, cache=cache)
    found = [outputs["logits"][:, padding:]]
    step = jax.jit(lambda cache, of_token: model.apply(params(name), of_token, cache=cache))
    for t in range(GIVEN, T):
        names = ("tokens", "segments", "positions")
        outputs = step(outputs["cache"], {key: given[key][:, t : t + 1] for key in names})
        found.append(outputs["logits"])
    np.testing.assert_allclose(np.concatenate(found, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_prefix_stays_inside_its_document():
    segments = np.repeat([[1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 0]], 2, 0)
    given = prefixed(segments=segments, prefix=np.repeat(segments[:1] > 0, 2, 0))
    first = outputs_of("gpt", given)["hidden"]
    others = np.where(segments == 2, 3, given["tokens"])
    again = outputs_of("gpt", given | {"tokens": others})["hidden"]
    np.testing.assert_allclose(again[:, :4], first[:, :4], rtol=1e-6)
    assert np.abs(again[:, 4:11] - first[:, 4:11]).max() > 1e-3


def test_forms_of_attention_agree_about_a_prefix():
    draw = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draw.normal(size=(2, 8, 2, 4)), jnp.float32) for _ in range(3))
    prefix = jnp.asarray(np.arange(8)[None] < np.array([[3], [6]]))
    wanted = attention.reference(q, k, v, prefix=prefix)
    assert np.abs(wanted - attention.reference(q, k, v)).max() > 1e-2
    for attend in (attention_bands.banded, attention_bands.chunked):
        np.testing.assert_allclose(attend(q, k, v, prefix=prefix), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform, name", [("tpu", "chunked"), ("gpu", "chunked")])
def test_no_kernel_is_chosen_for_rows_with_a_prefix(platform, name):
    fields = dict(attention_dropout=0.0, attention_softcap=0.0, head_dim=64, rope_dim=0)
    fields |= dict(dtype="bfloat16", width=64, heads=1)
    assert kernels.attention_for("auto", platform, fields | {"prefix": True}) == name
    assert kernels.attention_for("auto", platform, fields | {"prefix": False}) != name


def test_a_kernel_is_refused_for_rows_with_a_prefix(monkeypatch):
    monkeypatch.setattr(kernels, "PLATFORMS", {"splash": "cpu", "cudnn": "gpu"})
    mesh = meshes.make(dict(data=-1))
    table = rules.RULES["fsdp_tensor"]
    with pytest.raises(config.InputError, match="the kernel is causal, and rows of this data have"):
        kernels.make_attention("splash", mesh, table, {"prefix": True})
    assert kernels.make_attention("splash", mesh, table, {"prefix": False})


def test_a_prefix_over_a_length_that_is_cut_is_refused_before_anything_is_compiled():
    loaded = config.load(f"{runs.ROOT}/configs/prefix_lm.py:tiny", {"mesh.context": 2})
    with pytest.raises(config.InputError, match="mesh.context = 2: .*have a prefix; allowed is 1"):
        recipe.make(loaded, devices=jax.devices()[:2])
