"""Laws of objectives: what a loss is, and that no array of all logits is ever made."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.objectives import tokens as objectives

B, T, D, V = 3, 13, 8, 29


def of_head(tied):
    """A model that is all head: hidden vectors are a parameter, looked up by row."""
    equation = "...D,VD->...V" if tied else "...D,DV->...V"

    def unembed(params, hidden):
        return jnp.einsum(equation, hidden, params["head"], preferred_element_type=jnp.float32)

    def apply(params, batch, rngs=None):
        hidden = params["hidden"][batch["rows"]]
        return {"hidden": hidden, "logits": unembed(params, hidden)}

    return types.SimpleNamespace(
        apply=apply, unembed=unembed, head=lambda params: {"head": params["head"]}
    )


def example(tied=True):
    draw = np.random.default_rng(0)
    head = draw.normal(size=(V, D) if tied else (D, V))
    params = {"hidden": draw.normal(size=(B, T, D)), "head": head}
    batch = {
        "rows": np.arange(B),
        "targets": draw.integers(0, V, (B, T)),
        "weights": draw.choice([0.0, 0.5, 1.0], (B, T)).astype(np.float32),
    }
    return jax.tree.map(np.float32, params), batch


def stated(params, batch, tied, *, z_loss, label_smoothing):
    """The formula of the docstring in float64, with its gradient by hand."""
    hidden, head = (params[name].astype(np.float64) for name in ("hidden", "head"))
    head = head if tied else head.T
    logits = hidden @ head.T
    log_z = np.log(np.exp(logits).sum(-1))
    hit = np.eye(V)[batch["targets"]]
    nll = log_z - (logits * hit).sum(-1)
    flat = (log_z[..., None] - logits).mean(-1)
    terms = (1 - label_smoothing) * nll + label_smoothing * flat + z_loss * log_z**2
    weights = batch["weights"]

    p = np.exp(logits - log_z[..., None])
    of_logits = p - (1 - label_smoothing) * hit - label_smoothing / V
    of_logits = (of_logits + 2 * z_loss * log_z[..., None] * p) * weights[..., None]
    of_head = np.einsum("BTV,BTD->VD", of_logits, hidden)
    grads = {"hidden": of_logits @ head, "head": of_head if tied else of_head.T}
    sums = {
        "nll": (nll * weights).sum(),
        "weight": weights.sum(),
        "correct": ((logits.argmax(-1) == batch["targets"]) * weights).sum(),
    }
    return (terms * weights).sum(), sums, grads


def found(model, params, batch, **options):
    objective = objectives.next_token(model, **options)
    gradient = jax.jit(jax.value_and_grad(lambda p, b: objective(p, b, None), has_aux=True))
    (loss, sums), grads = gradient(params, batch)
    return loss, sums, grads


@pytest.mark.parametrize("chunk", [0, 1, 4, 13, 20])
@pytest.mark.parametrize(
    "z_loss, label_smoothing, tied",
    [(0.0, 0.0, True), (0.0, 0.0, False), (0.3, 0.0, True), (0.0, 0.2, False), (0.1, 0.1, True)],
)
def test_the_loss_is_its_formula_in_value_and_gradient(chunk, z_loss, label_smoothing, tied):
    params, batch = example(tied)
    options = dict(z_loss=z_loss, label_smoothing=label_smoothing)
    loss, sums, grads = found(of_head(tied), params, batch, chunk=chunk, **options)
    stated_loss, stated_sums, stated_grads = stated(params, batch, tied, **options)
    np.testing.assert_allclose(loss, stated_loss, rtol=1e-5)
    for name, value in stated_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5, err_msg=name)
    for name, grad in stated_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_weights_every_token_counts_as_one():
    params, batch = example()
    loss, sums, _ = found(of_head(True), params, batch | {"weights": np.ones((B, T), np.float32)})
    del batch["weights"]
    again, again_sums, _ = found(of_head(True), params, batch)
    assert (loss, sums["weight"]) == (again, again_sums["weight"])
    assert sums["weight"] == B * T


def test_what_weighs_nothing_changes_nothing():
    params, batch = example()
    loss, sums, grads = found(of_head(True), params, batch)
    unseen = batch["weights"] == 0
    assert unseen.any()
    assert (np.asarray(grads["hidden"])[unseen] == 0).all()
    other = np.where(unseen, (batch["targets"] + 1) % V, batch["targets"])
    params["hidden"][unseen] *= 3
    loss_, sums_, grads_ = found(of_head(True), params, batch | {"targets": other})
    np.testing.assert_allclose([loss, *sums.values()], [loss_, *sums_.values()], rtol=1e-6)
    np.testing.assert_allclose(grads["head"], grads_["head"], rtol=1e-5, atol=1e-6)


def test_sums_add_up_over_parts_of_the_batch():
    params, batch = example()
    options = dict(z_loss=0.1, label_smoothing=0.1)
    whole = found(of_head(True), params, batch, **options)
    parts = [
        found(of_head(True), params, jax.tree.map(lambda x, rows=rows: x[rows], batch), **options)
        for rows in (np.s_[:1], np.s_[1:])
    ]
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-5, atol=1e-6), whole, *parts
    )


def test_only_the_loss_of_a_scaled_objective_is_scaled_and_its_gradient_with_it():
    params, batch = example()
    objective = objectives.next_token(of_head(True), chunk=4)
    grads = jax.jit(jax.grad(lambda p: 3 * objective(p, batch, None)[0]))(params)
    once = found(of_head(True), params, batch, chunk=4)[2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 3 * b, rtol=1e-5), grads, once)


def test_large_logits_are_no_trouble():
    params, batch = example()
    loss, _, grads = found(of_head(True), jax.tree.map(lambda x: 60 * x, params), batch)
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_head_in_bfloat16_is_close_to_float32_and_sums_stay_float32():
    params, batch = example()
    loss, _, grads = found(of_head(True), params, batch)
    halves = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    half_loss, sums, half_grads = found(of_head(True), halves, batch)
    assert {x.dtype for x in (half_loss, *sums.values())} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half_loss, loss, rtol=0.02)
    for name, grad in half_grads.items():
        assert grad.dtype == jnp.bfloat16
        error = np.linalg.norm(grad.astype(jnp.float32) - grads[name])
        assert error < 0.02 * np.linalg.norm(grads[name])


# Sizes at which an array of all logits, [4, 64, 4096] float32, is larger than all else together.
LARGE = dict(B=4, T=64, D=16, V=4096)


def plain_objective(model):
    """The loss as one would write it first: all logits at once."""

    def objective(params, batch, rng):
        log_p = jax.nn.log_softmax(model.apply(params, batch)["logits"])
        at_target = jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        return -(at_target * batch["weights"]).sum(), {}

    return objective


def compiled(make):
    b, t, d, v = LARGE.values()
    params = {"hidden": jnp.zeros((b, t, d)), "head": jnp.zeros((v, d))}
    batch = {"rows": jnp.arange(b), "targets": jnp.zeros((b, t), int), "weights": jnp.ones((b, t))}
    objective = make(of_head(True))
    gradient = jax.value_and_grad(lambda p, b: objective(p, b, None), has_aux=True)
    return jax.jit(gradient).lower(params, batch)


def largest_float32(text):
    """Elements of the largest float32 array of a program, whatever its shape.

    Reads both ways to write one: f32[4,64,4096] and tensor<4x64x4096xf32>.
    """
    shapes = re.findall(r"f32\[([\d,]+)\]", text)
    shapes += [shape.replace("x", ",") for shape in re.findall(r"tensor<([\dx]+)xf32>", text)]
    return max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


@pytest.mark.parametrize("chunk", [0, 8, 10])
def test_no_array_of_all_logits_is_in_the_program_or_in_memory(chunk):
    lowered = compiled(functools.partial(objectives.next_token, z_loss=1e-4, chunk=chunk))
    program = lowered.compile()
    b, t, _, v = LARGE.values()
    assert largest_float32(lowered.as_text()) < b * t * v
    assert largest_float32(program.as_text()) < b * t * v
    assert program.memory_analysis().temp_size_in_bytes < 4 * b * t * v


def test_a_plain_loss_has_that_array_in_both():
    lowered = compiled(plain_objective)
    program = lowered.compile()
    b, t, _, v = LARGE.values()
    assert largest_float32(lowered.as_text()) >= b * t * v
    assert largest_float32(program.as_text()) >= b * t * v
    assert program.memory_analysis().temp_size_in_bytes >= 4 * b * t * v


def test_the_search_sees_every_shape_of_that_array():
    for shape in ("f32[4,64,4096]", "f32[256,4096]", "f32[8,4,8,4096]", "tensor<4x64x4096xf32>"):
        assert largest_float32(f"%a = f32[3] ..., {shape}") == 4 * 64 * 4096


@pytest.mark.parametrize(
    "batch, length, vocab", [(12, 256, 65), (4, 256, 50304), (64, 4096, 128256), (1, 3, 10**9)]
)
def test_a_chunk_is_a_quarter_of_the_length_at_most_and_fits_in_its_memory(batch, length, vocab):
    chunk = objectives.chunk_length(batch, length, vocab)
    assert 1 <= chunk <= max(1, length // 4)
    assert chunk == 1 or batch * chunk * vocab <= 2**25


@pytest.mark.parametrize(
    "batch, length, vocab", [(2, 256, 262_208), (4, 8192, 128_256), (3, 257, 96), (1, 1000, 10**7)]
)
def test_the_last_chunk_is_nearly_full(batch, length, vocab):
    chunk = objectives.chunk_length(batch, length, vocab)
    assert -length % chunk <= length / 100
    assert chunk > min(length / 4, 2**25 / (batch * vocab)) / 2 - 1
