"""What a model costs: parameters, FLOPs and bytes from shapes, and the table of chips.

FLOPs are model FLOPs, those of the mathematics: what is computed twice to save memory is not
counted, so that utilisation (MFU, Chowdhery et al. 2022, arXiv:2204.02311, appendix B) compares
runs with any remat. A multiplication and an addition are two.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

Fields = Mapping[str, Any]

GATED = ("swiglu", "geglu", "reglu")  # feed-forward layers of three products instead of two
CONVENTIONS = ("causal", "full")


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one JAX device can do; half a chip where a chip shows two devices.

    Attributes:
        name: of the device.
        pattern: regular expression found in the lower-case device kind.
        peak_flops: dense bfloat16 FLOP/s.
        hbm_bytes: for programs: on TPU what the compiler leaves of it.
        hbm_bandwidth: bytes/s.
    """

    name: str
    pattern: str
    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float


# The first row whose pattern is found counts. TPU: cloud.google.com/tpu/docs, halved where a chip
# shows two devices (v2, v3, 7x); bytes of v4 and later from compilers' own messages. NVIDIA: data
# sheets, without sparsity; PCIe and NVL boards are slower than SXM ones of the same name.
# fmt: off
CHIPS = (
    #    name          pattern                  FLOP/s    bytes          bytes/s
    Chip("TPU v2",     r"tpu v2",               22.5e12,  8 * 2**30,     350e9),
    Chip("TPU v3",     r"tpu v3",               61.5e12,  16 * 2**30,    450e9),
    Chip("TPU v4",     r"tpu v4(?! ?(lite|i))", 275e12,   30.75 * 2**30, 1.23e12),
    Chip("TPU v5e",    r"v5 ?(lite|e)",         197e12,   15.75 * 2**30, 820e9),
    Chip("TPU v5p",    r"tpu v5",               459e12,   95.7 * 2**30,  2.77e12),
    Chip("TPU v6e",    r"v6 ?(lite|e)",         918e12,   31.24 * 2**30, 1.64e12),
    Chip("TPU7x",      r"tpu ?v?7",             1.15e15,  94.7 * 2**30,  3.69e12),
    Chip("A100 40GB",  r"a100.*40gb",           312e12,   40 * 2**30,    1.555e12),
    Chip("A100 PCIe",  r"a100.*pcie",           312e12,   80 * 2**30,    1.935e12),
    Chip("A100",       r"a100",                 312e12,   80 * 2**30,    2.039e12),
    Chip("H100 PCIe",  r"h100.*pcie",           756e12,   80 * 2**30,    2.0e12),
    Chip("H100 NVL",   r"h100.*nvl",            835e12,   94e9,          3.9e12),
    Chip("H100",       r"h100",                 989e12,   80 * 2**30,    3.35e12),
    Chip("H200 NVL",   r"h200.*nvl",            835e12,   141e9,         4.8e12),
    Chip("H200",       r"h200",                 989e12,   141e9,         4.8e12),
    Chip("B200",       r"\bb200",               2.25e15,  180e9,         8.0e12),
)
# fmt: on


def chip(device_kind: str) -> Chip | None:
    """The row of the table for what `jax.Device.device_kind` says, or None."""
    kind = device_kind.lower().replace("_", " ").replace("-", " ")
    return next((row for row in CHIPS if re.search(row.pattern, kind)), None)


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device; None for one that the table does not have."""
    row = chip(device_kind)
    return row.peak_flops if row else None


# A decoder, from the fields of models/decoder.py


def parameters(fields: Fields) -> int:
    """Parameters of a decoder, all of them."""
    return sum(parameter_groups(fields).values())


def parameter_groups(fields: Fields) -> dict[str, int]:
    """Parameters of a decoder by what they are part of; a tied head has none of its own."""
    V, D, F, H, K, C = letters(fields)
    layers = fields["layers"]
    qkv_bias = fields["bias"] if fields.get("qkv_bias") is None else fields["qkv_bias"]
    gated = fields["feedforward"] in GATED

    attention = attention_kernels(fields)
    attention += (H + 2 * K) * C if qkv_bias else 0
    attention += D if fields["bias"] else 0
    attention += 2 * C if fields["qk_norm"] != "none" else 0
    attention += fields["query_rank"] + fields["kv_rank"]  # norms of the latents
    feedforward = feedforward_kernels(fields)
    feedforward += (2 * F if gated else F) + D if fields["bias"] else 0
    E, sparse = fields["experts"], sparse_layers(fields)
    routers = D * E + (E if fields["router_balance"] else 0)
    norm = 2 * D if fields["norm"] == "layer" and fields["norm_bias"] else D
    norms = 4 if fields["norm_placement"] == "both" else 2
    return {
        "embedding": V * D,
        "positions": fields["length"] * D if fields["position"] == "learned" else 0,
        "attention": layers * attention,
        "feedforward": (layers - sparse) * feedforward,
        "experts": sparse * (E + fields["shared_experts"]) * expert_kernels(fields),
        "routers": sparse * routers,
        "norms": (layers * norms + 1) * norm,
        "head": 0 if fields["tied"] else D * V,
    }


@dataclasses.dataclass(frozen=True)
class Flops:
    """Model FLOPs for one token of training, forward and backward.

    Attributes:
        products: of a token with parameters.
        attention: of queries with keys, and of probabilities with values.
    """

    products: float
    attention: float

    @property
    def total(self) -> float:
        return self.products + self.attention


def train_flops(fields: Fields, *, length: int, convention: str = "causal") -> Flops:
    """FLOPs for each token of a row of `length` tokens, forward and backward.

    A product with a parameter is 2 FLOPs forward and 4 backward; the lookup of an embedding is
    none. Conventions for attention, both in use: "full" counts all pairs of a row, "causal" half
    of them. Either way a layer with a window counts only the keys inside it. That packed documents
    do not see each other is not counted.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention = {convention!r}: allowed are {', '.join(CONVENTIONS)}.")
    V, D, _, H, _, C = letters(fields)
    layers, sparse = fields["layers"], sparse_layers(fields)
    kernels = layers * attention_kernels(fields) + (layers - sparse) * feedforward_kernels(fields)
    used = fields["experts_per_token"] + fields["shared_experts"]  # of the experts by a token
    kernels += sparse * (used * expert_kernels(fields) + D * fields["experts"]) + D * V
    keys = sum(mean_keys(window, length, convention) for window in windows(fields))
    of_pair = 2 * C + fields["rope_dim"]  # a query with a key, a probability with a value
    return Flops(products=6.0 * kernels, attention=6.0 * H * of_pair * keys)


