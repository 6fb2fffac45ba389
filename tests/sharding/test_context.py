"""Laws of attention over a length that is cut: the reference's numbers, in ring and all-to-all."""

import functools

import jax
import numpy as np
import pytest

from bigmodel import config
from bigmodel.layers import attention, attention_bands, attention_parts
from bigmodel.sharding import context, kernels, rules, splash
from bigmodel.sharding import mesh as meshes
from tests import tables

ROWS, T = 4, 32

# What a case does not name is as here; `length` and blocks are the kernel's.
CASES: dict[str, dict] = {
    "causal": {},
    "segments": dict(segments=True),
    "bidirectional": dict(causal=False, segments=True),
    "window_inside_a_chunk": dict(window=3, segments=True),
    "window_of_two": dict(window=2),
    "window_of_one": dict(window=1),
    "window_over_chunks": dict(window=11, segments=True),
    "window_to_both_sides": dict(causal=False, window=7, segments=True),
    "grouped_and_capped": dict(K=2, softcap=2.0, scale=0.4, segments=True),
    "multi_query": dict(K=1),
}
MESHES = {
    "context8": dict(context=8),
    "context4_tensor2": dict(context=4, tensor=2),
    "fsdp2_context2_tensor2": dict(fsdp=2, context=2, tensor=2),
}
SPLASH = splash.Parts((("block_q", 128), ("block_kv", 128)), interpret=True)


def value_and_gradient(attend, case, order=None, length=T, rows=ROWS):
    """Output and gradients, in the row's own order whatever order attention has."""
    options = dict(case)
    H, K, C = 8, options.pop("K", 8), 4
    segmented = options.pop("segments", False)
    draw = np.random.default_rng(0)
    shapes = ((rows, length, H, C), (rows, length, K, C), (rows, length, K, C))
    arrays = [draw.normal(size=shape).astype(np.float32) for shape in (*shapes, shapes[0])]
    ids = np.sort(draw.integers(1, 4, (rows, length)), axis=1).astype(np.int32)
    ids[:, -length // 8 :] = 0
    order = np.arange(length) if order is None else order
    back = np.argsort(order)

    def loss(q, k, v):
        q, k, v, cotangent = (x[:, order] for x in (q, k, v, arrays[3]))
        out = attend(q, k, v, ids[:, order] if segmented else None, **options)
        return (out * cotangent).sum(), out[:, back]

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays[:3])
    return out, *grads


def on_mesh(how, made, axes):
    mesh = meshes.make(axes)
    known = dict(rules.table("fsdp_tensor", (), mesh.axis_names))
    return functools.partial(how, made, mesh, known)


def assert_same(found, wanted):
    for name, a, b in zip(("out", "q", "k", "v"), found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


@functools.cache
def reference(name, length=T, rows=ROWS):
    return value_and_gradient(attention.reference, CASES[name], None, length, rows)


def order_of(case, axes, length=T):
    return context.zigzag(length, axes["context"]) if case.get("causal", True) else None


def of_the_product(mesh: str):
    long = mesh != "context4_tensor2"
    return pytest.param(MESHES[mesh], id=mesh, marks=[pytest.mark.layouts] * long)


@pytest.mark.parametrize("axes", [of_the_product(mesh) for mesh in MESHES])
@pytest.mark.parametrize("name", CASES)
def test_a_ring_is_the_reference_in_value_and_gradient(name, axes):
    ring = on_mesh(context.ring, attention_parts, axes)
    found = value_and_gradient(ring, CASES[name], order_of(CASES[name], axes))
    assert_same(found, reference(name))


@pytest.mark.parametrize("name", ["segments", "bidirectional", "window_over_chunks", "multi_query"])
@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES)
def test_all_to_all_is_the_reference_in_value_and_gradient(name, axes):
    found = value_and_gradient(
        on_mesh(context.all_to_all, attention_bands.banded, axes), CASES[name]
    )
    assert_same(found, reference(name))


# Chunks of 128, so that the kernel runs and the fallback does not; windows that end in a chunk,
# and one that leaves blocks of queries without a key.
KERNEL = {
    "causal": {},
    "segments": dict(segments=True, K=2, softcap=3.0),
    "window": dict(window=200, segments=True),
    "window_over_one_chunk": dict(window=40),
    "bidirectional": dict(causal=False, window=150, segments=True),
}


@pytest.mark.parametrize("name", tables.rows(KERNEL, ["segments"], pytest.mark.layouts))
def test_a_ring_of_the_tpu_kernel_is_the_reference(name):
    case, axes, length = KERNEL[name], dict(context=2), 512
    ring = on_mesh(context.ring, SPLASH, axes)
    found = value_and_gradient(ring, case, order_of(case, axes, length), length, 1)
    assert_same(found, value_and_gradient(attention.reference, case, None, length, 1))


def test_queries_in_parts_are_the_same_as_all_at_once(monkeypatch):
    ring = on_mesh(context.ring, attention_parts, dict(context=2))
    monkeypatch.setattr(attention_parts, "QUERIES", 4)
    case = CASES["window_over_chunks"]
    found = value_and_gradient(ring, case, context.zigzag(T, 2))
    assert_same(found, reference("window_over_chunks"))


def test_zig_zag_gives_each_device_the_same_work():
    order = context.zigzag(16, 4).reshape(4, 4)
    np.testing.assert_array_equal(order[0], [0, 1, 14, 15])
    seen = (order + 1).sum(1)  # keys that the queries of a device see
    assert set(seen) == {34}


def test_a_batch_in_another_order_keeps_each_token_with_what_is_its_own():
    order = context.zigzag(8, 2)
    batch = {"tokens": np.arange(16).reshape(2, 8), "rows": np.arange(2)}
    found = context.in_order(batch, order)
    np.testing.assert_array_equal(found["tokens"], batch["tokens"][:, order])
    np.testing.assert_array_equal(found["indices"][1], order)
    np.testing.assert_array_equal(found["positions"][1], order)
    np.testing.assert_array_equal(found["rows"], batch["rows"])


FIELDS = dict(attention_dropout=0.0, attention_softcap=0.0, dtype="float32", head_dim=0)
FIELDS |= dict(width=32, heads=8, context_attention="ring")


@pytest.mark.parametrize(
    "more, axes, extra, said",
    [
        (dict(attention_dropout=0.1), dict(context=2), {}, "attention_dropout = 0.1.*context = 2"),
        (dict(context_attention="all_to_all"), dict(context=3, tensor=2), {}, "heads = 8.*3 x 2"),
        ({}, dict(data=2), dict(length="data"), "'length' lies on 'data'"),
    ],
)
def test_what_attention_over_a_cut_length_cannot_do_is_refused(more, axes, extra, said):
    mesh = meshes.make(axes)
    table = rules.table("fsdp_tensor", tuple(extra.items()), mesh.axis_names)
    with pytest.raises(config.InputError, match=said):
        kernels.make_attention("auto", mesh, table, FIELDS | more)
