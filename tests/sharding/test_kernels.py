"""Laws of the attention kernels: the same numbers as the reference, wherever they can run."""

import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import config
from bigmodel.layers import attention
from bigmodel.sharding import kernels, rules, splash
from bigmodel.sharding import mesh as meshes

T = 256
SEGMENTS = np.array([[1] * 100 + [2] * 100 + [0] * 56, [0] * 30 + [1] * 226], np.int32)

# Sizes that a case does not name are those of SIZES; `segments` says whether it has them.
SIZES = dict(T=T, H=2, K=2, C=8)
CASES: dict[str, dict] = {
    "causal": {},
    "bidirectional": dict(causal=False, segments=True),
    "window": dict(window=70, segments=True),
    "window_both_sides": dict(causal=False, window=50),
    "grouped_with_segments": dict(H=4, segments=True, C=64),
    "multi_query": dict(K=1, scale=0.3, C=128),
}
SOFT_CAPPED: dict[str, dict] = {"soft_cap": dict(softcap=2.0, scale=0.7, segments=True)}
SPLASH = functools.partial(
    splash.splash,
    interpret=True,
    block_q=128,
    block_kv=128,
    backward_block_q=128,
    backward_block_kv=128,
)
CUDNN = functools.partial(kernels.cudnn, implementation="xla")


def value_and_gradient(attend, case, *, rows=2, **more):
    options = {**SIZES, **case, **more}
    T, H, K, C = (options.pop(letter) for letter in "THKC")
    segments = np.resize(SEGMENTS, (rows, T)) if options.pop("segments", False) else None
    draw = np.random.default_rng(0)
    shapes = ((rows, T, H, C), (rows, T, K, C), (rows, T, K, C), (rows, T, H, C))
    q, k, v, cotangent = (draw.normal(size=shape).astype(np.float32) for shape in shapes)

    def loss(q, k, v):
        out = attend(q, k, v, segments, **options)
        return (out * cotangent).sum(), out

    grads, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def assert_same(found, wanted):
    for name, a, b in zip(("out", "q", "k", "v"), found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", CASES | SOFT_CAPPED)
def test_splash_is_the_reference_in_value_and_gradient(name):
    case = (CASES | SOFT_CAPPED)[name]
    assert_same(value_and_gradient(SPLASH, case), value_and_gradient(attention.reference, case))


def test_splash_with_one_kernel_for_all_gradients_is_the_reference():
    case = dict(H=4, segments=True, window=70, softcap=2.0)
    fused = functools.partial(SPLASH, fused_backward=True)
    assert_same(value_and_gradient(fused, case), value_and_gradient(attention.reference, case))


@pytest.mark.parametrize("length", [40, 200])
def test_splash_leaves_lengths_that_its_blocks_do_not_divide_to_chunks(length):
    case = dict(T=length, segments=True, H=4, window=30, softcap=2.0)
    found = value_and_gradient(splash.splash, case)  # not interpreted: a kernel would not compile
    assert_same(found, value_and_gradient(attention.reference, case))


@pytest.mark.parametrize(
    "length, wanted, block",
    [(4096, 512, 512), (640, 512, 128), (768, 512, 384), (128, 512, 128), (1024, 100, 128)],
)
def test_a_block_divides_the_length(length, wanted, block):
    assert splash.fit(length, wanted) == block


@pytest.mark.parametrize("name", CASES)
def test_what_cudnn_is_told_means_the_reference(name):
    case = CASES[name]
    assert_same(value_and_gradient(CUDNN, case), value_and_gradient(attention.reference, case))


def test_cudnn_leaves_odd_lengths_to_chunks():
    case = dict(T=41, segments=True, H=4)
    found = value_and_gradient(kernels.cudnn, case)  # no cuDNN here: it would not run
    assert_same(found, value_and_gradient(attention.reference, case))


def test_cudnn_refuses_a_soft_cap():
    with pytest.raises(ValueError, match="soft cap"):
        value_and_gradient(CUDNN, SOFT_CAPPED["soft_cap"])


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("window", [0, 64])
def test_cudnn_is_what_a_cuda_program_calls(monkeypatch, segments, window):
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)  # no library here to ask

    def loss(q, k, v, ids):
        return kernels.cudnn(q, k, v, ids, window=window).astype(jnp.float32).sum()

    q, k = (jax.ShapeDtypeStruct((2, T, heads, 64), jnp.bfloat16) for heads in (4, 2))
    ids = jax.ShapeDtypeStruct((2, T), jnp.int32) if segments else None
    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, k, ids)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "fmha" in text
    assert ("fmhaScaleBias" in text) == segments
    assert "CAUSAL" in text
    assert f"sliding_window_length\\22: {window}" in text


MESHES = {
    "rows": (dict(data=2, fsdp=4), 2),
    "heads": (dict(fsdp=2, tensor=4), 4),
    "fewer_kv_heads_than_parts": (dict(fsdp=2, tensor=4), 2),
    "one_kv_head": (dict(data=1, tensor=8), 1),
}


def on_mesh(local, axes):
    mesh = meshes.make(axes)
    table = rules.table("fsdp_tensor", (), mesh.axis_names)
    return functools.partial(
        kernels.aligned,
        functools.partial(kernels.on_each_device, local, mesh, dict(table)),
        (rules.parts(mesh, dict(table)["batch"]), 1),
    )


