"""Real models with real numbers: published arrays in, published logits and text out.

The data lies outside of the repository (BIGMODEL_DATA, or ../shared/data) and is never copied in.
"""

import io
import os
import pathlib
import tarfile

import jax
import numpy as np
import pytest

from bigmodel.models import decoder

NEAR = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
DATA = pathlib.Path(os.environ.get("BIGMODEL_DATA", NEAR))


def data(name):
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} in {DATA} (BIGMODEL_DATA names another folder)")
    return DATA / name


def stacked(layers):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def gpt2_params(arrays):
    """Names of the file -> ours."""

    def leaf(path):
        return arrays[f"test_against_hf_gpt2_lm/params/decoder/{path}"]

    def norm(path):
        return {"scale": leaf(f"{path}/scale"), "bias": leaf(f"{path}/bias")}

    def product(path, flip=None):
        kernel = leaf(f"{path}/weight")
        kernel = kernel if flip is None else kernel.transpose(flip)
        return {"kernel": kernel, "bias": leaf(f"{path}/bias")}

    def layer(path):
        attention = {
            name: product(f"{path}/self_attention/attention/i_proj/{name[0]}_proj")
            for name in ("query", "key", "value")
        }
        out = product(f"{path}/self_attention/attention/o_proj", flip=(1, 2, 0))
        return {
            "attention_norm": norm(f"{path}/self_attention/norm"),
            "attention": attention | {"out": out},
            "feedforward_norm": norm(f"{path}/feed_forward/norm"),
            "feedforward": {
                "up": product(f"{path}/feed_forward/linear1"),
                "down": product(f"{path}/feed_forward/linear2"),
            },
        }

    return {
        "embed": {"table": leaf("emb/token_emb/weight")},
        "positions": {"table": leaf("emb/pos_emb/weight")[0]},
        "layers": stacked([layer(f"transformer/layer{i}") for i in range(2)]),
        "final_norm": norm("output_norm"),
    }


def test_gpt2_has_the_logits_of_hugging_face():
    with np.load(data("gpt2_golden.npz")) as arrays:
        params = gpt2_params(arrays)
        tokens = arrays["test_against_hf_gpt2_lm/inputs/input_ids"].astype(np.int32)
        wanted = arrays["test_against_hf_gpt2_lm/outputs/logits"]
    model = decoder.make(vocab=24, width=16, layers=2, heads=4, length=11, dtype="float32")
    found = jax.jit(model.apply)(params, {"tokens": tokens})["logits"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def stories():
    """The files of a small Llama that was trained on TinyStories: name -> bytes."""
    with tarfile.open(data("stories260K.tar.xz")) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {pathlib.Path(f.name).name: archive.extractfile(f).read() for f in files}


def stories_params(content):
    """llama2.c's layout: seven int32, then float32 arrays one after another."""
    D, F, layers, H, K, V, length = np.frombuffer(content, np.int32, 7)
    C, flat, at = D // H, np.frombuffer(content, np.float32, offset=28), 0

    def take(*shape):
        nonlocal at
        at += np.prod(shape)
        return flat[at - np.prod(shape) : at].reshape(shape)

    def halves(kernel):
        """Pairs (0, 1), (2, 3), ... of each head -> pairs (i, i + C / 2)."""
        return np.concatenate([kernel[..., ::2], kernel[..., 1::2]], axis=-1)

    table = take(V, D)
    attention_norm = take(layers, D)
    query = take(layers, H, C, D).transpose(0, 3, 1, 2)
    key = take(layers, K, C, D).transpose(0, 3, 1, 2)
    value = take(layers, K, C, D).transpose(0, 3, 1, 2)
    out = take(layers, D, H, C).transpose(0, 2, 3, 1)
    feedforward_norm = take(layers, D)
    gate = take(layers, F, D).transpose(0, 2, 1)
    down = take(layers, D, F).transpose(0, 2, 1)
    up = take(layers, F, D).transpose(0, 2, 1)
    params = {
        "embed": {"table": table},
        "layers": {
            "attention_norm": {"scale": attention_norm},
            "attention": {
                "query": {"kernel": halves(query)},
                "key": {"kernel": halves(key)},
                "value": {"kernel": value},
                "out": {"kernel": out},
            },
            "feedforward_norm": {"scale": feedforward_norm},
            "feedforward": {
                "gate": {"kernel": gate},
                "up": {"kernel": up},
                "down": {"kernel": down},
            },
        },
        "final_norm": {"scale": take(D)},
    }
    sizes = dict(vocab=V, width=D, layers=layers, heads=H, kv_heads=K, hidden=F, length=length)
    return params, {name: int(size) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def llama(stories):
    params, sizes = stories_params(stories["stories260K.bin"])
    kind = dict(norm="rms", norm_epsilon=1e-5, position="rope", feedforward="swiglu", bias=False)
    return decoder.make(**kind, **sizes, dtype="float32"), params


def test_a_trained_llama_has_its_published_logits(stories, llama):
    model, params = llama
    golden = np.load(io.BytesIO(stories["golden.npz"]))
    tokens = golden["prompt_ids"][None].astype(np.int32)
    found = jax.jit(model.apply)(params, {"tokens": tokens})["logits"][0]
    np.testing.assert_allclose(found, golden["prompt_logits"], rtol=1e-4, atol=1e-4)


def text_of(ids, content):
    """llama2.c's tokenizer: the longest token's length, then (score, length, bytes) of each."""
    pieces, at = [], 4
    while at < len(content):
        length = int(np.frombuffer(content, np.int32, 1, at + 4)[0])
        pieces.append(content[at + 8 : at + 8 + length])
        at += 8 + length
    text = b"".join(
        bytes([int(pieces[i][3:5], 16)]) if pieces[i].startswith(b"<0x") else pieces[i] for i in ids
    )
    return text.removeprefix(b" ").decode()


def test_a_trained_llama_writes_its_published_text_word_for_word(stories, llama):
    model, params = llama
    golden = np.load(io.BytesIO(stories["golden.npz"]))["greedy_ids"]

    @jax.jit
    def step(cache, tokens):
        outputs = model.apply(params, {"tokens": tokens}, None, cache)
        return outputs["cache"], outputs["logits"].argmax(-1).astype(np.int32)

    ids = np.full((1, 1), golden[0], np.int32)
    cache = model.new_cache(params, {"tokens": ids}, len(golden))
    found = [golden[0]]
    for _ in golden[1:]:
        cache, ids = step(cache, ids)
        found.append(int(ids[0, 0]))
    assert found == golden.tolist()
    published = stories["expected_greedy.txt"].decode()
    assert text_of(found[1:], stories["tok512.bin"]).rstrip("\n") == published.rstrip("\n")
