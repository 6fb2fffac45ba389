"""How fast a run is by both conventions; a profiler's trace, written however the run ends."""

import jax
import jax.numpy as jnp
import pytest

from bigmodel import costs, recipe
from bigmodel.train import meter
from tests import runs


@jax.jit
def run(state, batch):
    return state + batch, {"loss": jnp.sum(state)}


@pytest.mark.parametrize("kind", ["TPU v5p", "abacus"])
def test_a_known_chip_has_its_utilization_by_both_conventions_and_another_none(kind):
    made = recipe.make(runs.config(), devices=jax.devices()[:1])
    read = meter.Meter(made)
    read.device = kind
    read.read(0, 0.0)
    found = read.read(10, 0.0)
    names = {"mfu": "causal", "mfu_full_attention": "full"}
    assert found.keys() & names.keys() == (names.keys() if kind == "TPU v5p" else set())
    for name in found.keys() & names.keys():
        flops = costs.train_flops(made.fields, length=32, convention=names[name]).total
        assert found[name] == pytest.approx(found["tokens_per_second"] * flops / 459e12)


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
