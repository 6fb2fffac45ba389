"""Laws of costs: what is worked out from shapes is what the model holds and what a program does."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bigmodel import costs, objectives, trees
from bigmodel.layers import attention, experts, feedforward
from bigmodel.models import decoder

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
    "qwen experts": MIXTRAL | dict(expert_hidden=48, experts_per_token=3, qk_norm="rms"),
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


@pytest.mark.parametrize("name", DECODERS)
def test_parameters_are_those_the_model_makes(name):
    changes = DECODERS[name]
    shapes, groups = shapes_of(**changes), costs.parameter_groups(fields_of(**changes))
    assert costs.parameters(fields_of(**changes)) == trees.count(shapes)
    assert groups["embedding"] == trees.count(shapes["embed"])
    assert groups["head"] == trees.count(shapes.get("head", {}))


@pytest.mark.parametrize("name", DECODERS)
def test_flops_are_those_of_a_traced_gradient(name):
    changes = DECODERS[name]
    model = decoder.make(**(SMALL | changes))
    objective = objectives.next_token(model)
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    batch = {"tokens": tokens, "targets": tokens}
    gradient = jax.value_and_grad(objective, has_aux=True)
    traced = jax.make_jaxpr(gradient)(shapes_of(**changes), batch, None)
    flops = costs.train_flops(fields_of(**changes), length=16, convention="full")
    np.testing.assert_allclose(2 * 16 * flops.total, costs.jaxpr_flops(traced), rtol=0.005)


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


def test_a_traced_program_counts_loops_branches_and_devices():
    x = jnp.ones((8, 8))
    once = 2 * 8**3

    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, length=5)[0]

    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    def ragged(x):
        sizes = jnp.array([3, 0, 5])
        return jax.value_and_grad(lambda x: jax.lax.ragged_dot(x, jnp.stack([x] * 3), sizes).sum())(
            x
        )

    def again(x):
        return jax.value_and_grad(lambda x: jax.checkpoint(lambda x: jnp.sin(x @ x))(x).sum())(x)

    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("data")
    sharded = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=rows, out_specs=rows)

    assert costs.jaxpr_flops(jax.make_jaxpr(scanned)(x)) == 5 * once
    assert costs.jaxpr_flops(jax.make_jaxpr(jax.jit(branched))(x)) == 2 * once
    assert costs.jaxpr_flops(jax.make_jaxpr(ragged)(x)) == 3 * once  # each row through one of them
    assert costs.jaxpr_flops(jax.make_jaxpr(again)(x)) == 4 * once  # forward twice, backward two
    assert costs.jaxpr_flops(jax.make_jaxpr(sharded)(x)) == 4 * (2 * 2 * 2 * 8)


KINDS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1.15e15,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2.25e15,
    "TPU v4 lite": None,
    "NVIDIA GB200": None,
    "cpu": None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_kind_has_its_own_peak(kind):
    assert costs.peak_flops(kind) == KINDS[kind]


def test_boards_of_one_name_differ_in_memory():
    names = ["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"]
    rows = [costs.chip(name) for name in names]
    assert [row.name for row in rows if row] == ["A100 40GB", "A100", "A100 PCIe"]


def test_every_chip_is_reachable_by_its_own_name():
    assert [costs.chip(row.name) for row in costs.CHIPS] == list(costs.CHIPS)


def test_layers_with_a_gate_are_counted_as_such():
    assert set(costs.GATED) == set(feedforward.GATES)


def test_memory_counts_temporaries_and_donated_arguments():
    def through(x):
        hidden = jnp.sin(x @ x)  # as large as x, and needed whole
        return hidden @ hidden

    x = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    size = 4 * 512**2
    found = costs.memory(jax.jit(through).lower(x).compile())
    assert found["arguments"] == found["outputs"] == size
    assert found["peak"] >= 3 * size

    plain = costs.memory(jax.jit(jnp.sin).lower(x).compile())
    donated = costs.memory(jax.jit(jnp.sin, donate_argnums=0).lower(x).compile())
    assert plain["peak"] == 2 * size
    assert donated["peak"] == donated["aliased"] == size


def test_memory_is_that_of_one_device():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=rows)
    assert costs.memory(jax.jit(jnp.sin).lower(x).compile())["arguments"] == 4 * 64 * 64 / 8


def test_this_machines_matrix_products_have_a_rate():
    assert 1e8 < costs.cpu_matmul_flops(seconds=0.05) < math.inf
