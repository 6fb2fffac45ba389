"""Harmless changes: other words for the same step. None of them may breach a budget.

As in mis_shardings.py a change is of the config, or a patch that runs in the process that compiles.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import block, feedforward, linear, self_attention
from bigmodel.sharding import pipeline
from tests.plan import rewritten
from tests.plan.budgeted import Case

# Products


def operands_the_other_way_round():
    einsum = jnp.einsum

    def swapped(equation, *operands, **options):
        if "->" in equation and len(operands) == 2 and "..." not in equation:
            inputs, output = equation.split("->")
            left, right = inputs.split(",")
            return einsum(f"{right},{left}->{output}", *operands[::-1], **options)
        return einsum(equation, *operands, **options)

    jnp.einsum = swapped


def products_by_dot_general():
    einsum = jnp.einsum

    def product(equation, *operands, **options):
        inputs, _, output = equation.partition("->")
        letters = inputs.split(",")
        if "..." in equation or len(letters) != 2 or options:
            return einsum(equation, *operands, **options)
        left, right = letters
        summed = [a for a in left if a in right and a not in output]
        shared = [a for a in left if a in right and a in output]
        rest = [a for a in left + right if (a in left) != (a in right)]
        if shared or "".join(rest) != output:
            return einsum(equation, *operands, **options)
        along = tuple(tuple(of.index(a) for a in summed) for of in letters)
        return jax.lax.dot_general(*operands, (along, ((), ())))

    jnp.einsum = product


def products_by_tensordot():
    einsum = jnp.einsum

    def product(equation, *operands, **options):
        if equation == "BTD,DF->BTF":
            return jnp.tensordot(*operands, axes=1)
        if equation == "BTHC,HCD->BTD":
            return jnp.tensordot(*operands, axes=2)
        return einsum(equation, *operands, **options)

    jnp.einsum = product


def products_by_matmul():
    einsum = jnp.einsum

    def product(equation, *operands, **options):
        plain = equation in ("BTD,DF->BTF", "BTF,FD->BTD")
        return operands[0] @ operands[1] if plain else einsum(equation, *operands, **options)

    jnp.einsum = product


# Names and order


def a_scope_around_the_feed_forward_layer():
    scoped("narrow", "second_half")


def scoped(name: str, scope: str) -> None:
    function = getattr(feedforward, name)

    @functools.wraps(function)
    def named(*args):
        with jax.named_scope(scope):
            return function(*args)

    setattr(feedforward, name, named)


def other_names_of_modules():
    wide = feedforward.wide
    feedforward.wide = lambda layer, x, name: wide(layer, x, f"{name}_projection")


def other_names_of_activations():
    for module in (feedforward, self_attention, block):
        name = module.checkpoint_name
        module.checkpoint_name = lambda x, to, name=name: name(x, f"the_{to}")


def activation_in_a_function_of_its_own():
    feedforward.ACTIVATIONS["silu"] = jax.jit(jax.nn.silu)


def up_before_gate():
    wide, waiting = feedforward.wide, []

    def other_first(layer, x, name):
        if name == "up":
            return waiting.pop()
        waiting.append(wide(layer, x, "up"))
        return wide(layer, x, "gate")

    feedforward.wide = other_first


class Second:
    """What is added to something becomes the first of the two."""

    def __init__(self, x: jax.Array):
        self.x = x

    def __radd__(self, other: jax.Array) -> jax.Array:
        return self.x + other


def sums_the_other_way_round():
    block.dropout = lambda x, keys, *, rate, site, indices=None: Second(x)  # type: ignore[assignment, return-value]


def rotation_in_a_function_of_its_own():
    self_attention.rotate = jax.jit(self_attention.rotate)


def products_of_merged_rows():
    feedforward.Einsum = functools.partial(with_einsum, feedforward.Einsum)


def with_einsum(made, equation, shape, axes, initializer, bias_axes, dtype, param_dtype, _, name):
    given = (equation, shape, axes, initializer, bias_axes, dtype, param_dtype, linear.flat_einsum)
    return made(*given, name=name)


# What the compiler finds out by itself


def kernels_gathered_in_float32():
    gather = linear.gathered

    def in_float32(kernel, axes):
        return gather(kernel.astype(jnp.float32), axes).astype(kernel.dtype)

    linear.gathered = in_float32


def gradients_scattered_by_the_update_alone():
    def backward(axes, _, grad):  # but of a head or a table, which is summed as soon as it is there
        where = axes if "vocab" in axes else (None,) * grad.ndim
        return (nn.with_logical_constraint(grad, where),)

    linear.gathered.defvjp(lambda kernel, axes: (linear.gathered(kernel, axes), None), backward)


def stages_without_a_constraint():
    pipeline.on_stages = lambda x: x


def a_stream_without_a_constraint():
    block.Block.constrain = staticmethod(lambda x: x)


CHANGES = (
    # products in other words
    Case("operands", "fsdp", patch=operands_the_other_way_round),
    Case("operands", "fsdp_tensor", patch=operands_the_other_way_round),
    Case("dot_general", "fsdp", patch=products_by_dot_general),
    Case("dot_general", "slices", patch=products_by_dot_general),
    Case("tensordot", "fsdp_tensor", patch=products_by_tensordot),
    Case("matmul", "sequence", patch=products_by_matmul),
    # names, places, order
    Case("a scope", "fsdp", patch=a_scope_around_the_feed_forward_layer),
    Case("names of modules", "fsdp_tensor", patch=other_names_of_modules),
    Case("names of activations", "zero1", patch=other_names_of_activations),
    Case("a function of its own", "fsdp", patch=activation_in_a_function_of_its_own),
    Case("up before gate", "fsdp_tensor", patch=up_before_gate),
    Case("sums", "fsdp", patch=sums_the_other_way_round),
    # the same function
    Case("silu", "fsdp_tensor", patch=rewritten.silu_by_hand),
    Case("norms", "fsdp", patch=rewritten.norms_by_division),
    Case("rotation", "fsdp_tensor", patch=rewritten.rotation_by_stacking),
    Case("constants", "ring", patch=rewritten.rotation_with_constants_unrolled),
    Case("cross entropy", "fsdp_tensor", patch=rewritten.cross_entropy_by_logsumexp),
    Case("gradients", "fsdp", patch=rewritten.gradients_by_division),
    Case("norms of gradients", "slices", patch=rewritten.norms_of_the_update_by_hand),
    Case("scores", "fsdp_tensor", patch=rewritten.scores_scaled_before),
    Case("dropout of nothing", "fsdp", patch=rewritten.dropout_of_nothing),
    Case("a constraint twice", "sequence", patch=rewritten.a_constraint_said_twice),
    Case("a constraint by a table", "fsdp", patch=rewritten.constraints_as_tuples_of_a_table),
    Case("activations of experts", "experts", patch=rewritten.activations_of_experts_by_hand),
    Case("weights of experts", "experts", patch=rewritten.weights_of_experts_by_multiplication),
    Case("the router", "experts", patch=rewritten.softmax_of_the_router_by_hand),
    Case("microbatches", "pipeline", patch=rewritten.microbatches_by_transposition),
    Case("a ring in pieces", "ring", patch=rewritten.a_ring_that_sends_piece_by_piece),
    Case("rotation by itself", "fsdp", patch=rotation_in_a_function_of_its_own),
    Case("merged rows", "fsdp", patch=products_of_merged_rows),
    # what the compiler finds out by itself
    Case("kernels in float32", "fsdp", patch=kernels_gathered_in_float32),
    Case("gradients by the update", "fsdp", patch=gradients_scattered_by_the_update_alone),
    Case("stages", "pipeline", patch=stages_without_a_constraint),
    Case("the stream", "fsdp_tensor", patch=a_stream_without_a_constraint),
    # numbers of a run that lay nothing out
    Case(
        "numbers of a run",
        "fsdp",
        dict(seed=7, steps=50, schedule=dict(peak=1e-4, warmup=3), optimizer=dict(b1=0.8, b2=0.9)),
    ),
    Case("logs", "zero1", dict(log=dict(every=1), checkpoint=dict(every=7))),
    Case("another schedule", "slices", dict(schedule=dict(name="constant"))),
    Case("numbers of the model", "fsdp", dict(model=dict(norm_epsilon=1e-6, rope_theta=5e5))),
    Case("the chunk of the loss", "fsdp", dict(objective=dict(chunk=128))),
    Case("a price of log Z", "fsdp_tensor", dict(objective=dict(z_loss=1e-4))),
    Case("no clipping by much", "pipeline", dict(optimizer=dict(clip=1e6))),
)
