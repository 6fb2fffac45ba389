"""A decoder's parameters and FLOPs, from the fields of models/decoder.py.

FLOPs are model FLOPs, those of the mathematics: what is computed twice to save memory is not
counted, so that utilisation (MFU, Chowdhery et al. 2022, arXiv:2204.02311, appendix B) compares
runs with any remat. A multiplication and an addition are two.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

Fields = Mapping[str, Any]

GATED = ("swiglu", "geglu", "reglu")  # feed-forward layers of three products instead of two
# How attention is counted -> what names of figures by it end with. MFU by itself is the first.
CONVENTIONS = {"causal": "", "full": "_full_attention"}


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
    """Model FLOPs of what the function says that gives them.

    Attributes:
        products: of a token with parameters.
        attention: of queries with keys, and of probabilities with values.
    """

    products: float
    attention: float

    @property
    def total(self) -> float:
        return self.products + self.attention

    def times(self, number: float) -> "Flops":
        return Flops(number * self.products, number * self.attention)


def train_flops(fields: Fields, *, length: int, convention: str = "causal") -> Flops:
    """FLOPs for each token of a row of `length` tokens, forward and backward: 3 times forward.

    A product with a parameter is 2 FLOPs forward and 4 backward; the lookup of an embedding is
    none. Conventions: see `forward_flops`.
    """
    return forward_flops(fields, length=length, convention=convention).times(3)


def forward_flops(fields: Fields, *, length: int, convention: str = "causal") -> Flops:
    """FLOPs for each token of a row of `length` tokens, logits of all of them, as in evaluation.

    Conventions for attention, both in use: "full" counts all pairs of a row, "causal" half of them.
    Either way a layer with a window counts only the keys inside it. That packed documents do not
    see each other is not counted, nor is the weighing of experts' outputs.

    Raises:
        ValueError: of a convention that there is not.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention = {convention!r}: allowed are {', '.join(CONVENTIONS)}.")
    keys = sum(mean_keys(window, length, convention) for window in windows(fields))
    return Flops(2.0 * (layer_kernels(fields) + head_kernel(fields)), flops_of_key(fields) * keys)


def prefill_flops(fields: Fields, *, length: int, convention: str = "causal") -> Flops:
    """FLOPs of reading a prompt of `length` tokens, the logits of its last one included."""
    of_all = forward_flops(fields, length=length, convention=convention).times(length)
    unread = 2.0 * (length - 1) * head_kernel(fields)
    return dataclasses.replace(of_all, products=of_all.products - unread)


def decode_flops(fields: Fields, *, context: int) -> Flops:
    """FLOPs of one token after a cache: it sees `context` keys, itself included, and has logits.

    Both conventions are one here: of a single query no pair is masked but by a window.
    """
    keys = sum(mean_keys(window, context, "full") for window in windows(fields))
    return Flops(2.0 * (layer_kernels(fields) + head_kernel(fields)), flops_of_key(fields) * keys)


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


def flops_of_key(fields: Fields) -> float:
    """Forward, of a query with a key and a probability with a value, in all heads of a layer."""
    *_, H, _, C = letters(fields)
    return 2.0 * H * (2 * C + fields["rope_dim"])


def head_kernel(fields: Fields) -> int:
    return fields["width"] * fields["vocab"]


def layer_kernels(fields: Fields) -> int:
    """Numbers in the kernels of all layers that a token goes through."""
    layers, sparse = fields["layers"], sparse_layers(fields)
    kernels = layers * attention_kernels(fields) + (layers - sparse) * feedforward_kernels(fields)
    used = fields["experts_per_token"] + fields["shared_experts"]  # of the experts by a token
    return kernels + sparse * (used * expert_kernels(fields) + fields["width"] * fields["experts"])


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
