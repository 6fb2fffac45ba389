"""Small decoders of every published kind, and the batches that tests give them."""

import functools

import jax
import numpy as np
from flax.core import meta

from bigmodel.layers import experts
from bigmodel.models import decoder

T, WIDTH, VOCAB = 12, 16, 31
SMALL = dict(vocab=VOCAB, width=WIDTH, heads=4, hidden=24, layers=2, length=T, dtype="float32")
LLAMA = dict(norm="rms", position="rope", feedforward="swiglu", bias=False, tied=False, kv_heads=2)
GEMMA = dict(norm="rms", norm_offset=1.0, norm_placement="both", position="rope", bias=False)
GEMMA |= dict(feedforward="geglu", embed_scale=True, kv_heads=2, head_dim=8, layers=4, window=4)
MIXTRAL = LLAMA | dict(experts=4, router_normalize=True)

VARIANTS = {
    "gpt": {},
    "llama": LLAMA | dict(rope_factor=8.0, rope_original_length=8, init_std=0.0),
    "mistral": LLAMA | dict(pattern=("local",), window=3, layers=3, qkv_bias=True),
    "qwen3": LLAMA | dict(qk_norm="rms", head_dim=8, tied=True),
    "gemma2": GEMMA
    | dict(pattern=("local", "global"), attention_scale=0.3)
    | dict(attention_softcap=5.0, logit_softcap=1.0),
    "gemma3": GEMMA  # a pattern that does not divide the depth
    | dict(pattern=("local", "local", "global"), qk_norm="rms")
    | dict(rope_theta=1e6, rope_factor=8.0, rope_local_theta=1e4),
    "original": dict(norm_placement="post", position="sinusoidal", feedforward="relu"),
    "multi_query": dict(kv_heads=1, feedforward="relu_squared", norm_bias=False, bias=False),
    "no_positions": dict(position="none", qk_norm="layer", feedforward="reglu"),
    "mixtral": MIXTRAL,
    "mixtral_room": MIXTRAL | dict(expert_capacity=1.0, compute_experts=experts.with_room),
    "deepseek": dict(norm="rms", position="rope", feedforward="swiglu", bias=False, tied=False)
    | dict(kv_rank=6, query_rank=10, rope_dim=4, head_dim=6, layers=3, dense_layers=1)
    | dict(experts=8, experts_per_token=3, expert_hidden=8, shared_experts=1, router="sigmoid")
    | dict(router_balance=True, router_scale=2.5, expert_groups=4, expert_groups_per_token=2),
}


@functools.cache
def make(name, **more):
    return decoder.make(**{**SMALL, **VARIANTS[name], **more})


def shapes(model):
    """Parameters as shapes, without their boxes."""
    return meta.unbox(jax.eval_shape(model.init, jax.random.key(0), batch()))


@functools.cache
def params(name):
    """Parameters in which nothing is zero or one, so that every one of them is felt."""
    draw = np.random.default_rng(0)

    def one(path, leaf):
        start = 1.0 if path[-1].key == "scale" else 0.0
        return (start + 0.15 * draw.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes(make(name)))


def gradient_program(model):
    """(params, batch, weights of hidden [B, T, D], of logits [B, T, V], key) -> grads, outputs.

    The gradient is that of the weighted sum of both, and of what steers a balance bias.
    """

    def loss(params, batch, of_hidden, of_logits, key=None):
        outputs = model.apply(params, batch, None if key is None else {"dropout": key})
        total = (outputs["hidden"] * of_hidden).sum() + (outputs["logits"] * of_logits).sum()
        return total + outputs.get("losses", {}).get("steering", 0.0), outputs

    return jax.jit(jax.grad(loss, has_aux=True))


@functools.cache
def program(name):
    """That of a variant, compiled once: all tests give it batches of one shape."""
    return gradient_program(make(name))


def outputs_of(name, batch):
    zeros = [np.zeros((2, T, n), np.float32) for n in (WIDTH, VOCAB)]
    return program(name)(params(name), batch, *zeros)[1]


def batch(seed=0, rows=2, length=T):
    """Rows of one document each, with every array that says so."""
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (rows, length))
    return of_documents([[row] for row in tokens], length)


def of_documents(rows, length=T):
    """A batch of rows, each a list of documents one after another, padded at the end."""
    arrays = {
        name: np.zeros((len(rows), length), np.int32)
        for name in ("tokens", "segments", "positions")
    }
    for r, documents in enumerate(rows):
        at = 0
        for number, tokens in enumerate(documents, start=1):
            where = np.s_[r, at : at + len(tokens)]
            arrays["tokens"][where] = tokens
            arrays["segments"][where] = number
            arrays["positions"][where] = np.arange(len(tokens))
            at += len(tokens)
    return arrays | {"rows": np.arange(len(rows), dtype=np.int32)}
