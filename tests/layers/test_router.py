"""Laws of the router: who is chosen, with what weight, who has room, and what the losses say."""

import functools

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel.layers import router

B, T, D, E, K = 2, 12, 8, 8, 2
DEFAULTS = dict(
    **dict(experts=E, chosen=K, scores="softmax", normalize=False, scale=1.0, balance=False),
    **dict(groups=0, groups_chosen=0, capacity=0.0, initializer=None),
)
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(D, E)).astype(np.float32)
BIAS = np.random.default_rng(2).normal(size=E).astype(np.float32)
REAL = np.arange(T)[None] < np.array([[T - 4], [T]])

CASES = {
    "softmax": {},
    "softmax, normalised": dict(normalize=True),
    "softmax, scaled": dict(scale=2.5),
    "sigmoid": dict(scores="sigmoid"),
    "sigmoid, normalised and scaled": dict(scores="sigmoid", normalize=True, scale=2.5),
    "one expert": dict(chosen=1, normalize=True),
    "groups": dict(groups=4, groups_chosen=2, chosen=3),
    "groups of one": dict(groups=8, groups_chosen=3, chosen=3),
    "deepseek": dict(
        **dict(scores="sigmoid", normalize=True, scale=2.5, balance=True),
        **dict(groups=4, groups_chosen=2, chosen=3),
    ),
}


@functools.cache
def program(**changes):
    module = router.Router(**(DEFAULTS | changes))
    return jax.jit(lambda params, *given: module.apply({"params": params}, *given))


def params_of(changes, kernel=KERNEL):
    return {"kernel": kernel} | ({"balance": BIAS} if changes.get("balance") else {})


def route(x=X, real=None, indices=None, kernel=KERNEL, **changes):
    return program(**changes)(params_of(changes, kernel), x, real, indices)


def plain_scores(scores="softmax", **_):
    """Logits and scores in float64."""
    logits = X.astype(np.float64) @ KERNEL
    power = np.exp(logits)
    return logits, power / (power.sum(-1, keepdims=True) if scores == "softmax" else 1 + power)