@pytest.mark.parametrize("name", MESHES)
def test_a_kernel_on_a_mesh_is_the_kernel_on_one_device(name):
    axes, kv_heads = MESHES[name]
    case = dict(T=16, H=8, K=kv_heads, segments=True, window=5)
    found = value_and_gradient(on_mesh(attention.reference, axes), case, rows=8)
    assert_same(found, value_and_gradient(attention.reference, case, rows=8))


def test_each_device_runs_the_kernel_on_its_own_rows_and_heads():
    seen = []

    def local(q, k, v, *segments, **options):
        seen.append((q.shape, k.shape))
        return attention.reference(q, k, v, *segments, **options)

    case = dict(T=16, H=8, K=2, segments=True)
    value_and_gradient(on_mesh(local, dict(fsdp=2, tensor=4)), case, rows=8)
    assert set(seen) == {((4, 16, 2, 8), (4, 16, 1, 8))}


def test_rows_that_the_mesh_does_not_divide_run_without_the_kernel():
    """One row makes the parameters; a cache has its own offset."""
    local = None  # it would fail when called
    case = dict(T=16, segments=True)
    found = value_and_gradient(on_mesh(local, dict(fsdp=8)), case, rows=1)
    assert_same(found, value_and_gradient(attention.reference, case, rows=1))
    found = value_and_gradient(on_mesh(local, dict(fsdp=8)), case, rows=8, offset=3)
    assert_same(found, value_and_gradient(attention.reference, case, rows=8, offset=3))


def test_a_kernel_refuses_to_drop_probabilities():
    keys = jax.random.split(jax.random.key(0), 8)
    with pytest.raises(ValueError, match="drop"):
        value_and_gradient(on_mesh(None, dict(fsdp=8)), {}, rows=8, keys=keys, dropout=0.1)


FIELDS = dict(
    **dict(attention_dropout=0.0, attention_softcap=0.0, dtype="bfloat16"),
    **dict(head_dim=0, rope_dim=0, width=512, heads=8),
)


@pytest.mark.parametrize(
    "platform, more, name",
    [
        ("tpu", {}, "splash"),
        ("tpu", dict(attention_softcap=50.0), "splash"),
        ("tpu", dict(attention_dropout=0.1), "chunked"),
        ("gpu", {}, "cudnn"),
        ("gpu", dict(dtype="float32"), "chunked"),
        ("gpu", dict(attention_softcap=50.0), "chunked"),
        ("gpu", dict(attention_dropout=0.1), "chunked"),
        ("gpu", dict(head_dim=256), "chunked"),
        ("gpu", dict(heads=128), "chunked"),
        ("cpu", {}, "banded"),
    ],
)
def test_auto_is_a_kernel_that_can_run_the_model(platform, more, name):
    assert kernels.attention_for("auto", platform, FIELDS | more) == name
    assert kernels.attention_for("chunked", platform, FIELDS | more) == "chunked"


def test_a_kernel_of_another_platform_is_refused_with_what_is_allowed():
    mesh = meshes.make(dict(data=-1))
    for name, platform in kernels.PLATFORMS.items():
        with pytest.raises(config.InputError, match=f"{name}.*{platform}.*cpu.*chunked"):
            kernels.make_attention(name, mesh, rules.RULES["fsdp_tensor"], FIELDS)


@pytest.mark.parametrize(
    "more, why",
    [
        (dict(dtype="float32"), "model.dtype = 'float32'"),
        (dict(attention_softcap=50.0), "model.attention_softcap = 50.0"),
        (dict(head_dim=256), "width 256"),
        (dict(heads=128), "width 4"),
    ],
)
def test_what_cudnn_cannot_run_is_said_by_field(more, why):
    assert why in kernels.beyond_cudnn(FIELDS | more)
    assert kernels.beyond_cudnn(FIELDS) == ""


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)")
def test_splash_compiles_for_tpus_that_are_not_here():
    cases = [
        dict(topology="v5e:2x4", mesh=dict(fsdp=-1, tensor=4), shape=(2, 256, 8, 64), kv_heads=2),
        dict(topology="v5p:2x2x1", mesh=dict(fsdp=-1), shape=(4, 256, 4, 128), kv_heads=2)
        | dict(window=100, softcap=50.0, blocks=dict(block_kv=128, fused_backward=True)),
        dict(topology="v6e:2x4", mesh=dict(fsdp=-1), shape=(8, 200, 2, 128), kv_heads=2),
        dict(topology="v5e:2x4", mesh=dict(fsdp=-1), shape=(8, 128, 2, 64), kv_heads=2)
        | dict(dtype="float32", remat="full"),
        dict(topology="v5e:2x4", mesh=dict(fsdp=-1), shape=(8, 128, 2, 64), kv_heads=2)
        | dict(causal=False, segments=False, remat="names"),
    ]
    # In a process of its own: the library writes to stderr by itself and cannot be unloaded.
    command = [sys.executable, "-m", "tests.sharding.compile_for_tpu", *map(json.dumps, cases)]
    root = pathlib.Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert found == [
        ["dkv", "dq", "fwd"],
        ["dkv", "fwd"],  # one kernel for all gradients
        [],  # a length that 128 does not divide
        ["dkv", "dq", "fwd", "fwd"],  # recomputed
        ["dkv", "dq", "fwd"],  # "attention" kept: not run again
    ]