def windows(fields: Fields) -> Iterator[int]:
    """The window of each layer, 0 for none."""
    pattern = fields["pattern"]
    for layer in range(fields["layers"]):
        yield fields["window"] if pattern[layer % len(pattern)] == "local" else 0


def mean_keys(window: int, length: int, convention: str) -> float:
    """How many keys a query is counted with, on average over a row."""
    seen = min(window or length, length)
    # The queries at the beginning of a row see fewer: a triangle of half a window squared.
    return seen - seen * seen / (2 * length) if convention == "causal" else float(seen)


def letters(fields: Fields) -> tuple[int, int, int, int, int, int]:
    """V, D, F, H, K, C of a decoder."""
    V, D, H = fields["vocab"], fields["width"], fields["heads"]
    F, K = fields["hidden"] or 4 * D, fields["kv_heads"] or H
    return V, D, F, H, K, fields["head_dim"] or D // H


def attention_kernels(fields: Fields) -> int:
    _, D, _, H, K, C = letters(fields)
    if not fields["kv_rank"]:
        return 2 * D * (H + K) * C
    Q, R, turned = fields["query_rank"], fields["kv_rank"], fields["rope_dim"]
    return D * (Q + R + turned) + H * (Q * (C + turned) + R * 2 * C) + H * C * D


def feedforward_kernels(fields: Fields) -> int:
    _, D, F, *_ = letters(fields)
    return (3 if fields["feedforward"] in GATED else 2) * D * F


def sparse_layers(fields: Fields) -> int:
    """How many layers are mixtures of experts."""
    return fields["layers"] - fields["dense_layers"] if fields["experts"] else 0


def expert_kernels(fields: Fields) -> int:
    _, D, F, *_ = letters(fields)
    return 3 * D * (fields["expert_hidden"] or F)


# Any program


def jaxpr_flops(jaxpr: Any) -> float:
    """FLOPs of the matrix products in a traced function (`jax.make_jaxpr`), loops by their trips.

    What the program does, so what it recomputes is counted, and of attention all that it computes.
    Of a branch the dearest counts, of a `while` loop one trip, for there is no telling how many;
    inside a Pallas kernel nothing does, for it skips blocks as it likes.
    """
    return sum(flops_of(equation) for equation in living(jaxpr))


def living(jaxpr: Any) -> Iterator[Any]:
    """The equations whose results are used: the compiler drops the others."""
    inner = getattr(jaxpr, "jaxpr", jaxpr)  # of a closed one
    used = {var for var in inner.outvars if not hasattr(var, "val")}  # literals have no maker
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not used.isdisjoint(equation.outvars):
            used.update(var for var in equation.invars if not hasattr(var, "val"))
            yield equation


def flops_of(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        summed = math.prod(shape[axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * summed
    if name == "ragged_dot_general":
        return ragged_flops(equation)
    if name == "cond":
        return max(map(jaxpr_flops, params["branches"]))
    if name == "pallas_call":
        return 0.0
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # its shapes are one device's
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(jaxpr_flops(inner) for inner in params.values() if hasattr(inner, "eqns"))


def ragged_flops(equation: Any) -> float:
    """Of a product whose groups of rows have kernels of their own: each row goes through one."""
    rows, kernels = (equation.invars[i].aval.shape for i in range(2))
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (_, contracted), (_, batch) = numbers.dot_dimension_numbers
    shared = {*contracted, *batch, *numbers.rhs_group_dimensions}
    return 2.0 * math.prod(rows) * math.prod(n for i, n in enumerate(kernels) if i not in shared)


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device of a `jax.stages.Compiled`: `peak`, and what it is made of.

    On CPU the compiler's own peak is arguments and outputs without temporaries (jax 0.10 and 0.12),
    so there the peak is their sum; elsewhere it is the compiler's, and `temporaries` overstates.
    """
    import jax

    stats = compiled.memory_analysis()
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    platforms = {device.platform for s in shardings for device in s.device_set}
    if platforms == {"cpu"}:
        sizes = parts["arguments"] + parts["outputs"] + parts["temporaries"]
        return parts | {"peak": sizes - parts["aliased"]}
    return parts | {"peak": stats.peak_memory_in_bytes}


def cpu_matmul_flops(seconds: float = 0.5) -> float:
    """This machine's float32 FLOP/s in a large matrix product, best of several, measured now."""
    import jax
    import jax.numpy as jnp

    n = 1024
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        x = jax.jit(lambda: jnp.full((n, n), 1 / n, jnp.float32))()
        product = jax.jit(jnp.matmul).lower(x, x).compile()
        best = math.inf
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or best == math.inf:
            start = time.perf_counter()
            product(x, x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return 2.0 * n**3 / best
