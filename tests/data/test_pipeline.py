"""Batches are addressed by step: pure, whole, in another order each epoch, on any processes."""

import threading
import time
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.data import pipeline, text


class Numbers:
    """Rows that hold their own index."""

    weights = (1.0,)
    fingerprint = "numbers"

    def __init__(self, count, start=0):
        self.count, self.start = count, start
        self.taken = []
        self.parts = (self,)

    def __len__(self):
        return self.count

    def take(self, indices, epochs=None):
        self.taken.append(indices)
        self.epochs = epochs
        here = np.asarray(indices, np.int32) + self.start
        segments = np.ones((len(here), 4), np.int32)
        return {"tokens": np.repeat(here[:, None], 4, axis=1), "segments": segments}


def order(batches, steps):
    return np.concatenate([batches.host(step)["tokens"][:, 0] for step in steps])


def test_each_epoch_is_another_permutation_of_the_whole_data_set():
    batches = pipeline.Batches(Numbers(120), 8, seed=3)
    epochs = [order(batches, range(15 * e, 15 * (e + 1))) for e in range(4)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(120))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    moved = np.abs(np.argsort(epochs[0]) - np.arange(120))
    assert moved.mean() > 20, "shuffled over the whole, not in a window"


def test_rows_come_once_an_epoch_although_batches_do_not_divide_it():
    stream = order(pipeline.Batches(Numbers(10), 4), range(15))
    for epoch in stream.reshape(6, 10):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))


def test_a_batch_is_a_function_of_the_seed_and_the_step():
    first, again = (pipeline.Batches(Numbers(50), 8, seed=1) for _ in range(2))
    np.testing.assert_array_equal(order(first, range(9)), order(again, range(9)))
    np.testing.assert_array_equal(first.host(7)["tokens"], again.host(7)["tokens"])
    other = order(pipeline.Batches(Numbers(50), 8, seed=2), range(50))
    same = order(first, range(50))
    for shift in range(0, 350, 50):  # seed 2 is not seed 1 an epoch later
        assert (same[shift : shift + 50] != other[:50]).any()


def test_seeking_to_step_a_million_costs_no_more_than_to_step_one():
    def seconds(step):
        batches = pipeline.Batches(Numbers(1000), 64)
        began = time.perf_counter()
        batches.host(step)
        return time.perf_counter() - began

    seconds(0)
    early, late = (min(seconds(step) for _ in range(5)) for step in (1, 10**6))
    assert late < 5 * early + 0.01


def test_any_cut_over_processes_gives_the_same_batch():
    numbers = Numbers(100)
    batches = pipeline.Batches(numbers, 12)
    whole = batches.host(5)
    np.testing.assert_array_equal(whole["rows"], np.arange(12))
    for processes in (2, 3, 4):
        share = 12 // processes
        slices = [batches.host(5, slice(p * share, (p + 1) * share)) for p in range(processes)]
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([s[name] for s in slices]), array)
    picked = batches.host(5, np.array([7, 2]))
    np.testing.assert_array_equal(picked["tokens"], whole["tokens"][[7, 2]])
    assert len(numbers.taken[-1]) == 2, "only those rows are read"


