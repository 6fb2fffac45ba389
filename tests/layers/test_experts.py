"""Laws of the experts: a token's output is the weighed sum of those who take it, and no other's."""

import functools

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel.layers import experts, router

B, T, D, F, E, K = 2, 10, 6, 5, 4, 2
DRAW = np.random.default_rng(0)
X, COTANGENT = DRAW.normal(size=(2, B, T, D)).astype(np.float32)
GATE, UP = DRAW.normal(size=(2, E, D, F)).astype(np.float32)
DOWN = DRAW.normal(size=(E, F, D)).astype(np.float32)
WEIGHTS = DRAW.uniform(0.1, 1.0, size=(B, T, K)).astype(np.float32)
CHOSEN = np.argsort(DRAW.normal(size=(B, T, E)), axis=-1)[..., :K].astype(np.int32)
ALL = np.ones((B, T, K), bool)
NAMES = ("gate", "up", "down")
SOME = ALL & (np.arange(T)[None, :, None] < np.array([T - 3, T])[:, None, None])


def silu(x):
    return x / (1 + np.exp(-x))


def plain(x, weights, gate, up, down, *, chosen=CHOSEN, keep=ALL):
    """Token by token and expert by expert in float64, and its gradient by hand."""
    x, weights, gate, up, down = (np.float64(a) for a in (x, weights, gate, up, down))
    y, grads = np.zeros_like(x), [np.zeros_like(a) for a in (x, weights, gate, up, down)]
    of_x, of_weights, of_gate, of_up, of_down = grads
    for b, t, i in zip(*np.nonzero(keep), strict=True):
        e, w = chosen[b, t, i], weights[b, t, i]
        a, u = x[b, t] @ gate[e], x[b, t] @ up[e]
        hidden = silu(a) * u
        y[b, t] += w * hidden @ down[e]
        back = COTANGENT[b, t].astype(np.float64)
        of_weights[b, t, i] += (hidden @ down[e]) @ back
        of_down[e] += w * np.outer(hidden, back)
        of_hidden = w * down[e] @ back
        sigmoid = 1 / (1 + np.exp(-a))
        of_a = of_hidden * u * sigmoid * (1 + a * (1 - sigmoid))
        of_u = of_hidden * silu(a)
        of_gate[e] += np.outer(x[b, t], of_a)
        of_up[e] += np.outer(x[b, t], of_u)
        of_x[b, t] += gate[e] @ of_a + up[e] @ of_u
    return y, grads


@functools.cache
def program(compute, room):
    def loss(x, weights, gate, up, down, chosen, keep):
        routes = router.Routes(chosen, weights, keep, {}, {})
        y = compute(x, routes, experts.Kernels(gate, up, down, "silu", room))
        return (y * COTANGENT).sum(), y

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))


def value_and_gradient(compute, *, room=0, chosen=CHOSEN, keep=ALL):
    grads, y = program(compute, room)(X, WEIGHTS, GATE, UP, DOWN, chosen, keep)
    return y, grads


