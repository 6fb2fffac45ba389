"""Laws of attention: what each implementation computes, who sees whom, and what it holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.layers import attention, attention_bands

# One row is one situation; what it leaves out is as in DEFAULTS.
DEFAULTS = dict(B=2, T=12, S=12, H=2, K=2, causal=True, window=0, offset=0, scale=None, softcap=0.0)
PACKED = [[1] * 5 + [2] * 4 + [0] * 3, [0] * 2 + [1] * 1 + [2] * 9]
CASES = {
    "causal": {},
    "bidirectional": dict(causal=False),
    "window": dict(window=3),
    "window_both_sides": dict(causal=False, window=3),
    "window_of_one": dict(window=1),
    "segments": dict(segments=PACKED),
    "segments_bidirectional": dict(segments=PACKED, causal=False),
    "grouped": dict(H=6, K=2),
    "multi_query": dict(H=4, K=1),
    "soft_cap": dict(softcap=2.0),
    "scale": dict(scale=0.7),
    "offset": dict(T=3, offset=7),
    "other_segments": dict(T=4, causal=False, segments=[[1, 2, 2, 0]] * 2, kv_segments=PACKED),
    "all": dict(H=4, window=4, segments=PACKED, softcap=3.0, scale=0.5),
}


# What kernels do not know, and leave to these.
PLAIN_CASES = {
    "bias": dict(bias=1, H=4),
    "bias_of_rows": dict(bias=2, causal=False, segments=PACKED),
    "prefix": dict(prefix=[[1] * 5 + [0] * 7, [0, 0, 1] + [0] * 9]),
    "prefix_window": dict(prefix=[[1] * 7 + [0] * 5, [1] * 12], window=4, segments=PACKED),
    "bias_prefix_offset": dict(T=3, offset=7, bias=1, prefix=[[0] * 9 + [1] * 3, [1] * 12]),
}


def case(name, T=None):
    fields = {**DEFAULTS, **(CASES | PLAIN_CASES)[name]}
    if T:  # the same situation, longer: segments are stretched
        fields |= dict(T=T, S=fields["S"] - DEFAULTS["S"] + T)
    B, T, S, H, K = (fields.pop(letter) for letter in "BTSHK")
    draw = np.random.default_rng(T)
    shapes = ((B, T, H, 8), (B, S, K, 8), (B, S, K, 8), (B, T, H, 8))
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    for key, length in (("segments", T), ("kv_segments", S)):
        ids = fields.pop(key, None)
        if ids is not None:
            ids = np.repeat(np.array(ids, np.int32), -(-length // len(ids[0])), axis=1)[:, :length]
        fields[key] = ids
    if "prefix" in fields:
        fields["prefix"] = np.array(fields["prefix"], bool)
    if rows := fields.pop("bias", 0):
        fields["bias"] = draw.normal(size=(rows, H, T, S)).astype(np.float32)
    return arrays, fields


def seen_by_rule(T, S, *, segments, kv_segments, causal, window, offset, prefix=None, **_):
    """The contract read out, element by element."""
    kv_segments = segments if kv_segments is None else kv_segments
    seen = np.ones((2, T, S), bool)
    for b, t, j in np.ndindex(seen.shape):
        i = t + offset
        seen[b, t, j] = (
            (not causal or j <= i or (prefix is not None and prefix[b, j]))
            and (not window or abs(i - j) < window)
            and (segments is None or segments[b, t] == kv_segments[b, j])
        )
    return seen


def plain(q, k, v, seen, *, scale, softcap, bias=0.0):
    """softmax(Q K^T scale + bias) V in float64, an equation a line; and what its gradient needs."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("BTHC,BSHC->BHTS", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores + bias
    capped = softcap * np.tanh(scores / softcap) if softcap else scores
    weights = np.where(seen[:, None], np.exp(capped - capped.max(-1, keepdims=True)), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("BHTS,BSHC->BTHC", weights, v), (q, k, v, capped, weights)


def plain_gradient(q, k, v, seen, cotangent, *, scale, softcap, bias=0.0):
    """The gradient of sum(plain * cotangent), by hand."""
    K = k.shape[2]
    options = dict(scale=scale, softcap=softcap, bias=bias)
    _, (q, k, v, capped, weights) = plain(q, k, v, seen, **options)
    of_weights = np.einsum("BTHC,BSHC->BHTS", cotangent, v)
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    if softcap:
        of_scores *= 1 - (capped / softcap) ** 2
    of_scores *= q.shape[-1] ** -0.5 if scale is None else scale

    def of_groups(x):  # heads of queries that share a key add up
        return x.reshape(*x.shape[:2], K, -1, x.shape[-1]).sum(3)

    of_q = np.einsum("BHTS,BSHC->BTHC", of_scores, k)
    of_k = of_groups(np.einsum("BHTS,BTHC->BSHC", of_scores, q))
    return of_q, of_k, of_groups(np.einsum("BHTS,BTHC->BSHC", weights, cotangent))


def value_and_gradient(attend, arrays, fields, **more):
    q, k, v, cotangent = arrays

    def loss(q, k, v):
        out = attend(q, k, v, **fields, **more)
        return (out * cotangent).sum(), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, grads


def assert_same(found, wanted, tolerance=2e-5):
    (out, grads), (plain_out, plain_grads) = found, wanted
    np.testing.assert_allclose(out, plain_out, rtol=tolerance, atol=tolerance)
    for name, grad, plain_grad in zip("qkv", grads, plain_grads, strict=True):
        np.testing.assert_allclose(grad, plain_grad, rtol=tolerance, atol=tolerance, err_msg=name)


@functools.cache
def by_reference(name, T=None):
    arrays, fields = case(name, T)
    return value_and_gradient(attention.reference, arrays, fields)


@pytest.mark.parametrize("name", ["grouped", "all"])
def test_the_yardstick_gradient_is_that_of_small_differences(name):
    (q, k, v, cotangent), fields = case(name)
    seen = seen_by_rule(q.shape[1], k.shape[1], **fields)
    options = dict(scale=fields["scale"], softcap=fields["softcap"])
    grads = plain_gradient(q, k, v, seen, cotangent, **options)
    arrays = [x.astype(np.float64) for x in (q, k, v)]
    draw = np.random.default_rng(0)
    for n, grad in enumerate(grads):
        step = 1e-6 * draw.normal(size=grad.shape)
        up, down = ([*arrays[:n], arrays[n] + s, *arrays[n + 1 :]] for s in (step, -step))
        change = plain(*up, seen, **options)[0] - plain(*down, seen, **options)[0]
        assert (change * cotangent).sum() / 2 == pytest.approx((grad * step).sum(), rel=1e-5)


@pytest.mark.parametrize("name", [*CASES, *PLAIN_CASES])
def test_the_reference_is_the_softmax_of_the_paper_in_value_and_gradient(name):
    (q, k, v, cotangent), fields = case(name)
    seen = seen_by_rule(q.shape[1], k.shape[1], **fields)
    options = {key: fields[key] for key in ("scale", "softcap", "bias") if key in fields}
    out, _ = plain(q, k, v, seen, **options)
    grads = plain_gradient(q, k, v, seen, cotangent, **options)
    if name == "other_segments":  # queries of padding see padding alone; all see something
        assert seen.any(-1).all()
    assert_same(by_reference(name), (out, grads))


# Every other implementation that runs here, cut small enough for short rows.
OTHERS = {
    "banded": functools.partial(attention_bands.banded, bands=3),
    "chunked": functools.partial(attention_bands.chunked, chunk=4, bands=2),
}
over_others = pytest.mark.parametrize("attend", OTHERS.values(), ids=OTHERS)
over_all = pytest.mark.parametrize(
    "attend", [attention.reference, *OTHERS.values()], ids=["reference", *OTHERS]
)


@over_others
@pytest.mark.parametrize("name", [*CASES, *PLAIN_CASES])
def test_other_implementations_are_the_reference_in_value_and_gradient(name, attend):
    arrays, fields = case(name)
    assert_same(value_and_gradient(attend, arrays, fields), by_reference(name))


@over_others
def test_a_bias_has_the_gradient_of_the_reference(attend):
    (q, k, v, cotangent), fields = case("bias")
    bias = fields.pop("bias")

    def gradient(attend):
        return jax.jit(jax.grad(lambda b: (attend(q, k, v, bias=b, **fields) * cotangent).sum()))(
            bias
        )

    wanted = gradient(attention.reference)
    np.testing.assert_allclose(gradient(attend), wanted, rtol=2e-5, atol=2e-6)
    assert np.abs(wanted).max() > 0.01


@pytest.mark.parametrize("chunk, bands", [(5, 2), (8, 1), (16, 8), (36, 8), (64, 3)])
def test_chunked_is_the_reference_for_any_chunk_of_an_odd_length(chunk, bands):
    arrays, fields = case("all", T=37)
    found = value_and_gradient(attention_bands.chunked, arrays, fields, chunk=chunk, bands=bands)
    assert_same(found, by_reference("all", T=37))


def test_recomputed_attention_is_the_same_and_keeps_nothing_of_its_inside():
    arrays, fields = case("grouped")
    again = attention.recomputed(attention.reference)
    assert_same(value_and_gradient(again, arrays, fields), by_reference("grouped"), 1e-6)


@over_all
def test_an_offset_may_be_known_only_when_the_program_runs(attend):
    arrays, fields = case("offset")
    offset = fields.pop("offset")
    options = {name: value for name, value in fields.items() if value is not None}
    out = jax.jit(lambda q, k, v, at: attend(q, k, v, offset=at, **options))(*arrays[:3], offset)
    np.testing.assert_allclose(out, by_reference("offset")[0], rtol=1e-5, atol=1e-6)


@over_others
def test_other_implementations_drop_the_same_probabilities(attend):
    arrays, fields = case("all", T=21)
    options = dict(keys=jax.random.split(jax.random.key(0), 2), dropout=0.4)
    wanted = value_and_gradient(attention.reference, arrays, fields, **options)
    assert_same(value_and_gradient(attend, arrays, fields, **options), wanted)
    assert np.abs(wanted[0] - by_reference("all", T=21)[0]).max() > 0.1


def test_dropped_probabilities_are_those_of_their_row_in_the_right_share():
    keys = jax.random.split(jax.random.key(0), 3)
    factors = np.asarray(attention.drop_factors(keys, 0, (16, 4, 64), 0.25))
    assert set(np.unique(factors)) == {0.0, np.float32(1 / 0.75)}
    assert (factors == 0).mean() == pytest.approx(0.25, abs=0.01)
    alone = attention.drop_factors(keys[2:], 5, (1, 4, 64), 0.25)
    np.testing.assert_array_equal(alone[0, 0], factors[2, 5])


def drawn_mask():
    rows = [line.split() for line in attention.__doc__.splitlines() if line.startswith("    q ")]
    return np.array([[mark == "x" for mark in row[2:]] for row in rows])


@over_all
def test_gradients_reach_the_keys_that_the_docstring_draws_and_no_others(attend):
    mask = drawn_mask()
    assert mask.shape == (6, 6)
    segments = jnp.array([[1, 1, 1, 1, 2, 2]])
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 6, 1, 4))

    def outputs(k, v):
        return attend(q, k, v, segments, window=3).sum((0, 2, 3))

    of_k, of_v = jax.jit(jax.jacrev(outputs, argnums=(0, 1)))(k, v)
    np.testing.assert_array_equal(np.abs(of_v).sum((1, 3, 4)) > 0, mask)
    alone = mask.sum(1, keepdims=True) == 1  # a query that sees one key has no choice to change
    np.testing.assert_array_equal(np.abs(of_k).sum((1, 3, 4)) > 1e-7, mask & ~alone)