def test_rows_are_told_their_epoch_in_training_and_none_in_evaluation():
    """A batch may hold the end of one and the start of the next; parts have epochs of their own."""
    rows = Numbers(10)
    batches = pipeline.Batches(rows, 4)
    told = []
    for step in range(8):
        batches.host(step)
        told += list(rows.epochs)
    assert told == [place // 10 for place in range(32)]
    pipeline.Batches(rows, 4, repeat=False).host(0)
    assert rows.epochs is None


def test_without_repeat_every_row_comes_once_in_order_and_the_end_is_padded():
    batches = pipeline.Batches(Numbers(10), 4, shuffle=False, repeat=False)
    assert len(batches) == 3
    np.testing.assert_array_equal(order(batches, range(3)), [*range(10), 0, 0])
    np.testing.assert_array_equal(batches.host(2)["segments"][:, 0], [1, 1, 0, 0])
    np.testing.assert_array_equal(batches.host(2)["rows"], [8, 9, 10, 11])
    padding = batches.host(2, slice(2, 4))
    assert not padding["segments"].any()
    assert padding["tokens"].shape == (2, 4)
    with pytest.raises(TypeError, match="without end"):
        len(pipeline.Batches(Numbers(10), 4))


def test_a_mixture_is_drawn_by_weight_each_source_anew_by_itself():
    parts: Any = (Numbers(30), Numbers(1000, start=1000))
    batches = pipeline.Batches(text.Mixture(parts, (3.0, 1.0)), 8)
    stream = order(batches, range(100))
    small, large = stream[stream < 1000], stream[stream >= 1000]
    assert len(small) == pytest.approx(600, abs=2)
    epochs = small[: len(small) // 30 * 30].reshape(-1, 30)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(30))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
    assert len(np.unique(large)) == len(large), "no row of the large one comes twice"
    finite = pipeline.Batches(text.Mixture(parts, (3.0, 1.0)), 8, shuffle=False, repeat=False)
    np.testing.assert_array_equal(
        order(finite, range(129))[:1030], [*range(30), *range(1000, 2000)]
    )


LAYOUTS = [
    PartitionSpec("data"),
    PartitionSpec("data", "context"),
    PartitionSpec(None, "context"),
    PartitionSpec(("data", "context")),
    PartitionSpec(),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_placed_batch_is_the_host_batch_however_it_lies(layout):
    mesh = jax.make_mesh((4, 2), ("data", "context"))

    def shardings(name, shape):
        return NamedSharding(mesh, PartitionSpec(*layout[: len(shape)]))

    batches = pipeline.Batches(Numbers(100), 8)
    placed = pipeline.place(batches, 3, shardings)
    for name, array in batches.host(3).items():
        np.testing.assert_array_equal(placed[name], array)
        assert placed[name].dtype == array.dtype == batches.spec[name].dtype
        assert placed[name].sharding.is_equivalent_to(shardings(name, array.shape), array.ndim)


class HalfHere:
    """A layout of which this process holds the second half of the rows, as one of two processes."""

    def addressable_devices_indices_map(self, shape):
        return {d: (slice(shape[0] // 2, shape[0]), slice(None)) for d in jax.devices()}


def test_a_process_reads_only_the_rows_of_its_own_devices_and_each_once(monkeypatch):
    numbers = Numbers(100)
    batches = pipeline.Batches(numbers, 8)
    assert batches.spec["tokens"].shape == (8, 4)
    numbers.taken.clear()
    cut = {}

    def local(shape, sharding, callback):
        cut[shape] = callback((slice(6, 8), *(slice(None),) * (len(shape) - 1)))

    monkeypatch.setattr(jax, "make_array_from_callback", local)
    half: Any = HalfHere()
    pipeline.place(batches, 2, lambda name, shape: half)
    assert [len(taken) for taken in numbers.taken] == [4]
    np.testing.assert_array_equal(cut[(8,)], [6, 7])


def test_ahead_gives_every_step_in_order_and_stays_at_most_depth_ahead():
    made = []

    def make(step):
        made.append(step)
        return step * step

    with pipeline.ahead(make, 3, 10, depth=2) as results:
        first = next(results)
        time.sleep(0.2)
        assert first == (3, 9)
        assert len(made) <= 1 + 2 + 1, "taken, waiting, and one in the making"
        assert list(results) == [(step, step * step) for step in range(4, 10)]


def test_ahead_counts_the_time_that_its_consumer_waits():
    with pipeline.ahead(lambda step: time.sleep(0.05), 0, 4) as results:
        list(results)
        assert results.waited_seconds > 0.1
    with pipeline.ahead(lambda step: step, 0) as results:
        for _ in range(3):
            time.sleep(0.05)
            next(results)
        assert results.waited_seconds < 0.05


def test_an_error_is_raised_where_its_result_would_have_come():
    def make(step):
        if step == 2:
            raise ValueError("step 2 is broken")
        return step

    results = pipeline.ahead(make, 0)
    assert [next(results), next(results)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="step 2 is broken") as caught:
        next(results)
    assert any(frame.name == "make" for frame in caught.traceback)
    with pytest.raises(StopIteration):
        next(results)


def test_close_ends_the_thread_whatever_it_is_doing():
    before = threading.active_count()
    for start in range(20):
        results = pipeline.ahead(lambda step: step, start)
        next(results)
        results.close()
        results.close()
    assert threading.active_count() == before


def test_no_batches_of_nothing():
    with pytest.raises(ValueError, match="at least one row"):
        pipeline.Batches(Numbers(0), 4)
