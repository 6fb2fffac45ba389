"""Laws of FLOPs over every size of every config: what shapes tell is what the real step traces."""

import functools
import pathlib
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from bigmodel import config, costs, recipe
from tests import tables

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
EVERY = [
    f"{path.name}:{size}" if size else path.name
    for path in sorted(CONFIGS.glob("*.py"))
    for size in runpy.run_path(str(path)).get("SIZES", [""])
]
# FLOPs are worked out from the fields of decoders; those of other families are counted as traced.
SIZES = [n for n in EVERY if config.load(f"{CONFIGS}/{n}").config.model.name == "decoder"]
TINY = [name for name in SIZES if name.endswith(":tiny")]
# Of each config `make test` has the last of its sizes, `make test-families` all.
LAST = {name.partition(":")[0]: name for name in SIZES}.values()
REMAT = (TINY[0], "mixtral.py:tiny")  # of recomputation `make test` has these
B = 2
# Kept as they are: model, objective and its chunks. The reference computes all keys of a row.
SMALL = {"batch": B, "model.attention": "reference", "model.scan": True, "mesh.fsdp": 1}
SMALL |= {"mesh.expert": 1, "model.remat": "none"}


@functools.cache
def traced(name: str, **overrides: Any) -> tuple[dict[str, Any], int, float]:
    """The model's fields, the length, and FLOPs for each token of the gradient as traced."""
    model = config.load(f"{CONFIGS}/{name}").config.model
    # No longer than the shortest window: the reference computes what is outside as well.
    length = min(256, model.length, model.window or 256)
    changes = SMALL | {"data.length": length} | overrides
    made = recipe.make(config.load(f"{CONFIGS}/{name}", changes), devices=jax.devices()[:1])
    tokens = jax.ShapeDtypeStruct((B, length), jnp.int32)
    batch = dict.fromkeys(("tokens", "targets"), tokens)
    gradient = jax.value_and_grad(made.objective, has_aux=True)
    program = jax.make_jaxpr(gradient)(nn.unbox(made.boxed_params), batch, None)
    return dict(made.fields), length, costs.jaxpr_flops(program) / (B * length)


@pytest.mark.parametrize("name", tables.rows(SIZES, LAST))
def test_flops_of_a_size_are_those_of_its_traced_gradient(name):
    fields, length, found = traced(name)
    flops = costs.train_flops(fields, length=length, convention="full")
    assert found == pytest.approx(flops.total, rel=0.005)


@pytest.mark.parametrize("name", tables.rows(TINY, REMAT))
def test_full_remat_adds_the_forward_pass_of_the_layers(name):
    fields, length, without = traced(name)
    _, _, found = traced(name, **{"model.remat": "full"})
    flops = costs.forward_flops(fields, length=length, convention="full")
    # Not again: the head, whose gradient is made on the way forward, and a layer's last product,
    # whose result no gradient asks for. A norm or the experts' weights behind it do.
    D, F = fields["width"], fields["expert_hidden"] or fields["hidden"] or 4 * fields["width"]
    spared = fields["layers"] * (fields["hidden"] or F) * D
    if fields["experts"]:
        dense, shared = fields["dense_layers"], fields["shared_experts"]
        spared = D * (dense * fields["hidden"] + (fields["layers"] - dense) * shared * F)
    if fields["norm_placement"] != "pre":
        spared = 0
    added = flops.total - 2 * D * fields["vocab"] - 2 * spared
    assert found - without == pytest.approx(added, rel=0.005)
