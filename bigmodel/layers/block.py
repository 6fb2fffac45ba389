"""One layer of a transformer: attention and feed-forward around a residual stream."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers.dropout import dropout

# Where the norms stand. "pre": x + f(norm x), Xiong et al. 2020 (arXiv:2002.04745); "post":
# norm(x + f x), Vaswani et al. 2017 (arXiv:1706.03762); "both": x + norm(f(norm x)), Gemma 2
# (arXiv:2408.00118).
PLACEMENTS = ("pre", "post", "both")


class Block(nn.Module):
    """Attention, then feed-forward, each with a residual and its norms.  [B, T, D] -> [B, T, D]

    Attributes:
        attention: makes the attention layer, given its name.
        feedforward: makes the feed-forward layer, given its name.
        experts: makes a mixture of experts in its place, given its name; or None.
        cross: makes the attention to another sequence, given its name; or None.
        norm: makes a norm, given its name.
        placement: a name of PLACEMENTS.
        dropout: rate on what each of the two layers adds.
    """

    attention: Callable[..., nn.Module]
    feedforward: Callable[..., nn.Module]
    experts: Callable[..., nn.Module] | None
    norm: Callable[..., nn.Module]
    placement: str
    dropout: float
    cross: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array | None,
        angles: tuple[jax.Array, jax.Array] | None,
        keys: jax.Array | None,
        *,
        indices: jax.Array | None = None,
        window: int = 0,
        layer: jax.Array | int = 0,
        cache: dict[str, jax.Array] | None = None,
        seen: Mapping[str, jax.Array] = types.MappingProxyType({}),
        memory: tuple[jax.Array | None, jax.Array | None] = (None, None),
    ) -> tuple[jax.Array, dict[str, jax.Array] | None, dict[str, Any]]:
        """x, the cache after it, and what experts add up (`layers.experts.Experts`).

        Args:
            x: [B, T, D].
            segments: int32 [B, T] or None.
            angles: rotary, of the tokens, or None.
            keys: of dropout, one a row, or None.
            indices: see `dropout`.
            window: see `attention.reference`.
            layer: its number, for the cache.
            cache: of the stack.
            seen: "bias" and "prefix" of `attention.reference`, where there are some.
            memory: the other sequence [B, S, D], and its segments.
        """

        def drop(x: jax.Array, site: int) -> jax.Array:
            return dropout(x, keys, rate=self.dropout, site=site, indices=indices)

        def norm(name: str, wanted: bool, x: jax.Array) -> jax.Array:
            return self.norm(name=name)(x) if wanted else x

        before, after = self.placement in ("pre", "both"), self.placement == "both"

        x = checkpoint_name(x, "input")
        added = norm("attention_norm", before, x)
        how: dict[str, Any] = dict(window=window, layer=layer, cache=cache)
        how |= {"seen": seen} if seen else {}
        added, cache = self.attention(name="attention")(added, segments, angles, keys, **how)
        added = norm("attention_post_norm", after, added)
        x = x + drop(added, 1)
        x = norm("attention_norm", self.placement == "post", x)
        x = checkpoint_name(self.constrain(x), "residual")

        if self.cross is not None:
            added = norm("cross_norm", before, x)
            added = self.cross(name="cross")(added, segments, *memory, layer=layer, cache=cache)
            added = norm("cross_post_norm", after, added)
            x = x + drop(added, 4)
            x = self.constrain(norm("cross_norm", self.placement == "post", x))

        added = norm("feedforward_norm", before, x)
        sums: dict[str, Any] = {}
        if self.experts is None:
            added = self.feedforward(name="feedforward")(added)
        else:
            real = None if segments is None else segments > 0
            added, sums = self.experts(name="experts")(added, real, indices)
        added = norm("feedforward_post_norm", after, added)
        x = x + drop(added, 2)
        x = norm("feedforward_norm", self.placement == "post", x)
        return self.constrain(x), cache, sums

    @staticmethod
    def constrain(x: jax.Array) -> jax.Array:
        return nn.with_logical_constraint(x, ("batch", "residual_length", "act_embed"))
