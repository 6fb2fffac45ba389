r"""Forward and backward of each attention implementation on this machine, by length.

    python benchmarks/attention.py
    python benchmarks/attention.py --length 2048 --dtype bfloat16 reference splash

Two documents a row, causal. The implementations run in turn, round after round; a line of JSON for
each has the median milliseconds, the median of the ratios to the first one's, the seconds that its
compiling took and the megabytes of its temporaries.
"""

import argparse
import json
import statistics
import time

from bigmodel import compat


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["reference", "banded", "chunked"])
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    compat.tune_process()
    import jax
    import jax.numpy as jnp
    import numpy as np

    from bigmodel import costs
    from bigmodel.sharding import kernels, rules
    from bigmodel.sharding import mesh as meshes

    B, T, H, C = arguments.batch, arguments.length, arguments.heads, arguments.head_dim
    mesh, table = meshes.make({"data": 1}), rules.RULES["fsdp_tensor"]
    fields = {"head_dim": C, "dtype": arguments.dtype}
    fields |= {"attention_softcap": 0.0, "attention_dropout": 0.0}
    rows = np.random.default_rng(0).standard_normal((4, B, T, H, C))
    *inputs, weights = (jnp.asarray(x, arguments.dtype) for x in rows)
    segments = jnp.tile(1 + (jnp.arange(T) >= T // 2), (B, 1)).astype(jnp.int32)

    def program(name: str):
        attend = kernels.make_attention(name, mesh, table, fields)

        def loss(q, k, v):
            return (attend(q, k, v, segments) * weights).astype(jnp.float32).sum()

        began = time.perf_counter()
        made = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*inputs).compile()
        return made, time.perf_counter() - began

    with meshes.use(mesh, table):
        programs = {name: program(name) for name in arguments.names}
        compat.keep_pages()
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(2 + arguments.rounds):
            for name, (made, _) in programs.items():
                began = time.perf_counter()
                jax.block_until_ready(made(*inputs))
                seconds[name].append(time.perf_counter() - began)
    first = seconds[arguments.names[0]][2:]
    for name, (made, compile_seconds) in programs.items():
        taken = seconds[name][2:]
        found = {
            "name": name,
            "ms": round(statistics.median(taken) * 1e3, 2),
            "ratio": round(statistics.median(a / b for a, b in zip(taken, first, strict=True)), 3),
            "compile_s": round(compile_seconds, 2),
            "temporaries_mb": round(costs.memory(made)["temporaries"] / 2**20, 1),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
