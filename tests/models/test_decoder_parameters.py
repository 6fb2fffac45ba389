"""Laws of a decoder's parameters: their names and axes, how they start, and what they cost."""

import time

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel import objectives, trees
from bigmodel.models import decoder
from tests.models.variants import VARIANTS, T, batch, make, shapes


def is_box(leaf):
    return isinstance(leaf, meta.AxisMetadata)


def axes(name):
    boxed = jax.eval_shape(make(name).init, jax.random.key(0), batch())
    return {path: box.names for path, box in trees.flatten(boxed, is_leaf=is_box).items()}


AXES = {
    "embed/table": ("vocab", "embed"),
    "positions/table": ("positions", "embed"),
    "layers/attention/query/kernel": ("layers", "embed", "heads", "head_dim"),
    "layers/attention/query/bias": ("layers", "heads", "head_dim"),
    "layers/attention/key/kernel": ("layers", "embed", "kv_heads", "head_dim"),
    "layers/attention/key/bias": ("layers", "kv_heads", "head_dim"),
    "layers/attention/value/kernel": ("layers", "embed", "kv_heads", "head_dim"),
    "layers/attention/value/bias": ("layers", "kv_heads", "head_dim"),
    "layers/attention/out/kernel": ("layers", "heads", "head_dim", "embed"),
    "layers/attention/out/bias": ("layers", "norm"),
    "layers/attention/query_norm/scale": ("layers", "head_dim"),
    "layers/attention/key_norm/scale": ("layers", "head_dim"),
    "layers/feedforward/gate/kernel": ("layers", "embed", "mlp"),
    "layers/feedforward/gate/bias": ("layers", "mlp"),
    "layers/feedforward/up/kernel": ("layers", "embed", "mlp"),
    "layers/feedforward/up/bias": ("layers", "mlp"),
    "layers/feedforward/down/kernel": ("layers", "mlp", "embed"),
    "layers/feedforward/down/bias": ("layers", "norm"),
    "layers/attention_norm/scale": ("layers", "norm"),
    "layers/attention_norm/bias": ("layers", "norm"),
    "layers/attention_post_norm/scale": ("layers", "norm"),
    "layers/feedforward_norm/scale": ("layers", "norm"),
    "layers/feedforward_norm/bias": ("layers", "norm"),
    "layers/feedforward_post_norm/scale": ("layers", "norm"),
    "final_norm/scale": ("norm",),
    "final_norm/bias": ("norm",),
    "head/kernel": ("embed", "vocab"),
}
LATENT = {
    "layers/attention/query_down/kernel": ("layers", "embed", "latent"),
    "layers/attention/query_norm/scale": ("layers", "norm"),
    "layers/attention/query/kernel": ("layers", "latent", "heads", "head_dim"),
    "layers/attention/kv_down/kernel": ("layers", "embed", "latent"),
    "layers/attention/kv_norm/scale": ("layers", "norm"),
    "layers/attention/key_value/kernel": ("layers", "latent", "heads", "head_dim"),
    "layers/attention/out/kernel": ("layers", "heads", "head_dim", "embed"),
}
EXPERTS = {
    "layers/experts/router/kernel": ("layers", "router_embed", "router"),
    "layers/experts/router/balance": ("layers", "router"),
    "layers/experts/gate/kernel": ("layers", "experts", "expert_embed", "mlp"),
    "layers/experts/up/kernel": ("layers", "experts", "expert_embed", "mlp"),
    "layers/experts/down/kernel": ("layers", "experts", "mlp", "expert_embed"),
    "layers/experts/shared/gate/kernel": ("layers", "embed", "mlp"),
    "layers/experts/shared/up/kernel": ("layers", "embed", "mlp"),
    "layers/experts/shared/down/kernel": ("layers", "mlp", "embed"),
}