@over_all
def test_padding_changes_nothing_for_the_tokens_beside_it(attend):
    (q, k, v, _), _ = case("grouped")
    run, out = jax.jit(attend), by_reference("grouped")[0]
    for before in (0, 2, 3):
        wide = [(0, 0), (before, 3 - before), (0, 0), (0, 0)]
        padded = [np.pad(x, wide, constant_values=7.0) for x in (q, k, v)]
        segments = np.pad(np.ones((2, 12), np.int32), wide[:2])
        found = run(*padded, segments)[:, before : before + 12]
        np.testing.assert_allclose(found, out, rtol=1e-5, atol=1e-6)


@over_all
def test_packed_documents_are_as_if_alone(attend):
    (q, k, v, _), _ = case("grouped")
    packed = jax.jit(attend)(q, k, v, np.array([[1] * 5 + [2] * 7] * 2))
    for part in (np.s_[:, :5], np.s_[:, 5:]):
        alone = jax.jit(attention.reference)(q[part], k[part], v[part])
        np.testing.assert_allclose(packed[part], alone, rtol=1e-5, atol=1e-6)


def test_a_row_that_sees_nothing_is_finite_in_value_and_gradient():
    (q, k, v, cotangent), fields = case("other_segments")
    fields["segments"] = np.full((2, 4), 9, np.int32)
    out, grads = value_and_gradient(attention.reference, (q, k, v, cotangent), fields)
    assert all(np.isfinite(x).all() for x in (out, *grads))


@over_all
def test_bfloat16_gives_bfloat16_close_to_float32(attend):
    arrays, fields = case("all")
    halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays[:3]]
    out = jax.jit(functools.partial(attend, **fields))(*halves)
    assert out.dtype == jnp.bfloat16
    assert np.abs(out.astype(jnp.float32) - by_reference("all")[0]).max() < 0.03


def temporary_bytes(attend, T):
    def loss(q, k, v):
        return attend(q, k, v).sum()

    x = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_chunked_never_holds_an_array_of_all_scores_and_grows_with_the_length_alone():
    square = 4 * 2048**2
    assert temporary_bytes(attention.reference, 2048) > square
    short, long = (temporary_bytes(attention_bands.chunked, T) for T in (2048, 4096))
    assert short < square
    assert long < 2.5 * short
