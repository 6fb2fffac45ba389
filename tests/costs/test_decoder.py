"""Laws of a decoder's costs: what shapes tell is what the model holds and what programs do."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import costs, objectives, trees
from bigmodel.decode import generate, sampling
from bigmodel.layers import attention, attention_bands, experts, feedforward
from bigmodel.models import decoder
from tests import tables

B, T, S = 2, 16, 40
SMALL: dict[str, Any] = dict(vocab=96, width=32, layers=3, heads=4, length=16, dtype="float32")
MIXTRAL: dict[str, Any] = dict(
    **dict(norm="rms", bias=False, position="rope", feedforward="swiglu", hidden=56, kv_heads=2),
    **dict(tied=False, experts=8, experts_per_token=2),
)
LATENT: dict[str, Any] = dict(
    **dict(norm="rms", bias=False, position="rope", kv_rank=12, query_rank=20, rope_dim=4),
    **dict(head_dim=6, tied=False),
)
DECODERS: dict[str, dict[str, Any]] = {
    "gpt": {},
    "gpt, unrolled": dict(scan=False),
    "no biases": dict(bias=False, norm_bias=False, position="none"),
    "llama": dict(
        **dict(norm="rms", bias=False, position="rope", feedforward="swiglu", hidden=56),
        **dict(kv_heads=2, tied=False),
    ),
    "qwen": dict(
        **dict(norm="rms", bias=False, qkv_bias=True, position="rope", feedforward="swiglu"),
        **dict(kv_heads=1, qk_norm="rms", head_dim=16),
    ),
    "gemma": dict(
        **dict(norm="rms", norm_placement="both", bias=False, position="rope", head_dim=16),
        **dict(feedforward="geglu", pattern=("local", "global"), window=64, logit_softcap=30.0),
    ),
    "post-norm": dict(norm_placement="post", position="sinusoidal", qk_norm="layer", tied=False),
    "large vocabulary": dict(vocab=1000, tied=False, feedforward="relu_squared"),
    "mixtral": MIXTRAL,
    "mixtral with room": MIXTRAL | dict(expert_capacity=1.0, compute_experts=experts.with_room),
    # Wide enough that the weighing of their outputs, which is not counted, is small beside them.
    "qwen experts": MIXTRAL | dict(expert_hidden=64, experts_per_token=3, qk_norm="rms"),
    "latent attention": LATENT | dict(feedforward="swiglu"),
    "deepseek": MIXTRAL
    | LATENT
    | dict(kv_heads=0, expert_hidden=24, shared_experts=2, dense_layers=1, router="sigmoid")
    | dict(router_balance=True, expert_groups=2, expert_groups_per_token=1),
}


def fields_of(**changes) -> dict[str, Any]:
    module = decoder.Decoder(**(SMALL | changes))
    names = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    return {name: getattr(module, name) for name in names}


def shapes_of(**changes):
    model = decoder.make(**(SMALL | changes))
    example = {"tokens": jax.ShapeDtypeStruct((1, 1), jnp.int32)}
    return nn.unbox(jax.eval_shape(model.init, jax.random.key(0), example))


def tokens(*names):
    return dict.fromkeys(names, jax.ShapeDtypeStruct((B, T), jnp.int32))


def traced(function, *args):
    return costs.jaxpr_flops(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("name", DECODERS)
def test_parameters_are_those_the_model_makes(name):
    changes = DECODERS[name]
    shapes, groups = shapes_of(**changes), costs.parameter_groups(fields_of(**changes))
    assert costs.parameters(fields_of(**changes)) == trees.count(shapes)
    assert groups["embedding"] == trees.count(shapes["embed"])
    assert groups["head"] == trees.count(shapes.get("head", {}))


# Of what is traced `make test` has some, `make test-families` all.
FIRST = ("gpt", "gpt, unrolled", "gemma", "qwen experts", "mixtral with room", "deepseek")
over_decoders = pytest.mark.parametrize("name", tables.rows(DECODERS, FIRST))


@over_decoders
def test_flops_are_those_of_a_traced_gradient(name):
    model, fields = decoder.make(**(SMALL | DECODERS[name])), fields_of(**DECODERS[name])
    objective = objectives.next_token(model)
    gradient = jax.value_and_grad(objective, has_aux=True)
    found = traced(gradient, shapes_of(**DECODERS[name]), tokens("tokens", "targets"), None)
    flops = costs.train_flops(fields, length=T, convention="full")
    np.testing.assert_allclose(B * T * flops.total, found, rtol=0.005)


@over_decoders
def test_forward_flops_are_those_of_a_traced_evaluation(name):
    model, fields = decoder.make(**(SMALL | DECODERS[name])), fields_of(**DECODERS[name])
    found = traced(
        lambda *args: model.apply(*args)["logits"], shapes_of(**DECODERS[name]), tokens("tokens")
    )
    flops = costs.forward_flops(fields, length=T, convention="full")
    np.testing.assert_allclose(B * T * flops.total, found, rtol=0.005)


@over_decoders
def test_flops_of_prompts_and_of_a_token_are_those_that_generation_traces(name):
    model, fields = decoder.make(**(SMALL | DECODERS[name])), fields_of(**DECODERS[name])
    params, rules = shapes_of(**DECODERS[name]), generate.Rules(sampling.Sampling(), (), None)
    how = dict(model=model, rules=rules)
    who = jax.ShapeDtypeStruct((B, 3), jnp.uint32), jax.ShapeDtypeStruct((B,), jnp.int32)
    prompts = tokens("tokens", "segments", "positions")

    read = functools.partial(generate.prefill, **how, length=S)
    program, (state, _) = jax.make_jaxpr(read, return_shape=True)(params, prompts, *who)
    flops = costs.prefill_flops(fields, length=T, convention="full")
    whole = flops.products + flops.attention * S / T  # what is still empty is computed as well
    np.testing.assert_allclose(B * whole, costs.jaxpr_flops(program), rtol=0.005)

    found = traced(functools.partial(generate.decode, **how, block=8), params, state, who[0])
    if fields["expert_capacity"]:  # in a row of one token all experts have a place for it
        fields |= dict(experts_per_token=fields["experts"])
    flops = costs.decode_flops(fields, context=S)
    np.testing.assert_allclose(B * flops.total, found, rtol=0.005)


@pytest.mark.parametrize("window", [0, 5, 16])
def test_causal_flops_are_those_of_a_program_that_skips_what_no_query_sees(window):
    changes = DECODERS["gemma"] | dict(window=window)
    attend = functools.partial(attention_bands.banded, bands=T)  # each query by itself
    model, fields = decoder.make(**(SMALL | changes), attend=attend), fields_of(**changes)
    found = traced(
        lambda *args: model.apply(*args)["logits"], shapes_of(**changes), tokens("tokens")
    )
    # The convention counts half of the diagonal: of all pairs it is half.
    diagonal = sum((window or T) / (2 * T) for window in costs.windows(fields))
    flops = costs.forward_flops(fields, length=T).total + 4 * 4 * 16 * diagonal
    np.testing.assert_allclose(B * T * flops, found, rtol=1e-6)


def test_a_token_sees_the_cache_and_of_a_window_no_more():
    fields = fields_of(layers=5, pattern=("local", "global"), window=8)
    assert costs.decode_flops(fields, context=64).attention == 4 * 32 * (3 * 8 + 2 * 64)
    assert costs.decode_flops(fields, context=6).attention == 4 * 32 * 5 * 6


def test_a_prompt_has_logits_of_its_last_token():
    of_one = costs.prefill_flops(fields_of(), length=1, convention="full")
    assert of_one == costs.forward_flops(fields_of(), length=1, convention="full")
    assert of_one == costs.decode_flops(fields_of(), context=1)
    more = costs.prefill_flops(fields_of(), length=8).products
    assert more == 2 * (8 * 3 * 12 * 32 * 32 + 32 * 96)


def test_causal_counts_half_of_the_pairs_that_full_counts():
    full = costs.train_flops(fields_of(), length=64, convention="full")
    causal = costs.train_flops(fields_of(), length=64)
    assert causal.attention == full.attention / 2
    assert causal.products == full.products == 6 * (3 * 12 * 32 * 32 + 32 * 96)


@pytest.mark.parametrize("window", [1, 7, 32, 100])
def test_a_window_counts_the_keys_that_its_mask_shows(window):
    seen = attention.visible(64, 64, None, None, causal=True, window=window, offset=0)
    assert seen is not None
    shown = float(seen.sum()) / 64
    assert abs(costs.mean_keys(window, 64, "causal") - shown) <= 0.5  # the diagonal's other half
    assert costs.mean_keys(window, 64, "full") == min(window, 64)


def test_a_pattern_counts_each_layer_by_its_kind():
    fields = fields_of(layers=5, pattern=("local", "global"), window=8)
    assert list(costs.windows(fields)) == [8, 0, 8, 0, 8]
    flops = costs.train_flops(fields, length=64, convention="full")
    assert flops.attention == 12 * 32 * (3 * 8 + 2 * 64)


def test_gpt3_takes_the_published_flops():
    # Brown et al. 2020, table D.1: 3.14e23 for 300 billion tokens.
    gpt3 = fields_of(vocab=50_257, width=12_288, layers=96, heads=96, length=2048)
    assert 3e11 * costs.train_flops(gpt3, length=2048).products == pytest.approx(3.14e23, rel=0.01)


def test_deepseek_v3_has_its_published_parameters_and_uses_its_published_share():
    # DeepSeek-AI 2024, arXiv:2412.19437, section 4.2: 671 billion, 37 billion for each token.
    sizes = dict(vocab=129_280, width=7168, layers=61, heads=128, hidden=18_432, head_dim=128)
    latent = dict(LATENT, kv_rank=512, query_rank=1536, rope_dim=64, feedforward="swiglu")
    chosen = dict(experts=256, experts_per_token=8, shared_experts=1, expert_hidden=2048)
    fields = fields_of(**{**latent, **sizes, **chosen}, dense_layers=3, router_balance=True)
    assert costs.parameters(fields) == pytest.approx(671e9, rel=1e-3)
    assert costs.train_flops(fields, length=4096).products == pytest.approx(6 * 37e9, rel=0.02)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="causal, full"):
        costs.train_flops(fields_of(), length=8, convention="half")


def test_layers_with_a_gate_are_counted_as_such():
    assert set(costs.GATED) == set(feedforward.GATES)