def axes_of(name):
    """The rows for a variant; dense layers before experts are another stack of the same."""
    rows = AXES | (LATENT if name == "deepseek" else {}) | EXPERTS
    dense = {f"dense_{path}": (f"dense_{of[0]}", *of[1:]) for path, of in rows.items()}
    return rows | dense


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_names_its_axes(name):
    found, known = axes(name), axes_of(name)
    assert found == {path: known[path] for path in found}


def test_the_variants_together_have_every_parameter():
    found = set().union(*map(axes, VARIANTS))
    assert found >= set(AXES) | set(LATENT) | set(EXPERTS)


def test_to_make_parameters_no_layer_is_run():
    """As many operations however deep the model is."""
    key, models = jax.random.key(0), (make("gpt", layers=n, scan=False) for n in (2, 4))
    first, second = (len(jax.make_jaxpr(model.init)(key, batch()).eqns) for model in models)
    assert first == second


def initial(name, **more):
    model = make(name, width=64, hidden=256, vocab=512, **more)
    key = jax.random.key(0, impl="rbg")  # compiles in a tenth of the time of threefry
    return trees.flatten(meta.unbox(jax.jit(model.init)(key, batch())))


def test_kernels_start_as_published_for_gpt():
    """0.02; (2 layers)^-1/2 of it where a product adds to the stream; biases 0; scales 1."""
    for path, leaf in initial("gpt", layers=8).items():
        adds = path in ("layers/attention/out/kernel", "layers/feedforward/down/kernel")
        if path.endswith("scale"):
            assert (leaf == 1).all(), path
        elif path.endswith("bias"):
            assert (leaf == 0).all(), path
        else:
            assert leaf.std() == pytest.approx(0.02 / (4 if adds else 1), rel=0.05), path
            assert abs(leaf.mean()) < 0.05 * leaf.std() + 1e-4, path


def test_kernels_start_by_their_fan_in_when_no_deviation_is_given():
    found = initial("llama", heads=8)
    fan_in = {"query": 64, "key": 64, "value": 64, "out": 64, "gate": 64, "up": 64, "down": 256}
    for path, leaf in found.items():
        part = path.split("/")[-2]
        if part in fan_in:
            assert leaf.std() == pytest.approx(fan_in[part] ** -0.5, rel=0.05), path
    assert found["head/kernel"].std() == pytest.approx(64**-0.5, rel=0.05)
    assert found["embed/table"].std() == pytest.approx(0.02, rel=0.05)


def test_layers_start_apart():
    kernel = initial("gpt")["layers/feedforward/up/kernel"]
    assert np.abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.05


def test_a_scale_that_is_stored_as_its_distance_from_one_starts_at_zero():
    assert (initial("gemma2")["layers/attention_norm/scale"] == 0).all()


def test_the_largest_published_model_has_a_shape_without_an_array():
    """Llama 3.1 405B (arXiv:2407.21783, table 3)."""
    fields = dict(vocab=128_256, width=16_384, layers=126, heads=128, kv_heads=8, hidden=53_248)
    kind = dict(norm="rms", position="rope", feedforward="swiglu", bias=False, tied=False)
    model = decoder.make(**fields, **kind, length=131_072)
    before, began = len(jax.live_arrays()), time.monotonic()
    found = shapes(model)
    assert trees.count(found) == 405_853_388_800
    assert len(jax.live_arrays()) <= before + 1
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_no_array_of_all_logits_is_in_a_whole_step(tied):
    model = make("gpt", vocab=4096, tied=tied, remat="full")
    given = batch(rows=16) | {"targets": np.zeros((16, T), np.int32)}
    objective = objectives.next_token(model)
    lowered = jax.jit(jax.value_and_grad(lambda p: objective(p, given, None)[0])).lower(
        shapes(model)
    )
    program, logits = lowered.compile(), 16 * T * 4096
    dimensions = (shape.split("]")[0] for shape in program.as_text().split("f32[")[1:])
    assert max(np.prod([int(n) for n in d.split(",") if n]) for d in dimensions) < logits
    assert program.memory_analysis().temp_size_in_bytes < 4 * logits
