"""Silent faults are found and named: a gradient's second computation, and a device's products."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel import recipe as recipes
from bigmodel.checkpoint import checksums
from bigmodel.train import replay, selftest
from tests import runs
from tests.train import faulty

MESH = ("mesh.data=2", "mesh.fsdp=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replay")


def test_a_run_that_is_checked_has_the_bits_of_one_that_is_not(folder):
    faulty.train(folder / "checked", *MESH, "replay.every=2", "spikes.action=tell")
    faulty.train(folder / "plain", *MESH, "spikes.action=tell")
    assert runs.checksums(folder / "checked", 12) == runs.checksums(folder / "plain", 12)


@pytest.fixture
def corrupted(monkeypatch):
    """The second computation at step 6 has another bit on one device."""
    made = replay.make

    def make(*given):
        found = made(*given)
        program, calls = found.program, []

        def wrong(state, batch):
            calls.append(None)
            sums = program(state, batch)
            if len(calls) != 6:  # of steps 2, 4 and 6
                return sums
            bits = np.array(sums)
            bits.flat[3] ^= 1
            return jax.device_put(bits, sums.sharding)

        found.program = wrong
        return found

    monkeypatch.setattr(replay, "make", make)


def test_a_second_computation_with_another_bit_stops_the_run_before_it_saves(folder, corrupted):
    run = folder / "corrupted"
    with pytest.raises(
        replay.CorruptionError, match=r"step 6: .* on 1 of 8 dev.*some host of this"
    ):
        faulty.train(run, *MESH, "replay.every=2")
    assert sorted(int(path.name) for path in (run / "checkpoints").iterdir()) == [4]


def test_the_device_that_multiplies_wrong_is_named(folder, corrupted, monkeypatch):
    right = selftest.run

    def run(devices, chain):
        found = right(devices, chain)
        spoilt = found[devices[6]].copy()
        spoilt[1, 0, 5, 7] += 1
        return found | {devices[6]: spoilt}

    monkeypatch.setattr(selftest, "run", run)
    (named,) = selftest.faulty_devices()
    assert named == f"{selftest.socket.gethostname()}, process 0, device 6 (cpu)"
    with pytest.raises(replay.CorruptionError, match=r"products goes wrong on: .*, device 6 \(cpu"):
        faulty.train(folder / "named", *MESH, "replay.every=2")


def test_sound_devices_end_their_chain_as_numpy_does():
    assert selftest.faulty_devices() == []


def test_a_chain_is_exact_in_every_dtype_at_the_sizes_of_an_accelerator():
    left, right, end = selftest.known(selftest.ELSEWHERE._replace(products=2))
    assert np.abs(left).max() == np.abs(right).max() == np.abs(end).max() == 8
    assert selftest.ELSEWHERE.size * 8 * 8 < 2**24


def test_one_wrong_element_is_still_there_at_the_end_of_the_chain():
    left, right, end = selftest.known(selftest.ON_CPU)
    spoilt = left.copy()
    spoilt[0, 0] = -spoilt[0, 0] + 1
    found = np.asarray(selftest.multiply(spoilt, right, chain=selftest.ON_CPU))
    assert (found[:, 0, 0] != end[0]).mean() > 0.9


def test_a_checksum_of_each_device_is_of_what_it_holds():
    recipe = recipes.make(runs.config(mesh=dict(data=2, fsdp=4)))
    spec = PartitionSpec("fsdp")
    x = np.arange(8, dtype=np.float32)
    cut = jax.device_put(x, NamedSharding(recipe.mesh, spec))
    sums = np.asarray(jax.jit(lambda x: replay.by_device([x], [spec], recipe.mesh))(cut)).reshape(
        2, 4
    )
    parts = [int(checksums.checksum(jax.numpy.array(part))) for part in x.reshape(4, 2)]
    np.testing.assert_array_equal(np.asarray(sums).reshape(2, 4), [parts, parts])


@pytest.mark.parametrize(
    ("mesh", "at", "expected"),
    [
        (dict(data=2, fsdp=4), 3, range(8)),  # all devices sum one gradient
        (dict(data=2, tensor=4), 3, (3, 7)),  # those of one part of the kernels
        (dict(tensor=8), 3, (3,)),
    ],
    ids=["data and fsdp", "data and tensor", "tensor"],
)
def test_a_group_is_of_those_whose_gradients_are_summed(mesh, at, expected):
    recipe = recipes.make(runs.config(mesh=mesh, model=dict(heads=8, kv_heads=8)))
    differing = np.zeros(recipe.mesh.devices.shape, bool)
    differing.flat[at] = True
    assert [device.id for device in replay.group(recipe, differing)] == list(expected)
