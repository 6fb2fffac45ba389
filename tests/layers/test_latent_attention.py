"""Laws of latent attention: DeepSeek-V2's equations, and values of another width than queries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel.layers import (
    attention,
    attention_bands,
    attention_parts,
    latent_attention,
    positions,
)

B, T, D, H = 2, 7, 10, 3
QUERY_RANK, KV_RANK, PLAIN, TURNED, VALUE = 6, 5, 4, 2, 3
EPSILON = 1e-6
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(B, T, D)).astype(np.float32)
SEGMENTS = np.array([[1] * 3 + [2] * 4, [1] * 6 + [0]], np.int32)
PLACES = np.array([[0, 1, 2, 0, 1, 2, 3], np.arange(T)], np.int32)
SHAPES = {
    "query_down/kernel": (D, QUERY_RANK),
    "query_norm/scale": (QUERY_RANK,),
    "query/kernel": (QUERY_RANK, H, PLAIN + TURNED),
    "kv_down/kernel": (D, KV_RANK + TURNED),
    "kv_norm/scale": (KV_RANK,),
    "key_value/kernel": (KV_RANK, H, PLAIN + VALUE),
    "out/kernel": (H, VALUE, D),
}
PARAMS: dict = {}
for path, shape in SHAPES.items():
    part, leaf = path.split("/")
    PARAMS[part] = {leaf: DRAW.normal(size=shape).astype(np.float32)}


def make(attend=attention.reference, scale=None):
    return latent_attention.LatentAttention(
        **dict(heads=H, query_rank=QUERY_RANK, kv_rank=KV_RANK, plain_dim=PLAIN),
        **dict(rope_dim=TURNED, value_dim=VALUE, norm_epsilon=EPSILON, scale=scale),
        **dict(attend=attend, initializer=None, out_initializer=None, dtype=np.dtype("float32")),
    )


def apply(x, segments=SEGMENTS, places=PLACES, *, window=0, turned=True, **fields):
    angles = positions.Rotary().angles(places, TURNED) if turned else None
    given = (x, segments, angles, None)
    run = jax.jit(functools.partial(make(**fields).apply, window=window, layer=0, cache=None))
    return run({"params": PARAMS}, *given)[0]


def normalised(x, scale):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * scale


def turned_by(x, places):
    """Pairs (x_i, x_{i + C/2}) of the last axis as complex numbers, turned."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * places * 10_000.0 ** -(np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def paper(x, segments, places, *, window=0, scale=(PLAIN + TURNED) ** -0.5):
    """arXiv:2405.04434, eq. 37 to 47, token by token and head by head in float64.

    The norms of the two latents are those of its section 3.1.2.
    """
    weights = {name: np.float64(next(iter(leaf.values()))) for name, leaf in PARAMS.items()}
    x = x.astype(np.float64)
    y = np.zeros_like(x)
    for b in range(B):
        c_q = normalised(x[b] @ weights["query_down"], weights["query_norm"])  # 37
        down = x[b] @ weights["kv_down"]
        c_kv = normalised(down[:, :KV_RANK], weights["kv_norm"])  # 41
        shared_key = [turned_by(down[t, KV_RANK:], places[b, t]) for t in range(T)]  # 43
        for h in range(H):
            q = c_q @ weights["query"][:, h]  # 38 and 39 in one product
            kv = c_kv @ weights["key_value"][:, h]  # 42 and 45 in one
            for t in range(T):
                query = np.append(q[t, :PLAIN], turned_by(q[t, PLAIN:], places[b, t]))  # 40
                seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
                seen = [s for s in seen if not window or t - s < window]
                keys = [np.append(kv[s, :PLAIN], shared_key[s]) for s in seen]  # 44
                power = np.exp(np.array([query @ key for key in keys]) * scale)  # 46
                o = power @ kv[seen, PLAIN:] / power.sum()
                y[b, t] += o @ weights["out"][h]  # 47
    return y


CASES = {
    "packed": {},
    "one_document": dict(segments=np.ones((B, T), np.int32)),
    "window": dict(window=2),
    "scale": dict(scale=0.9),
}


@pytest.mark.parametrize("name", CASES)
def test_the_layer_is_the_equations_of_the_paper(name):
    case = {"segments": SEGMENTS, "places": PLACES} | CASES[name]
    np.testing.assert_allclose(apply(X, **case), paper(X, **case), rtol=1e-4, atol=1e-4)


