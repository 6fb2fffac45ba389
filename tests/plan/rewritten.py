"""Harmless changes, second half: the same function written in other words."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigmodel.layers import block, experts, feedforward, norm, router, self_attention
from bigmodel.models import decoder
from bigmodel.objectives import tokens as objectives
from bigmodel.sharding import context, pipeline
from bigmodel.train import step


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
