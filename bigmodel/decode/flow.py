"""From noise to data along a velocity: the solvers of an ordinary differential equation."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# velocity(given, x [B, ...], t float32 [B]) -> dx/dt [B, ...]
Velocity = Callable[[Any, jax.Array, jax.Array], jax.Array]


@functools.partial(jax.jit, static_argnames=("velocity", "steps", "solver"))
def sample(
    velocity: Velocity, given: Any, noise: jax.Array, *, steps: int, solver: str = "heun"
) -> jax.Array:
    """x at time 0 out of x at time 1, where dx/dt = velocity(given, x, t).  [B, ...] -> [B, ...]

    Args:
        velocity: which way; a model's, guided or not.
        given: what it reads besides: parameters, classes, ...
        noise: x at time 1.
        steps: equal ones of time.
        solver: a name of SOLVERS.
    """
    step = functools.partial(SOLVERS[solver], functools.partial(velocity, given))

    def one(x, times):
        return step(x, *times), None

    times = jnp.linspace(1.0, 0.0, steps + 1)
    x, _ = jax.lax.scan(one, noise, (times[:-2], times[1:-1]))
    # The last step is Euler's: it asks for no velocity at time 0, where none has been learned. One
    # error of second order leaves Heun's as a whole what it is (Karras et al. 2022, algorithm 1).
    return euler(functools.partial(velocity, given), x, times[-2], times[-1])


def euler(velocity: Callable, x: jax.Array, t: jax.Array, after: jax.Array) -> jax.Array:
    """x at time `after`, along the velocity at t: its error falls as the steps do."""
    return x + (after - t) * velocity(x, jnp.broadcast_to(t, x.shape[:1]))


def heun(velocity: Callable, x: jax.Array, t: jax.Array, after: jax.Array) -> jax.Array:
    """x at time `after`, along the mean of the velocities at both ends, by two calls.

    Its error falls as the square of the steps does. Karras et al. 2022 (arXiv:2206.00364),
    algorithm 1.
    """
    here = velocity(x, jnp.broadcast_to(t, x.shape[:1]))
    there = velocity(x + (after - t) * here, jnp.broadcast_to(after, x.shape[:1]))
    return x + (after - t) * (here + there) / 2


SOLVERS = {"euler": euler, "heun": heun}


def guided(with_class: jax.Array, without: jax.Array, scale: float | jax.Array) -> jax.Array:
    """A velocity that goes further towards a class, by `scale`; 1: as the model says.

    Ho and Salimans 2022 (arXiv:2207.12598), eq. 6, of velocities.
    """
    return without + scale * (with_class - without)


def noise(seed: int, addresses: Any, shape: tuple[int, ...]) -> jax.Array:
    """Noise by the numbers of its sample: the others do not change it.  int [B, n] -> [B, ...]"""

    def one(address):
        key = jax.random.key(seed)
        for number in address:
            key = jax.random.fold_in(key, number)
        return jax.random.normal(key, shape)

    return jax.vmap(one)(jnp.asarray(addresses, jnp.int32))