def assert_same(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    for name, a, b in zip(("x", "weights", *NAMES), found[1], wanted[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)


def test_the_yardstick_gradient_is_that_of_small_differences():
    arrays = [a.astype(np.float64) for a in (X, WEIGHTS, GATE, UP, DOWN)]
    for n, grad in enumerate(plain(*arrays)[1]):
        step = 1e-6 * DRAW.normal(size=grad.shape)
        up, down = ([*arrays[:n], arrays[n] + s, *arrays[n + 1 :]] for s in (step, -step))
        change = plain(*up)[0] - plain(*down)[0]
        assert (change * COTANGENT).sum() / 2 == pytest.approx((grad * step).sum(), rel=1e-5)


COMPUTES = {"dropless": (experts.dropless, 0), "with_room": (experts.with_room, T)}
over_computes = pytest.mark.parametrize("compute, room", COMPUTES.values(), ids=COMPUTES)


@over_computes
@pytest.mark.parametrize("keep", [ALL, SOME], ids=["all", "padding"])
def test_with_room_for_all_it_is_a_loop_over_experts_in_value_and_gradient(compute, room, keep):
    wanted = plain(X, WEIGHTS, GATE, UP, DOWN, keep=keep)
    assert_same(value_and_gradient(compute, room=room, keep=keep), wanted)


@pytest.mark.parametrize("room", [1, 3, 6])
def test_with_room_drops_those_that_keep_says_and_no_others(room):
    hits = (CHOSEN[..., None] == np.arange(E)) & SOME[..., None]  # [B, T, K, E]
    before = np.cumsum(hits.any(2), axis=1) - hits.any(2)
    keep = SOME & (np.take_along_axis(before, CHOSEN, -1) < room)
    assert keep.sum() < SOME.sum()
    wanted = plain(X, WEIGHTS, GATE, UP, DOWN, keep=keep)
    assert_same(value_and_gradient(experts.with_room, room=room, keep=keep), wanted)
    assert_same(value_and_gradient(experts.dropless, keep=keep), wanted)


def test_with_room_takes_those_that_keep_says_even_if_they_are_the_later_ones():
    """Of a row that lies in another order on the mesh the first are not the earlier."""
    hits = (CHOSEN[..., None] == np.arange(E)).any(2)
    behind = np.cumsum(hits[:, ::-1], axis=1)[:, ::-1] - hits
    keep = np.take_along_axis(behind, CHOSEN, -1) < 3
    wanted = plain(X, WEIGHTS, GATE, UP, DOWN, keep=keep)
    assert_same(value_and_gradient(experts.with_room, room=3, keep=keep), wanted)


@over_computes
def test_an_expert_that_nobody_chose_has_no_gradient(compute, room):
    chosen = np.where(CHOSEN == 2, 3, CHOSEN)
    chosen = np.where((chosen == 3).all(-1, keepdims=True), [[[0, 3]]], chosen).astype(np.int32)
    y, (_, _, *kernels) = value_and_gradient(compute, room=room, chosen=chosen)
    for grad in kernels:
        of_expert = np.abs(grad).max((1, 2))
        np.testing.assert_array_equal(of_expert > 0, [True, True, False, True])
    np.testing.assert_allclose(
        y, plain(X, WEIGHTS, GATE, UP, DOWN, chosen=chosen)[0], rtol=1e-4, atol=1e-5
    )


@over_computes
def test_all_tokens_may_choose_the_same_expert(compute, room):
    chosen = np.broadcast_to(np.array([1, 0], np.int32), CHOSEN.shape)
    wanted = plain(X, WEIGHTS, GATE, UP, DOWN, chosen=chosen)
    assert_same(value_and_gradient(compute, room=room, chosen=chosen), wanted)


def make_layer(*, shared=0, capacity=0.0, dtype="float32"):
    make_router = functools.partial(
        router.Router,
        **dict(experts=E, chosen=K, scores="softmax", normalize=True, scale=1.0, balance=False),
        **dict(groups=0, groups_chosen=0, capacity=capacity, initializer=None),
    )
    return experts.Experts(
        experts=E,
        hidden=F,
        activation="silu",
        shared=shared,
        router=make_router,
        room=lambda length: router.capacity_of(length, E, K, capacity) if capacity else 0,
        compute=experts.with_room if capacity else experts.dropless,
        initializer=None,
        out_initializer=None,
        dtype=np.dtype(dtype),
    )


@functools.cache
def layer_params(shared=0):
    made = jax.jit(make_layer(shared=shared).init)(jax.random.key(0), X)["params"]
    return meta.unbox(made)


def test_a_layer_is_its_router_and_its_experts():
    params = layer_params()
    y, sums = jax.jit(make_layer().apply)({"params": params}, X)
    routes = jax.jit(make_layer().router().apply)({"params": params["router"]}, X, None)
    kernels = [params[name]["kernel"] for name in NAMES]
    wanted, _ = plain(X, routes.weights, *kernels, chosen=np.asarray(routes.chosen))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    assert set(sums["losses"]) == {"balance", "router_z"}
    np.testing.assert_array_equal(sums["stats"]["load"], routes.stats["load"])


def test_a_layer_with_room_is_the_dropless_one_without_those_it_drops():
    params = layer_params()
    y, sums = jax.jit(make_layer(capacity=0.6).apply)({"params": params}, X)
    routes = jax.jit(make_layer(capacity=0.6).router().apply)({"params": params["router"]}, X, None)
    keep = np.asarray(routes.keep)
    assert sums["stats"]["dropped"] == (~keep).sum() > 0
    kernels = [params[name]["kernel"] for name in NAMES]
    wanted, _ = plain(X, routes.weights, *kernels, chosen=np.asarray(routes.chosen), keep=keep)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_shared_experts_are_added_for_every_token_without_a_weight():
    params = layer_params(shared=2)
    assert params["shared"]["gate"]["kernel"].shape == (D, 2 * F)
    alone = {name: leaf for name, leaf in params.items() if name != "shared"}
    given = (X, SOME[..., 0])
    y, _ = jax.jit(make_layer(shared=2).apply)({"params": params}, *given)
    chosen, _ = jax.jit(make_layer().apply)({"params": alone}, *given)
    gate, up, down = (np.float64(params["shared"][name]["kernel"]) for name in NAMES)
    np.testing.assert_allclose(y - chosen, (silu(X @ gate) * (X @ up)) @ down, rtol=1e-4, atol=1e-5)


def test_padding_goes_through_no_expert():
    y, _ = jax.jit(make_layer().apply)({"params": layer_params()}, X, SOME[..., 0])
    np.testing.assert_array_equal(np.abs(y).max(-1) > 0, SOME[..., 0])


@pytest.mark.parametrize("capacity", [0.0, 1.0])
def test_outputs_are_of_their_dtype(capacity):
    layer = make_layer(capacity=capacity, shared=1, dtype="bfloat16")
    y, sums = jax.eval_shape(layer.apply, {"params": layer_params(shared=1)}, X)
    assert y.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(sums)} == {"float32"}
