"""Laws of the schedules: up to the peak, down to the floor, each at its step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.config import InputError
from bigmodel.optimizers import SCHEDULES

STEPS, WARMUP, PEAK, FLOOR = 100, 10, 2.0, 0.5


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_reaches_its_peak_after_the_warmup_and_stays_within_its_bounds(name):
    floor = {} if name == "constant" else {"floor": FLOOR}
    schedule = SCHEDULES[name](STEPS, peak=PEAK, warmup=WARMUP, **floor)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(STEPS + 20)))
    np.testing.assert_allclose(rates[: WARMUP + 1], np.linspace(0, PEAK, WARMUP + 1), rtol=1e-6)
    assert np.all(np.diff(rates[WARMUP:]) <= 1e-6)
    assert np.all(rates[WARMUP:] >= (FLOOR if floor else PEAK))
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(37)), rates[37], rtol=1e-6)


@pytest.mark.parametrize("name", ["warmup_cosine", "warmup_linear", "warmup_stable_decay"])
def test_a_falling_schedule_is_at_its_floor_at_the_last_step_and_not_before(name):
    schedule = SCHEDULES[name](STEPS, peak=PEAK, warmup=WARMUP, floor=FLOOR)
    assert schedule(STEPS - 1) > FLOOR
    assert schedule(STEPS) == schedule(STEPS + 1) == FLOOR


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warmup_the_first_step_has_the_peak(name):
    assert SCHEDULES[name](STEPS, peak=PEAK)(0) == PEAK


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_shorter_than_its_warmup_ends_on_the_way_up(name):
    schedule = SCHEDULES[name](5, peak=PEAK, warmup=WARMUP)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(5)), np.arange(5) * 0.2, rtol=1e-6)


def test_where_schedules_are_in_the_middle():
    middle = (STEPS + WARMUP) // 2
    for name in ("warmup_cosine", "warmup_linear"):
        rate = SCHEDULES[name](STEPS, peak=PEAK, warmup=WARMUP, floor=FLOOR)(middle)
        np.testing.assert_allclose(rate, (PEAK + FLOOR) / 2, rtol=1e-6)
    inverse_sqrt = SCHEDULES["inverse_sqrt"](STEPS, peak=PEAK, warmup=WARMUP)
    np.testing.assert_allclose(inverse_sqrt(4 * WARMUP), PEAK / 2, rtol=1e-6)
    flat = SCHEDULES["warmup_stable_decay"](STEPS, peak=PEAK, warmup=WARMUP, decay=0.2)
    assert flat(80) == PEAK
    np.testing.assert_allclose(flat(90), PEAK / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"floor": 3.0}, "schedule.floor=3.0"),
        ({"warmup": -1}, "schedule.warmup=-1"),
        ({"peak": -1.0}, "schedule.peak=-1.0"),
        ({"decay": 0.0}, "schedule.decay=0.0"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_field_and_value(fields, field):
    with pytest.raises(InputError, match=re.escape(field)):
        SCHEDULES["warmup_stable_decay"](STEPS, **{"peak": PEAK, **fields})
