"""Learning rate by step, as `optax.Schedule`s.

Step 0 is the first update. With a warmup the rate is 0 there, so that the first gradients, which no
average has smoothed yet, fill the moments and move nothing. It climbs linearly to `peak` at step
`warmup`. A schedule that falls reaches `floor` at step `steps` and stays there. A run shorter than
its warmup is a run that ends on the way up.
"""

import jax.numpy as jnp
import optax

from bigmodel.config import InputError


def warmup_cosine(
    steps: int, *, peak: float = 3e-4, warmup: int = 0, floor: float = 0.0
) -> optax.Schedule:
    """Half a cosine from peak to floor.  Loshchilov and Hutter 2016 (arXiv:1608.03983), eq. 5."""
    _check(peak, warmup, floor)
    fall = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=floor / (peak or 1.0))
    return _after_warmup(peak, warmup, fall)


def warmup_linear(
    steps: int, *, peak: float = 3e-4, warmup: int = 0, floor: float = 0.0
) -> optax.Schedule:
    """A straight line from peak to floor."""
    _check(peak, warmup, floor)
    return _after_warmup(peak, warmup, optax.linear_schedule(peak, floor, max(steps - warmup, 1)))


def constant(steps: int, *, peak: float = 3e-4, warmup: int = 0) -> optax.Schedule:
    """The peak for good: what schedule-free optimizers want."""
    del steps
    _check(peak, warmup, 0.0)
    return _after_warmup(peak, warmup, optax.constant_schedule(peak))


def inverse_sqrt(
    steps: int, *, peak: float = 3e-4, warmup: int = 0, floor: float = 0.0
) -> optax.Schedule:
    """peak sqrt(warmup / step), however long the run, and never below the floor.

    Vaswani et al. 2017 (arXiv:1706.03762), eq. 3, whose peak is (width warmup)^-1/2.
    """
    del steps
    _check(peak, warmup, floor)
    start = max(warmup, 1)

    def fall(step):
        step = jnp.maximum(step, 0)  # optax asks both sides of the joint
        return jnp.maximum(peak * jnp.sqrt(start / (start + step)), floor)

    return _after_warmup(peak, warmup, fall)


def warmup_stable_decay(
    steps: int, *, peak: float = 3e-4, warmup: int = 0, floor: float = 0.0, decay: float = 0.1
) -> optax.Schedule:
    """The peak until the last share `decay` of the steps, then a straight line to the floor.

    Hu et al. 2024, "MiniCPM" (arXiv:2404.06395), section 4. The line is that of Hägele et al. 2024
    (arXiv:2405.18392); every checkpoint of the flat part is a place to branch off from.
    """
    _check(peak, warmup, floor)
    if not 0 < decay <= 1:
        raise InputError(f"schedule.decay={decay}: must be a share of the steps, above 0 up to 1.")
    start = max(steps - max(round(decay * steps), 1), warmup)
    fall = optax.linear_schedule(peak, floor, max(steps - start, 1))
    flat = optax.constant_schedule(peak)
    return _after_warmup(peak, warmup, optax.join_schedules([flat, fall], [start - warmup]))


def _after_warmup(peak: float, warmup: int, rest: optax.Schedule) -> optax.Schedule:
    if not warmup:
        return rest
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), rest], [warmup])


def _check(peak: float, warmup: int, floor: float) -> None:
    if peak < 0:
        raise InputError(f"schedule.peak={peak}: a learning rate is not negative.")
    if warmup < 0:
        raise InputError(f"schedule.warmup={warmup}: must be a number of steps, 0 or more.")
    if not 0 <= floor <= peak:
        raise InputError(f"schedule.floor={floor}: must lie between 0 and schedule.peak={peak}.")
