"""A stack of layers in stages over the mesh axis "stage": a batch goes through in microbatches.

Huang et al. 2018, GPipe (arXiv:1811.06965); with repeats, where a device has several shorter runs
of layers and microbatches go round as often, Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.

    4 stages, 4 microbatches          tick  0 1 2 3 4 5 6
                             device 0       0 1 2 3 . . .
                             device 1       . 0 1 2 3 . .      . is the bubble:
                             device 2       . . 0 1 2 3 .      (S - 1) / (M R + S - 1)
                             device 3       . . . 0 1 2 3      of the ticks

All stages run at once, as one program mapped over them; between two ticks what they made moves on
to the next (a collective permute over "stage"). The other mesh axes stay with the compiler.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from bigmodel.layers import stack

AXIS = "stage"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """How a stack runs; to be called as `layers.stack.scanned` is.

    Attributes:
        stages: S.
        microbatches: M, at least S where there are repeats.
        repeats: R, runs of layers that each stage has.
        remat: the model's fields `remat`, `remat_save` and `remat_offload`.
    """

    stages: int
    microbatches: int
    repeats: int = 1
    remat: tuple[str, tuple[str, ...], tuple[str, ...]] = ("none", (), ())

    @property
    def ticks(self) -> int:
        return self.microbatches * self.repeats + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of its time that a stage has nothing to do."""
        return (self.stages - 1) / self.ticks

    def order(self, layers: int) -> np.ndarray:
        """Which layer lies where: memory[i] = disk[order[i]], each stage's runs side by side.

        8 layers, 2 stages, 2 repeats: stage 0 has 0 1 and 4 5, stage 1 has 2 3 and 6 7.
        """
        runs = np.arange(layers).reshape(self.repeats, self.stages, -1)
        return runs.transpose(1, 0, 2).reshape(-1)

    def __call__(
        self, body: stack.Body, params: Any, x: jax.Array, side: Any, cache: Any, kinds: Sequence
    ):
        """The stack on x [B, T, D]; `params` lie in the order of `order`."""
        S, M, R = self.stages, self.microbatches, self.repeats
        if cache is not None:
            raise ValueError("a pipeline has no cache: text is generated on a mesh without stages")
        if x.shape[0] == 1:  # somebody asks for shapes alone
            return stack.scanned(body, params, x, side, cache, kinds)
        params = jax.tree.map(
            lambda p: p.reshape(S, R, p.shape[0] // (S * R), *p.shape[1:]), params
        )
        inputs = self.cut(x)
        sides = jax.tree.map(lambda a: self.cut(jnp.broadcast_to(a, (len(x), *a.shape[1:]))), side)

        def of_stage(params, x, stage, number):
            """A stage at its microbatch of that number, counted on through the repeats."""
            number = jnp.clip(number, 0, M * R - 1)
            side = jax.tree.map(lambda a: pick(a, number % M), sides)
            own = jax.tree.map(lambda p: pick(p, number // M), params)
            # Picked again for the gradient: kept, there would be as many copies as ticks.
            own = jax.tree.map(lambda p: checkpoint_name(p, PICKED), own)
            length = jax.tree.leaves(own)[0].shape[0]
            first = (number // M * S + stage) * length

            def layer_of(kind, params, layer, *rest):
                return body(kind, params, first + layer, *rest)

            x, _, sums = stack.scanned(layer_of, own, x, side, None, kinds)
            return x, sums

        of_stage = jax.checkpoint(of_stage, policy=self.keep(), prevent_cse=False)
        of_stages = jax.vmap(of_stage, spmd_axis_name=AXIS)
        stages = jnp.arange(S)

        def tick(carry, at):
            x, waiting, sums = carry
            number = at - stages  # of each stage's microbatch; there is none yet, or no more
            x = x.at[0].set(pick(waiting[0], jnp.clip(at, 0, M * R - 1) % M))
            x, more = of_stages(params, x, stages, number)
            real = (number >= 0) & (number < M * R)
            sums = jax.tree.map(lambda total, new: total + masked(real, new), sums, more)
            x = on_stages(jnp.roll(x, 1, axis=0))
            # What comes round to stage 0 waits there for its next turn, or is the result.
            done = at - (S - 1)
            put = jax.lax.dynamic_update_index_in_dim(waiting, x, jnp.maximum(done, 0) % M, 1)
            return (x, jnp.where(done >= 0, put, waiting), sums), None

        waiting = on_stages(jnp.broadcast_to(inputs, (S, *inputs.shape)))
        flow = on_stages(jnp.zeros_like(waiting[:, 0]))
        _, sums = jax.eval_shape(of_stages, params, flow, stages, stages)
        sums = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
        carry, _ = jax.lax.scan(tick, (flow, waiting, sums), jnp.arange(self.ticks))
        _, waiting, sums = carry
        return self.joined(waiting[0]), cache, jax.tree.map(lambda s: s.sum(0), sums)

    def keep(self) -> Callable[..., Any]:
        """What of a tick is kept for its gradient: the policy of a stage is that of its layers too.

        Inside a checkpoint jax does not ask those within it, so this one must say what they would.
        """
        policy, save, offload = self.remat
        if policy in ("none", "attention"):
            return jax.checkpoint_policies.save_anything_except_these_names(PICKED)
        kept = save if policy == "names" else ()
        offload = offload if policy == "names" else ()
        return stack.named({*kept, "input"} - {*offload}, offload)

    def cut(self, x: jax.Array) -> jax.Array:
        """[B, ...] -> [M, B / M, ...]; part i has the rows i, i + M, ..., some of each device's."""
        return jnp.moveaxis(x.reshape(-1, self.microbatches, *x.shape[1:]), 1, 0)

    def joined(self, x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])


PICKED = "stage_params"


def on_stages(x: jax.Array) -> jax.Array:
    """What stages have, [S, ..., B, T, D]: each on the devices of its layers."""
    between = (None,) * (x.ndim - 4)
    axes = ("layers", *between, "batch", "residual_length", "act_embed")
    return nn.with_logical_constraint(x, axes)


def pick(x: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def masked(real: jax.Array, sums: jax.Array) -> jax.Array:
    """Sums [S, ...] of the stages that have something to do, zeros of the others."""
    return jnp.where(real.reshape(-1, *[1] * (sums.ndim - 1)), sums, 0)
