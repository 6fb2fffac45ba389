r"""A step of the same shapes in plain JAX, as one line of JSON: what `step.py` is measured against.

    python benchmarks/floor.py char --steps 20
    python benchmarks/interleave.py --rounds 5 \
        "python benchmarks/step.py char" "python benchmarks/floor.py char"

GPT-2 without biases and AdamW with clipping, each in the fewest lines that compute it: the way a
step is first written down. Whole rows of random tokens without documents, float32, no flags, the
process as it comes, and nothing of bigmodel. The figures are those of `step.py`.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from step import WORKLOADS, measure

PEAK, B1, B2, EPSILON, DECAY, CLIP = 1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0


def init(key, layers, width, length, vocab):
    """Kernels and tables of standard deviation 0.02, norms of one."""
    keys = iter(jax.random.split(key, 6))

    def normal(*shape):
        return 0.02 * jax.random.normal(next(keys), shape)

    stack = {
        "attention_norm": jnp.ones((layers, width)),
        "query_key_value": normal(layers, width, 3 * width),
        "out": normal(layers, width, width),
        "feedforward_norm": jnp.ones((layers, width)),
        "up": normal(layers, width, 4 * width),
        "down": normal(layers, 4 * width, width),
    }
    return {
        "embed": normal(vocab, width),
        "positions": normal(length, width),
        "layers": [jax.tree.map(lambda x, i=i: x[i], stack) for i in range(layers)],
        "final_norm": jnp.ones(width),
    }


def norm(x, scale):
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-5) * scale


def attention(x, params, heads):
    """[B, T, D] -> [B, T, D]"""
    B, T, D = x.shape
    parts = jnp.split(x @ params["query_key_value"], 3, axis=-1)
    q, k, v = (part.reshape(B, T, heads, D // heads) for part in parts)
    scores = jnp.einsum("BTHC,BSHC->BHTS", q, k) / np.sqrt(D // heads)
    scores = jnp.where(np.tri(T, dtype=bool), scores, -jnp.inf)
    out = jnp.einsum("BHTS,BSHC->BTHC", jax.nn.softmax(scores), v)
    return out.reshape(B, T, D) @ params["out"]


def mean_loss(params, tokens, targets, heads):
    x = params["embed"][tokens] + params["positions"]
    for layer in params["layers"]:
        x = x + attention(norm(x, layer["attention_norm"]), layer, heads)
        hidden = jax.nn.gelu(norm(x, layer["feedforward_norm"]) @ layer["up"], approximate=True)
        x = x + hidden @ layer["down"]
    logits = norm(x, params["final_norm"]) @ params["embed"].T
    of_targets = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - of_targets).mean()


def train_step(state, tokens, targets, *, heads):
    """AdamW: Loshchilov and Hutter 2019 (arXiv:1711.05101), after clipping by the global norm."""
    params, first, second, steps = state
    loss, grads = jax.value_and_grad(mean_loss)(params, tokens, targets, heads)
    steps = steps + 1
    size = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, CLIP / size), grads)
    first = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, first, grads)
    second = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, second, grads)

    def update(p, m, v):
        m, v = m / (1 - B1**steps), v / (1 - B2**steps)
        return p - PEAK * (m / (jnp.sqrt(v) + EPSILON) + DECAY * p)

    return (jax.tree.map(update, params, first, second), first, second, steps), loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    arguments = parser.parse_args()
    layers, width, heads, length, batch, vocab = WORKLOADS[arguments.workload]

    @jax.jit
    def create():
        params = init(jax.random.key(0), layers, width, length, vocab)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return params, zeros, jax.tree.map(jnp.copy, zeros), jnp.int32(0)

    state = create()
    stream = np.random.default_rng(0).integers(0, vocab, (batch, length + 1)).astype(np.int32)
    rows = jnp.asarray(stream[:, :-1]), jnp.asarray(stream[:, 1:])
    began = time.perf_counter()
    step = jax.jit(train_step, static_argnames="heads", donate_argnums=0)
    traced = step.lower(state, *rows, heads=heads)
    trace_seconds = time.perf_counter() - began
    program = traced.compile()
    compile_seconds = time.perf_counter() - began - trace_seconds

    def one() -> float:
        nonlocal state
        state, loss = program(state, *rows)
        loss = float(loss)
        jax.block_until_ready(state)
        return loss

    found = measure(one, steps=arguments.steps, warmup=arguments.warmup, tokens=batch * length)
    found |= {"trace_s": round(trace_seconds, 2), "compile_s": round(compile_seconds, 2)}
    print(json.dumps({"workload": arguments.workload, **found}), flush=True)


if __name__ == "__main__":
    main()