def test_without_angles_nothing_is_turned():
    wanted = paper(X, SEGMENTS, np.zeros_like(PLACES))
    np.testing.assert_allclose(apply(X, turned=False), wanted, rtol=1e-4, atol=1e-4)


def test_positions_count_by_their_distance_alone():
    np.testing.assert_allclose(apply(X, places=PLACES + 9), apply(X), rtol=1e-3, atol=1e-4)
    assert np.abs(apply(X, places=2 * PLACES) - apply(X)).max() > 1e-2


def test_parameters_are_the_seven_of_the_paper():
    angles = positions.Rotary().angles(PLACES, TURNED)
    init = functools.partial(make().init, window=0, layer=0, cache=None)
    made = meta.unbox(jax.eval_shape(init, jax.random.key(0), X, None, angles, None)["params"])
    assert jax.tree.map(lambda leaf: leaf.shape, made) == jax.tree.map(np.shape, PARAMS)


# Values of another width, in everything that computes attention

IMPLEMENTATIONS = {
    "banded": functools.partial(attention_bands.banded, bands=3),
    "chunked": functools.partial(attention_bands.chunked, chunk=3, bands=2),
    "recomputed": attention.recomputed(attention.reference),
}


def draw(K, C, V):
    """q, k, v and what weighs the output, with values of width V."""
    shapes = ((B, T, H, C), (B, T, K, C), (B, T, K, V), (B, T, H, V))
    return [np.random.default_rng(K).normal(size=shape).astype(np.float32) for shape in shapes]


def value_and_gradient(attend, K, V):
    q, k, v, cotangent = draw(K, 4, V)

    def loss(q, k, v):
        out = attend(q, k, v, SEGMENTS, window=4)
        return (out * cotangent).sum(), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def in_two_parts(K, V, window=4):
    """Over the first keys and over the others, joined, as a ring of two devices joins them."""
    q, k, v, cotangent = draw(K, 4, V)
    pieces = []
    for piece in (slice(0, 3), slice(3, T)):
        seen = attention_parts.Seen(-piece.start, True, window, q.shape[-1] ** -0.5, 0.0)
        pieces.append((seen, q, k[:, piece], v[:, piece], SEGMENTS, SEGMENTS[:, piece]))

    def run(pieces):
        out, lse = attention_parts.nothing(q, v)
        for piece in pieces:
            out, lse = attention_parts.join((out, lse), attention_parts.forward(*piece))
        grads = [attention_parts.backward(*piece, out, lse, cotangent) for piece in pieces]
        of_q, of_k, of_v = zip(*grads, strict=True)
        return out, sum(of_q), *(jnp.concatenate(grad, axis=1) for grad in (of_k, of_v))

    return jax.jit(lambda: run(pieces))()


@pytest.mark.parametrize("V, K", [(2, H), (6, 1)], ids=["narrower", "wider, grouped"])
def test_values_of_another_width_are_weighed_alike_by_every_implementation(V, K):
    q, k, v, _ = draw(K, 4, V)
    wanted = value_and_gradient(attention.reference, K, V)
    assert wanted[0].shape == (B, T, H, V)
    # Values do not know of each other: cut or filled up to the queries' width they weigh the same.
    of_queries = np.pad(v, [(0, 0)] * 3 + [(0, 2)])[..., :4]
    square = attention.reference(q, k, of_queries, SEGMENTS, window=4)
    n = min(V, 4)
    np.testing.assert_allclose(wanted[0][..., :n], square[..., :n], rtol=1e-5, atol=1e-6)
    found = {name: value_and_gradient(attend, K, V) for name, attend in IMPLEMENTATIONS.items()}
    found["parts"] = in_two_parts(K, V)
    for name, arrays in found.items():
        for what, array, other in zip(("out", *"qkv"), arrays, wanted, strict=True):
            message = f"{name} {what}"
            np.testing.assert_allclose(array, other, rtol=2e-5, atol=2e-5, err_msg=message)


@pytest.mark.parametrize("attend", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_the_layer_is_the_same_whatever_attends(attend):
    np.testing.assert_allclose(apply(X, attend=attend), apply(X), rtol=1e-5, atol=1e-5)
