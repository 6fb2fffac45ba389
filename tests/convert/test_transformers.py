"""Held against torch and transformers themselves, on shapes drawn anew (make test-parity)."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from bigmodel import convert, trees
from tests.convert import cases, folders

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", cases.CASES)
def test_what_was_recorded_is_what_transformers_gives_today(name, tmp_path):
    from tests.convert import record

    now = record.record(name, tmp_path)
    before = cases.recorded(name)
    for key, wanted in before["outputs"].items():
        np.testing.assert_allclose(now[key], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", cases.CASES)
def test_what_we_export_transformers_loads_and_computes_alike(name, tmp_path):
    from tests.convert import record

    found = folders.write(name, tmp_path / "theirs")
    folder, _, fields, params = folders.opened(tmp_path / "theirs")
    given = (folder.name, folder.architecture, fields, trees.flatten(params))
    convert.export(tmp_path / "ours", *given, dtype="float32", ids=folder.ids)
    build = getattr(transformers, folder.name)
    how = {"attn_implementation": "eager"}
    if "Moe" in folder.name or "Mixtral" in folder.name:
        how["experts_implementation"] = "eager"
    model, told = build.from_pretrained(tmp_path / "ours", output_loading_info=True, **how)
    lost = set(folder.passed_over(fields))
    assert set(told["missing_keys"]) <= lost
    assert not told["unexpected_keys"]
    with torch.no_grad():
        outputs = {key: value.numpy() for key, value in record.outputs(model.eval()).items()}
    for key, wanted in found["outputs"].items():
        if not (lost and key == "embeddings/pooled"):
            np.testing.assert_allclose(outputs[key], wanted, rtol=1e-4, atol=1e-4, err_msg=key)


def drawn_sizes(draw):
    """A decoder's sizes that no table has."""
    kv_heads = int(draw.integers(1, 4))
    heads = kv_heads * int(draw.integers(1, 4))
    head_dim = 2 * int(draw.integers(2, 6))
    sizes = cases.decoder(heads * head_dim, int(draw.integers(1, 5)), heads, kv_heads)
    return sizes | dict(
        intermediate_size=int(draw.integers(5, 50)),
        vocab_size=int(draw.integers(20, 90)),
        rms_norm_eps=float(10.0 ** -draw.integers(2, 7)),
        tie_word_embeddings=bool(draw.integers(2)),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "architecture",
    [n for n, a in convert.ARCHITECTURES.items() if a.family == "decoder" and n[:3] != "GPT"],
)
def test_models_of_sizes_drawn_anew_compute_alike(architecture, seed, tmp_path, monkeypatch):
    from tests.convert import record

    draw = np.random.default_rng([seed, len(architecture)])
    fields = drawn_sizes(draw)
    if "Moe" in architecture or "Mixtral" in architecture:
        experts = int(draw.integers(2, 6))
        sparse = dict(num_experts=experts, moe_intermediate_size=7)
        fields |= sparse if "Moe" in architecture else dict(num_local_experts=experts)
        fields |= dict(num_experts_per_tok=int(draw.integers(1, experts + 1)))
    monkeypatch.setitem(cases.CASES, "drawn", (architecture, fields))
    # In float64: of some such models its float32 is further from that than ours.
    model = record.model_of("drawn", tmp_path, torch.float64)
    with torch.no_grad():
        wanted = record.outputs(model)["logits"].numpy()
    folder, model, _, params = folders.opened(tmp_path)
    kind = folder.architecture.model_type
    logits = jax.jit(model.apply)(params, cases.inputs(kind, fields))["logits"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_memory_of_an_import_is_its_arrays_and_little_more(tmp_path):
    """At most the largest file and a half above the arrays, both measured against a small one."""
    small, large = (imported(tmp_path / str(n), n) for n in (2, 16))
    arrays = large["arrays"] - small["arrays"]
    assert large["arrays"] > 10**9
    assert large["peak"] - small["peak"] < arrays + 1.5 * large["file"]


def imported(folder, layers):
    """In processes of their own: one writes the folder, the other's memory is measured."""
    written = call(folder, layers)
    (peak,) = call(folder, layers, "import")
    return dict(arrays=written[0], file=written[1], peak=peak)


def call(*arguments):
    program = [sys.executable, "-c", "from tests.convert import large; large.main()"]
    program += [str(argument) for argument in arguments]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.splitlines()[-1].split()]
