"""The arrays of a decoder's parameters, from its fields alone: names, shapes, logical axes.

What `jax.eval_shape` of the model would say, in microseconds: a search asks it of a thousand
layouts. Tests hold the two against each other for every family.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bigmodel.costs import decoder as counts

Fields = Mapping[str, Any]


class Tensor(NamedTuple):
    """A parameter.

    Attributes:
        path: such as "layers/attention/query/kernel".
        shape: of the whole mesh, layers in front where it is of a stack.
        axes: its logical axes.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]


def of_decoder(fields: Fields) -> tuple[Tensor, ...]:
    """The parameters of a decoder; no order is promised."""
    V, D = fields["vocab"], fields["width"]
    found = [Tensor("embed/table", (V, D), ("vocab", "embed"))]
    if fields["position"] == "learned":
        table = (fields["length"], D), ("positions", "embed")
        found.append(Tensor("positions/table", *table))
    if not fields["tied"]:
        found.append(Tensor("head/kernel", (D, V), ("embed", "vocab")))
    found += norm(fields, "final_norm")
    for stack, layers, dense in stacks(fields):
        own = [*attention(fields), *norms(fields)]
        own += feedforward(fields) if dense else experts(fields)
        found += [
            Tensor(f"{stack}/{path}", (layers, *shape), (stack, *axes)) for path, shape, axes in own
        ]
    return tuple(found)


def stacks(fields: Fields) -> list[tuple[str, int, bool]]:
    """(name, layers, whether dense) of each stack of layers."""
    sparse = counts.sparse_layers(fields)
    if not sparse:
        return [("layers", fields["layers"], True)]
    dense = fields["layers"] - sparse
    first = [("dense_layers", dense, True)] if dense else []
    return [*first, ("layers", sparse, False)]


def norm(fields: Fields, name: str) -> Iterator[Tensor]:
    yield Tensor(f"{name}/scale", (fields["width"],), ("norm",))
    if fields["norm"] == "layer" and fields["norm_bias"]:
        yield Tensor(f"{name}/bias", (fields["width"],), ("norm",))


def norms(fields: Fields) -> Iterator[Tensor]:
    after = ("", "_post") if fields["norm_placement"] == "both" else ("",)
    for layer in ("attention", "feedforward"):
        for post in after:
            yield from norm(fields, f"{layer}{post}_norm")


def attention(fields: Fields) -> Iterator[Tensor]:
    _, D, _, H, K, C = counts.letters(fields)
    if fields["kv_rank"]:
        yield from latent_attention(fields, D, H, C)
    else:
        bias = fields["bias"] if fields["qkv_bias"] is None else fields["qkv_bias"]
        for name, heads, axis in (("query", H, "heads"), *((n, K, "kv_heads") for n in KEYS)):
            path = f"attention/{name}"
            yield Tensor(f"{path}/kernel", (D, heads, C), ("embed", axis, "head_dim"))
            if bias:
                yield Tensor(f"{path}/bias", (heads, C), (axis, "head_dim"))
        if fields["qk_norm"] != "none":
            for name in ("query_norm", "key_norm"):
                yield Tensor(f"attention/{name}/scale", (C,), ("head_dim",))
        if fields["bias"]:
            yield Tensor("attention/out/bias", (D,), ("norm",))
    yield Tensor("attention/out/kernel", (H, C, D), ("heads", "head_dim", "embed"))


KEYS = ("key", "value")


def latent_attention(fields: Fields, D: int, H: int, C: int) -> Iterator[Tensor]:
    Q, R, turned = fields["query_rank"], fields["kv_rank"], fields["rope_dim"]
    for name, rank, more in (("query", Q, 0), ("kv", R, turned)):
        path = f"attention/{name}"
        yield Tensor(f"{path}_down/kernel", (D, rank + more), ("embed", "latent"))
        yield Tensor(f"{path}_norm/scale", (rank,), ("norm",))
    wide = ("latent", "heads", "head_dim")
    yield Tensor("attention/query/kernel", (Q, H, C + turned), wide)
    yield Tensor("attention/key_value/kernel", (R, H, 2 * C), wide)


def feedforward(fields: Fields, name: str = "feedforward", F: int = 0) -> Iterator[Tensor]:
    D = fields["width"]
    F, bias = F or counts.letters(fields)[2], fields["bias"] and name == "feedforward"
    for up in ("gate", "up") if fields["feedforward"] in counts.GATED else ("up",):
        yield Tensor(f"{name}/{up}/kernel", (D, F), ("embed", "mlp"))
        if bias:
            yield Tensor(f"{name}/{up}/bias", (F,), ("mlp",))
    yield Tensor(f"{name}/down/kernel", (F, D), ("mlp", "embed"))
    if bias:
        yield Tensor(f"{name}/down/bias", (D,), ("norm",))


def experts(fields: Fields) -> Iterator[Tensor]:
    D, E, F = fields["width"], fields["experts"], expert_hidden(fields)
    yield Tensor("experts/router/kernel", (D, E), ("router_embed", "router"))
    if fields["router_balance"]:
        yield Tensor("experts/router/balance", (E,), ("router",))
    for up in ("gate", "up"):
        yield Tensor(f"experts/{up}/kernel", (E, D, F), ("experts", "expert_embed", "mlp"))
    yield Tensor("experts/down/kernel", (E, F, D), ("experts", "mlp", "expert_embed"))
    if fields["shared_experts"]:
        yield from feedforward(fields, "experts/shared", fields["shared_experts"] * F)


def expert_hidden(fields: Fields) -> int:
    return fields["expert_hidden"] or counts.letters(fields)[2]