def plain_choice(ranked, k, groups, groups_chosen):
    """The best k of one token's experts, best first: of the groups with the best two."""
    allowed = range(E)
    if groups:
        size = E // groups
        best_two = [sum(sorted(ranked[g * size : (g + 1) * size])[-2:]) for g in range(groups)]
        chosen = sorted(range(groups), key=best_two.__getitem__)[-groups_chosen:]
        allowed = [e for e in range(E) if e // size in chosen]
    return sorted(allowed, key=ranked.__getitem__, reverse=True)[:k]


def hits(chosen):
    return (np.asarray(chosen)[..., None] == np.arange(E)).any(-2)


@pytest.mark.parametrize("name", CASES)
def test_the_chosen_and_their_weights_are_those_of_the_papers(name):
    fields = DEFAULTS | CASES[name]
    _, scores = plain_scores(**CASES[name])
    ranked = scores + BIAS if fields["balance"] else scores
    routes = route(**CASES[name])
    for at in np.ndindex(B, T):
        how = fields["chosen"], fields["groups"], fields["groups_chosen"]
        wanted = plain_choice(ranked[at], *how)
        np.testing.assert_array_equal(routes.chosen[at], wanted)
        weights = scores[at][wanted]
        weights = weights / weights.sum() if fields["normalize"] else weights
        np.testing.assert_allclose(routes.weights[at], fields["scale"] * weights, rtol=2e-5)
    assert np.asarray(routes.keep).all()


def test_groups_leave_out_the_best_expert_of_a_group_that_is_not_chosen():
    """Otherwise the cases above would not tell groups from none."""
    free, bound = (route(**case).chosen for case in (dict(chosen=3), CASES["groups"]))
    assert (np.sort(free) != np.sort(bound)).any()
    of_group = np.asarray(bound) // 2
    assert max(len(set(groups)) for groups in of_group.reshape(-1, 3)) == 2


def test_padding_takes_no_part_in_losses_load_and_room():
    other = np.where(REAL[..., None], X, 7.0 * X[:, ::-1])
    for capacity in (0.0, 1.0):
        given, again = (route(x, REAL, balance=True, capacity=capacity) for x in (X, other))
        jax.tree.map(np.testing.assert_array_equal, given.losses, again.losses)
        jax.tree.map(np.testing.assert_array_equal, given.stats, again.stats)
        np.testing.assert_array_equal(given.keep, again.keep)
        assert not np.asarray(given.keep)[~REAL].any()
        assert given.stats["load"].sum() == K * REAL.sum()
        whole = route(balance=True, capacity=capacity)
        assert whole.stats["load"].sum() == K * B * T
        assert np.asarray(given.keep)[REAL].all() == (capacity == 0.0)


def test_a_row_is_as_long_as_its_tokens_in_the_losses():
    """The same tokens without the padding behind them, in losses that have no room."""
    first = slice(0, 1), slice(0, T - 4)
    padded, alone = route(X[:1], REAL[:1]), route(X[first])
    for name in ("balance", "router_z"):
        np.testing.assert_allclose(padded.losses[name], alone.losses[name], rtol=1e-5)
    np.testing.assert_array_equal(padded.stats["load"], alone.stats["load"])


def keep_in_order(chosen, real, order, room):
    """The contract read out: tokens of a row in turn, each expert as long as it has room."""
    keep = np.zeros(chosen.shape, bool)
    for b in range(B):
        taken = np.zeros(E, int)
        for t in np.argsort(order[b]):
            for i, expert in enumerate(chosen[b, t]):
                if real[b, t]:
                    keep[b, t, i] = taken[expert] < room
                    taken[expert] += 1
    return keep


@pytest.mark.parametrize("capacity, room", [(0.5, 2), (1.0, 3), (1.1, 4), (4.0, 12), (9.0, 12)])
def test_an_expert_takes_the_earlier_tokens_of_each_row_until_it_is_full(capacity, room):
    assert router.capacity_of(T, E, K, capacity) == room
    routes = route(real=REAL, capacity=capacity)
    order = np.broadcast_to(np.arange(T), (B, T))
    wanted = keep_in_order(np.asarray(routes.chosen), REAL, order, room)
    np.testing.assert_array_equal(routes.keep, wanted)
    dropped = (~wanted & REAL[..., None]).sum()
    assert routes.stats["dropped"] == dropped
    assert (dropped == 0) == (room == 12)
    # Who is dropped is still counted as wanted: else the losses would not see the crowd.
    wished = (hits(routes.chosen) & REAL[..., None]).sum((0, 1))
    np.testing.assert_array_equal(routes.stats["load"], wished)


@pytest.mark.parametrize("of_rows", [1, B], ids=["one_order", "an_order_a_row"])
def test_who_has_room_does_not_depend_on_how_the_row_lies(of_rows):
    draw = np.random.default_rng(3)
    indices = np.stack([draw.permutation(T) for _ in range(of_rows)]).astype(np.int32)
    at = np.broadcast_to(indices, (B, T))
    laid = [np.take_along_axis(a, at.reshape(B, T, *[1] * (a.ndim - 2)), 1) for a in (X, REAL)]
    straight = route(real=REAL, capacity=1.0)
    given = route(*laid, indices, capacity=1.0)
    for name in ("chosen", "weights", "keep"):
        wanted = np.take_along_axis(np.asarray(getattr(straight, name)), at[..., None], 1)
        np.testing.assert_allclose(getattr(given, name), wanted, rtol=1e-6)
    assert given.stats["dropped"] == straight.stats["dropped"] > 0
    careless = route(*laid, capacity=1.0)  # why `indices` are there
    assert (np.asarray(careless.keep) != np.asarray(given.keep)).any()


@pytest.mark.parametrize("scores", router.SCORES)
def test_the_balance_loss_of_an_even_router_is_its_tokens_and_else_more(scores):
    even = route(kernel=0 * KERNEL, scores=scores, real=REAL).losses["balance"]
    assert even == pytest.approx(REAL.sum(), rel=1e-6)
    kernel = KERNEL * 0.1
    x = np.abs(X)
    kernel[:, 0] = 1.0  # all choose the first
    assert route(x, REAL, kernel=kernel, scores=scores).losses["balance"] > 1.1 * REAL.sum()


def test_the_losses_are_their_equations():
    logits, scores = plain_scores()
    routes, wanted = route(real=REAL), 0.0
    for b in range(B):
        f = (hits(routes.chosen)[b] & REAL[b, :, None]).sum(0) / REAL[b].sum()
        P = scores[b][REAL[b]].mean(0)
        wanted += REAL[b].sum() * E / K * (f * P).sum()
    assert routes.losses["balance"] == pytest.approx(wanted, rel=1e-5)
    log_z = np.log(np.exp(logits).sum(-1))
    assert routes.losses["router_z"] == pytest.approx((log_z**2)[REAL].sum(), rel=1e-5)
    assert set(routes.losses) == {"balance", "router_z"}


def test_sums_of_a_batch_are_those_of_its_rows_together():
    whole = route(real=REAL, balance=True, capacity=1.0)
    rows = [route(X[b : b + 1], REAL[b : b + 1], balance=True, capacity=1.0) for b in range(B)]
    for sums in ("losses", "stats"):
        apart = jax.tree.map(lambda *each: sum(each), *(getattr(row, sums) for row in rows))
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), getattr(whole, sums), apart
        )


