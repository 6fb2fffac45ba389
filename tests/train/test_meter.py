"""A profiler's trace: of its window, and written however the run ends."""

import jax
import jax.numpy as jnp
import pytest

from bigmodel.train import meter


@jax.jit
def run(state, batch):
    return state + batch, {"loss": jnp.sum(state)}


def traces(folder):
    return list(folder.rglob("*.xplane.pb"))


def test_a_trace_is_of_its_window_and_changes_nothing(tmp_path):
    state = jnp.zeros(3)
    with meter.Trace(tmp_path, 2, 2) as trace:
        for at in range(5):
            state, metrics = trace.step(at, run, state, 1.0)
            assert float(metrics["loss"]) == 3 * at
            assert trace.records == (at == 2)
            assert bool(traces(tmp_path)) == (at >= 3)
    assert len(traces(tmp_path)) == 1


def test_a_run_that_stops_inside_the_window_leaves_what_was_recorded(tmp_path):
    for name in ("once", "again"):  # a trace that were left open would refuse the next one
        with pytest.raises(KeyboardInterrupt):
            stop_after_a_step(tmp_path / name)
        assert len(traces(tmp_path / name)) == 1


def stop_after_a_step(folder):
    with meter.Trace(folder, 0, 9) as trace:
        trace.step(0, run, jnp.zeros(3), 1.0)
        raise KeyboardInterrupt
