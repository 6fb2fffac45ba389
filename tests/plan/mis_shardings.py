"""Faults of layouts, one at a time: by a row of the rules or a field of the mesh, or by a patch.

A patch is run in the process that compiles, before anything is made there.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.layers import block, feedforward, linear
from bigmodel.models import unembedding
from bigmodel.objectives import tokens as objectives
from bigmodel.sharding import experts, pipeline
from bigmodel.train import state
from tests.plan.budgeted import Case


def row(**cuts: str | tuple[str, ...] | None) -> dict[str, Any]:
    """Rows put in the table of rules; "optimizer/AXIS" is said as optimizer_AXIS."""
    rows = ((axis.replace("optimizer_", "optimizer/"), cut) for axis, cut in cuts.items())
    return dict(extra_rules=tuple(rows))


# Patches: a constraint that is missing or says something else


def constrained(found: tuple[str | None, ...], put: tuple[str | None, ...] | None) -> None:
    """Wherever the library asks for some axes it gets others; None: nothing is asked."""
    ask = nn.with_logical_constraint

    def asked(x, axes, *args, **options):
        axes = put if tuple(axes) == found else axes
        return x if axes is None else ask(x, axes, *args, **options)

    nn.with_logical_constraint = asked


HEADS, HIDDEN = ("batch", "length", "act_heads", None), ("batch", "length", "act_mlp")
STREAM = ("batch", "residual_length", "act_embed")


def kernels_are_not_gathered():
    linear.gathered = lambda kernel, axes: kernel


def the_head_is_not_gathered():
    unembedding.gathered = lambda kernel, axes: kernel


def kernels_are_gathered_over_all_axes():
    linear.whole = lambda axes: (None,) * len(axes)


def the_stream_is_whole():
    constrained(STREAM, (None, "residual_length", "act_embed"))


def the_stream_is_swapped():
    constrained(STREAM, ("residual_length", "batch", "act_embed"))


def the_stream_is_not_constrained():
    constrained(STREAM, None)


def the_stream_is_cut_along_its_width():
    block.Block.constrain = staticmethod(
        lambda x: nn.with_logical_constraint(x, ("batch", "residual_length", "act_mlp"))
    )


def attention_is_whole():
    constrained(HEADS, ("batch", "length", None, None))


def attention_is_cut_along_the_width_of_heads():
    constrained(HEADS, ("batch", "length", None, "act_heads"))


def keys_and_values_are_whole():
    constrained(("batch", "length", "act_kv_heads", None), (None, "length", None, None))


def the_hidden_width_is_whole():
    constrained(HIDDEN, ("batch", "length", None))


def the_hidden_layer_is_cut_along_its_length():
    constrained(HIDDEN, ("batch", "act_mlp", None))


def the_last_norm_is_whole():
    constrained(("batch", "length", "act_embed"), (None, None, None))


def the_update_is_made_of_whole_gradients():
    from bigmodel.train import step

    scale = step.trees.scale

    def whole(tree, factor):
        return jax.tree.map(
            lambda x: nn.with_logical_constraint(x, (None,) * x.ndim), scale(tree, factor)
        )

    step.trees.scale = whole


def the_optimizer_keeps_whole_states():
    def whole(tree, params, params_shardings, mesh):
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)

    state.rules.like_params = whole


def logits_are_gathered_for_the_target():
    entropy = objectives.cross_entropy

    def whole(logits, targets, **options):
        logits = nn.with_logical_constraint(logits, ("batch", None, None))
        return entropy(logits, targets, **options)

    objectives.cross_entropy = whole


def the_gradient_of_the_stream_is_float32():
    def product(equation, x, kernel):
        return jnp.einsum(
            equation,
            x.astype(jnp.float32),
            kernel.astype(jnp.float32),
            preferred_element_type=jnp.float32,
        )

    unembedding.product_in_float32 = product


def chunks_of_the_loss_are_runs_of_the_length():
    def cut(length, *arrays):
        def one(x):
            return jnp.moveaxis(x.reshape(x.shape[0], -1, length, *x.shape[2:]), 1, 0)

        return tuple(map(one, arrays))

    def joined(chunks, length):
        whole = jnp.moveaxis(chunks, 0, 1)
        return whole.reshape(whole.shape[0], -1, *whole.shape[3:])[:, :length]

    objectives.cut, objectives.joined = cut, joined


def microbatches_are_runs_of_rows():
    def cut(self, x):
        return x.reshape(self.microbatches, -1, *x.shape[1:])

    pipeline.Pipeline.cut = cut
    pipeline.Pipeline.joined = lambda self, x: x.reshape(-1, *x.shape[2:])


def experts_see_the_tokens_of_all():
    on_mesh = experts.on_mesh

    def whole(local, mesh, known, x, routes, own):
        known = dict(known) | {"batch": tuple(a for a in known["batch"] if a != "expert")}
        return on_mesh(local, mesh, known, x, routes, own)

    experts.on_mesh = whole


def up_and_down_are_cut_alike():
    narrow = feedforward.narrow

    def swapped(layer, hidden, width):
        made = feedforward.Einsum
        feedforward.Einsum = lambda e, shape, axes, *rest, **more: made(
            e, shape, axes[::-1], *rest, **more
        )
        try:
            return narrow(layer, hidden, width)
        finally:
            feedforward.Einsum = made

    feedforward.narrow = swapped


WIDTH_OF_HEADS: dict[str, Any] = dict(heads=None, kv_heads=None, head_dim="tensor")

FAULTS = (
    # a row that is dropped
    Case("embed is not cut", "fsdp", row(embed=None)),
    Case("the batch is not cut", "fsdp", row(batch="data")),
    Case("the optimizer's state is not cut", "fsdp", row(optimizer_embed=None)),
    Case("embed is not cut", "fsdp_tensor", row(embed=None)),
    Case("mlp is not cut", "fsdp_tensor", row(mlp=None)),
    Case("heads are not cut", "fsdp_tensor", row(heads=None)),
    Case("heads of keys are not cut", "fsdp_tensor", row(kv_heads=None)),
    Case("the vocabulary is not cut", "fsdp_tensor", row(vocab=None)),
    Case("the hidden layer is not cut", "fsdp_tensor", row(act_mlp=None)),
    Case("heads of the stream are not cut", "fsdp_tensor", row(act_heads=None)),
    Case("the stream is not cut", "sequence", row(residual_length="context")),
    Case("the rows of zero1 are not there", "zero1", dict(rules="fsdp_tensor")),
    Case("length is not cut", "ring", row(length=None)),
    Case("the stream is not cut", "ring", row(residual_length=None)),
    Case("embed is not cut over the ring", "ring", row(embed=("fsdp", "expert"))),
    Case("experts are not cut", "experts", row(experts=None)),
    Case("the width of experts is not cut", "experts", row(expert_embed=None)),
    Case("rows are not cut over experts", "experts", row(batch=("data", "fsdp"))),
    Case("embed is not cut over experts", "experts", row(embed=("fsdp", "context"))),
    Case("layers are not cut", "pipeline", row(layers=None)),
    Case("mlp is not cut", "pipeline", row(mlp=None)),
    Case("rows are not cut over slices", "slices", row(batch=("fsdp", "expert"))),
    Case("everything is whole", "sequence", dict(rules="replicated")),
    # an axis that is swapped
    Case("mlp in place of embed", "fsdp", row(embed=None, mlp="fsdp")),
    Case("vocab in place of embed", "fsdp", row(embed=None, vocab="fsdp")),
    Case("width in place of rows", "fsdp", row(batch=None, act_embed="fsdp")),
    Case("mlp and head_dim", "fsdp_tensor", row(mlp=None, **WIDTH_OF_HEADS)),
    Case("the width of heads", "fsdp_tensor", row(**WIDTH_OF_HEADS)),
    Case("the stream by its width", "fsdp_tensor", row(act_embed="tensor")),
    Case("fsdp and tensor", "fsdp_tensor", dict(mesh=dict(fsdp=4, tensor=2))),
    Case("embed over slices", "slices", row(embed=("data", "fsdp"))),
    Case("embed over slices alone", "slices", row(embed="data")),
    Case("tensor over slices", "slices", dict(mesh=dict(data=1, fsdp=4, tensor=2))),
    Case("a layer's kernels swapped", "fsdp_tensor", patch=up_and_down_are_cut_alike),
    Case("the stream's axes", "fsdp", patch=the_stream_is_swapped),
    Case("the stream's width", "fsdp_tensor", patch=the_stream_is_cut_along_its_width),
    Case("heads", "fsdp_tensor", patch=attention_is_cut_along_the_width_of_heads),
    Case("the hidden layer", "fsdp_tensor", patch=the_hidden_layer_is_cut_along_its_length),
    # a constraint that is missing
    Case("kernels", "fsdp", patch=kernels_are_not_gathered),
    Case("the head", "fsdp", patch=the_head_is_not_gathered),
    Case("the stream", "sequence", patch=the_stream_is_not_constrained),
    Case("microbatches", "pipeline", patch=microbatches_are_runs_of_rows),
    Case("chunks of the loss", "ring", patch=chunks_of_the_loss_are_runs_of_the_length),
    # one copy too many, or one that is too wide
    Case("the stream", "fsdp", patch=the_stream_is_whole),
    Case("attention", "fsdp_tensor", patch=attention_is_whole),
    Case("keys and values", "fsdp", patch=keys_and_values_are_whole),
    Case("the hidden layer", "fsdp_tensor", patch=the_hidden_width_is_whole),
    Case("the last norm", "fsdp", patch=the_last_norm_is_whole),
    Case("logits", "fsdp_tensor", patch=logits_are_gathered_for_the_target),
    Case("gradients in the update", "fsdp", patch=the_update_is_made_of_whole_gradients),
    Case("the optimizer's state", "fsdp", patch=the_optimizer_keeps_whole_states),
    Case("kernels of all axes", "fsdp_tensor", patch=kernels_are_gathered_over_all_axes),
    Case("the head's gradient", "fsdp_tensor", patch=the_gradient_of_the_stream_is_float32),
    Case("experts' tokens", "experts", patch=experts_see_the_tokens_of_all),
)