def test_a_balance_bias_changes_the_choice_and_not_the_weights():
    _, scores = plain_scores()
    without, biased = route(), route(balance=True)
    assert (np.asarray(without.chosen) != np.asarray(biased.chosen)).any()
    own = np.take_along_axis(scores, np.asarray(biased.chosen), -1)
    np.testing.assert_allclose(biased.weights, own, rtol=2e-5)


def test_the_gradient_of_a_balance_bias_is_how_much_more_than_the_mean_is_chosen():
    module = router.Router(**(DEFAULTS | dict(balance=True)))

    def loss(params):
        routes = module.apply({"params": params}, X, REAL)
        return routes.losses["steering"] + routes.weights.sum(), routes

    grads, routes = jax.jit(jax.grad(loss, has_aux=True))(params_of(dict(balance=True)))
    load = np.asarray(routes.stats["load"])
    assert np.ptp(load) > 0
    np.testing.assert_allclose(grads["balance"], load - load.mean(), rtol=1e-6)
    assert routes.losses["steering"] == 0.0


def test_the_losses_reach_the_kernel_and_padding_does_not():
    module = router.Router(**DEFAULTS)

    def loss(kernel, x):
        losses = module.apply({"params": {"kernel": kernel}}, x, REAL).losses
        return losses["balance"] + losses["router_z"]

    of_kernel, of_x = jax.jit(jax.grad(loss, argnums=(0, 1)))(KERNEL, X)
    assert (np.abs(of_kernel).max(0) > 0).all()
    np.testing.assert_array_equal(np.abs(of_x).max(-1) > 0, REAL)


def test_a_row_of_padding_alone_costs_nothing_and_is_finite():
    losses = route(real=np.zeros((B, T), bool), capacity=1.0).losses
    assert all(value == 0 for value in losses.values())


def test_a_bias_starts_at_zero_and_is_only_there_when_wanted():
    for balance in (False, True):
        module = router.Router(**(DEFAULTS | dict(balance=balance)))
        made = meta.unbox(jax.jit(module.init)(jax.random.key(0), X, None)["params"])
        assert set(made) == {"kernel", "balance"} if balance else {"kernel"}
        assert not balance or (np.asarray(made["balance"]) == 0).all()
