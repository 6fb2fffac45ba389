"""Harmless changes: other words for the same step. None of them may breach a budget.

As in mis_shardings.py a change is of the config, or a patch that runs in the process that compiles.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel import objectives
from bigmodel.layers import block, experts, feedforward, linear, norm, router, self_attention
from bigmodel.models import decoder
from bigmodel.sharding import context, pipeline
from bigmodel.train import step
from tests.plan.mis_shardings import Fault as Change

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


# The same function in other words


def norms_by_division():
    norm.jax = Replaced(jax, lax=Replaced(jax.lax, rsqrt=lambda x: 1 / jnp.sqrt(x)))


class Replaced:
    """A module with some of its names put otherwise."""

    def __init__(self, module: Any, **names: Any):
        self.module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def silu_by_hand():
    feedforward.ACTIVATIONS["silu"] = lambda x: x / (1 + jnp.exp(-x))


def rotation_by_stacking():
    def rotate(x, angles):
        sin, cos = angles
        C = x.shape[-1] // 2
        first, second = x[..., :C].astype(jnp.float32), x[..., C:].astype(jnp.float32)
        turned = jnp.stack((cos * first - sin * second, sin * first + cos * second), axis=-2)
        return turned.reshape(x.shape).astype(x.dtype)

    self_attention.rotate = rotate


def rotation_with_constants_unrolled():
    angles = decoder.positions.Rotary.angles

    def of_numbers(self, where, head_dim):
        base = [float(f) for f in self.frequencies(head_dim)]
        turn = where[:, :, None, None].astype(jnp.float32) * jnp.array(base, jnp.float32)
        return jnp.sin(turn), jnp.cos(turn)

    decoder.positions.Rotary.angles = functools.wraps(angles)(of_numbers)


def cross_entropy_by_logsumexp():
    def entropy(logits, targets, *, z_loss, label_smoothing):
        log_z = jax.nn.logsumexp(logits, axis=-1)
        hit = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
        at_target = (logits * hit).sum(-1)
        nll = log_z - at_target
        best = (at_target >= logits.max(-1)).astype(jnp.float32)
        return {"loss": nll, "nll": nll, "correct": best}

    objectives.cross_entropy = entropy


def gradients_by_division():
    step.trees = Replaced(
        step.trees, scale=lambda tree, factor: jax.tree.map(lambda x: x / (1 / factor), tree)
    )


def norms_of_the_update_by_hand():
    def square_root(tree):
        return jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(tree)))

    step.optax = Replaced(step.optax, tree=Replaced(step.optax.tree, norm=square_root))


def scores_scaled_before():
    attend = self_attention.attend_or_extend

    def scaled(how, q, *args, **options):
        options["scale"] = 1.0
        return attend(how, q * jnp.asarray(1 / math.sqrt(q.shape[-1]), q.dtype), *args, **options)

    self_attention.attend_or_extend = scaled


def dropout_of_nothing():
    block.dropout = lambda x, keys, *, rate, site, indices=None: jnp.where(rate == 0.0, x, 0 * x)


def a_constraint_said_twice():
    constrain = block.Block.constrain
    block.Block.constrain = staticmethod(lambda x: constrain(constrain(x)))


def constraints_as_tuples_of_a_table():
    axes = {"stream": ("batch", "residual_length", "act_embed")}
    block.Block.constrain = staticmethod(
        lambda x: nn.with_logical_constraint(x, tuple(axes["stream"]))
    )


def activations_of_experts_by_hand():
    experts.ACTIVATIONS = {"silu": lambda x: x * jax.nn.sigmoid(x)}


def weights_of_experts_by_multiplication():
    def weighed(y, routes):
        weights = routes.weights * routes.keep
        return (y.astype(jnp.float32) * weights[..., None]).sum(-2).astype(y.dtype)

    experts.weighed = weighed


def softmax_of_the_router_by_hand():
    def softmax(x):
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True)))
        return e / e.sum(-1, keepdims=True)

    router.jax = Replaced(jax, nn=Replaced(jax.nn, softmax=softmax))


def microbatches_by_transposition():
    def cut(self, x):
        return x.reshape(-1, self.microbatches, *x.shape[1:]).swapaxes(0, 1)

    pipeline.Pipeline.cut = cut


def a_ring_that_sends_piece_by_piece():
    send = context.Ring.send

    def one_by_one(ring, arrays):
        leaves, tree = jax.tree.flatten(arrays)
        return jax.tree.unflatten(tree, [send(ring, leaf) for leaf in leaves])

    context.Ring.send = one_by_one


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
    def backward(axes, _, grad):
        return (nn.with_logical_constraint(grad, (None,) * grad.ndim),)

    linear.gathered.defvjp(lambda kernel, axes: (linear.gathered(kernel, axes), None), backward)


def stages_without_a_constraint():
    pipeline.on_stages = lambda x: x


def a_stream_without_a_constraint():
    block.Block.constrain = staticmethod(lambda x: x)


CHANGES = (
    # products in other words
    Change("operands", "fsdp", patch=operands_the_other_way_round),
    Change("operands", "fsdp_tensor", patch=operands_the_other_way_round),
    Change("dot_general", "fsdp", patch=products_by_dot_general),
    Change("dot_general", "slices", patch=products_by_dot_general),
    Change("tensordot", "fsdp_tensor", patch=products_by_tensordot),
    Change("matmul", "sequence", patch=products_by_matmul),
    # names, places, order
    Change("a scope", "fsdp", patch=a_scope_around_the_feed_forward_layer),
    Change("names of modules", "fsdp_tensor", patch=other_names_of_modules),
    Change("names of activations", "zero1", patch=other_names_of_activations),
    Change("a function of its own", "fsdp", patch=activation_in_a_function_of_its_own),
    Change("up before gate", "fsdp_tensor", patch=up_before_gate),
    Change("sums", "fsdp", patch=sums_the_other_way_round),
    # the same function
    Change("silu", "fsdp_tensor", patch=silu_by_hand),
    Change("norms", "fsdp", patch=norms_by_division),
    Change("rotation", "fsdp_tensor", patch=rotation_by_stacking),
    Change("constants", "ring", patch=rotation_with_constants_unrolled),
    Change("cross entropy", "fsdp_tensor", patch=cross_entropy_by_logsumexp),
    Change("gradients", "fsdp", patch=gradients_by_division),
    Change("norms of gradients", "slices", patch=norms_of_the_update_by_hand),
    Change("scores", "fsdp_tensor", patch=scores_scaled_before),
    Change("dropout of nothing", "fsdp", patch=dropout_of_nothing),
    Change("a constraint twice", "sequence", patch=a_constraint_said_twice),
    Change("a constraint by a table", "fsdp", patch=constraints_as_tuples_of_a_table),
    Change("activations of experts", "experts", patch=activations_of_experts_by_hand),
    Change("weights of experts", "experts", patch=weights_of_experts_by_multiplication),
    Change("the router", "experts", patch=softmax_of_the_router_by_hand),
    Change("microbatches", "pipeline", patch=microbatches_by_transposition),
    Change("a ring in pieces", "ring", patch=a_ring_that_sends_piece_by_piece),
    Change("rotation by itself", "fsdp", patch=rotation_in_a_function_of_its_own),
    Change("merged rows", "fsdp", patch=products_of_merged_rows),
    # what the compiler finds out by itself
    Change("kernels in float32", "fsdp", patch=kernels_gathered_in_float32),
    Change("gradients by the update", "fsdp", patch=gradients_scattered_by_the_update_alone),
    Change("stages", "pipeline", patch=stages_without_a_constraint),
    Change("the stream", "fsdp_tensor", patch=a_stream_without_a_constraint),
    # numbers of a run that lay nothing out
    Change(
        "numbers of a run",
        "fsdp",
        dict(seed=7, steps=50, schedule=dict(peak=1e-4, warmup=3), optimizer=dict(b1=0.8, b2=0.9)),
    ),
    Change("logs", "zero1", dict(log=dict(every=1), checkpoint=dict(every=7))),
    Change("another schedule", "slices", dict(schedule=dict(name="constant"))),
    Change("numbers of the model", "fsdp", dict(model=dict(norm_epsilon=1e-6, rope_theta=5e5))),
    Change("the chunk of the loss", "fsdp", dict(objective=dict(chunk=128))),
    Change("a price of log Z", "fsdp_tensor", dict(objective=dict(z_loss=1e-4))),
    Change("no clipping by much", "pipeline", dict(optimizer=dict(clip=1e6))),
)
