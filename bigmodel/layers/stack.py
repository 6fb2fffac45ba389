"""A family's layers as one stack: parameters with a leading "layers" axis, and what runs them.

The layers of a stack have one shape of parameters; they may differ in what is no parameter (a
window, a base of the rotary angles), which is said by a repeating pattern of kinds. Linen's own
lifted scan would tie how parameters are stored to how they run; here the stored stack is plain
arrays, and scan, unrolled loop (and whatever else runs layers) take the same function of one layer.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import layout

from bigmodel.layers.parameter import drawn

# body(kind, params of one layer, its number, x, side, cache) -> (x, cache, sums). `side` is what
# rows bring along to every layer (segments, angles, ...); `sums` are added up over the layers.
Body = Callable[..., tuple[jax.Array, Any, Any]]
# run(body, stacked params, x, side, cache, kinds) -> (x, cache, sums)
Runner = Callable[..., tuple[jax.Array, Any, Any]]


def parameter(
    of: nn.Module, name: str, block: nn.Module, layers: int, *args: Any, **kwargs: Any
) -> Any:
    """A module's parameter that is a stack: each layer drawn from a key of its own.

    `name` is also the logical axis put before the layer's own. What was drawn before is held to its
    depth; the layers hold it to the rest (`layers.parameter`).

    Raises:
        ValueError: what was drawn before is of more or fewer layers.
    """
    if (there := drawn(of, name)) is not None:
        if (depths := {len(leaf) for leaf in jax.tree.leaves(there)}) != {layers}:
            raise ValueError(
                f"{'/'.join((*of.path, name))}: the model has {layers} layers; found parameters of "
                f"{sorted(depths)}. Load what was trained with as many."
            )
        return there

    def stacked(key: jax.Array):
        keys = jax.random.split(key, layers)
        boxes = jax.vmap(lambda k: block.init(k, *args, **kwargs)["params"])(keys)
        is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
        return jax.tree.map(lambda p: p.replace(names=(name, *p.names)), boxes, is_leaf=is_box)

    return of.param(name, stacked)


def scanned(body: Body, params: Any, x: jax.Array, side: Any, cache: Any, kinds: Sequence[str]):
    """Runs a stack by `lax.scan`: compiled once for each kind of layer, whatever the depth.

    The stack goes in whole groups of the pattern; what is left of a pattern that does not divide
    the depth is run after the scan.
    """
    layers = jax.tree.leaves(params)[0].shape[0]
    period = len(kinds)
    groups = layers // period
    whole = groups * period

    def group(carry, xs):
        x, cache = carry
        first, group_params = xs
        found = []
        for i, kind in enumerate(kinds):
            layer_params = group_params
            if period > 1:
                layer_params = jax.tree.map(lambda p, i=i: p[i], group_params)
            x, cache, more = body(kind, layer_params, first + i, x, side, cache)
            found.append(more)
        return (x, cache), added(found)

    def in_groups(p):
        # Cut otherwise than by the scan itself, every layer's parameters would be kept once more
        # for the gradient: they are what remat's body begins with.
        return p if period == 1 else p[:whole].reshape(groups, period, *p.shape[1:])

    numbers = jnp.arange(0, whole, period)
    xs = numbers, jax.tree.map(in_groups, params)
    # Sums that went along with x would have to begin as zeros of a form that only a trace tells.
    (x, cache), of_groups = jax.lax.scan(group, (x, cache), xs)
    found = [jax.tree.map(lambda sums: sums.sum(0), of_groups)]
    for layer in range(whole, layers):
        layer_params = jax.tree.map(lambda p, layer=layer: p[layer], params)
        x, cache, more = body(kinds[layer - whole], layer_params, layer, x, side, cache)
        found.append(more)
    return x, cache, added(found)


def added(found: Sequence[Any]) -> Any:
    """The sums of several layers as one."""
    return jax.tree.map(lambda *each: sum(each[1:], each[0]), *found)


def unrolled(body: Body, params: Any, x: jax.Array, side: Any, cache: Any, kinds: Sequence[str]):
    """Runs the same stack layer after layer: longer to compile, and often quicker to run."""
    layers = jax.tree.leaves(params)[0].shape[0]
    # One split for each array: its gradient is one concatenation, where that of an index into the
    # stack is a whole stack of zeros for every layer.
    cut = jax.tree.map(lambda p: jax.lax.split(p, (1,) * layers), params)
    is_cut = lambda node: isinstance(node, list | tuple)  # noqa: E731
    found = []
    for layer in range(layers):
        layer_params = jax.tree.map(lambda p, i=layer: p[i][0], cut, is_leaf=is_cut)
        x, cache, more = body(kinds[layer % len(kinds)], layer_params, layer, x, side, cache)
        found.append(more)
    return x, cache, added(found)


def remat(
    body: Body,
    policy: str,
    save: Sequence[str] = (),
    offload: Sequence[str] = (),
    *,
    looped: bool = True,
) -> Body:
    """The body with its activations recomputed for the gradient, as the policy says.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174).

    Args:
        body: of one layer.
        policy: a name of REMAT_POLICIES; "attention" recomputes only what is inside attention,
            and is done there.
        save: for "names": activations kept in memory.
        offload: for "names": activations kept in the host's memory.
        looped: whether a loop runs the layers. What it runs, the compiler cannot merge with what
            ran before; of unrolled layers it would, and keep everything after all.
    """
    if policy in ("none", "attention"):
        return body
    policies = jax.checkpoint_policies
    chosen = {
        "full": policies.nothing_saveable,
        "dots": policies.dots_with_no_batch_dims_saveable,
    }.get(policy) or named(save, offload)
    if offload:
        body = in_rows(body)
    return jax.checkpoint(body, policy=chosen, prevent_cse=not looped, static_argnums=(0,))


def named(save: Iterable[str], offload: Iterable[str]) -> Callable[..., Any]:
    """The policy that keeps activations by name, in memory or in the host's."""
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(save),
        names_which_can_be_offloaded=list(offload),
        offload_src="device",
        offload_dst="pinned_host",
    )


def in_rows(body: Body) -> Body:
    """The body with its x in row-major order in memory, on the way in and out.

    Left to itself the compiler may write what goes to the host in one order and read it in another:
    then whole stacks [layers, B, T, D] are copied there and back at once (8.6 GB, v6e, jax 0.10).
    """
    rows = layout.Layout(major_to_minor=(0, 1, 2))

    def ordered(kind, params, layer, x, side, cache):
        x = layout.with_layout_constraint(x, rows)
        x, cache, sums = body(kind, params, layer, x, side, cache)
        return layout.with_layout_constraint(x, rows), cache, sums

    return ordered


REMAT_POLICIES = ("none", "full", "dots", "attention", "names")
# What layers name by `checkpoint_name`, and so what `save` and `offload` may say.
ACTIVATIONS = (
    *("input", "query", "key", "value", "key_value", "attention", "out"),
    *("residual", "gate", "up", "down"),
)
