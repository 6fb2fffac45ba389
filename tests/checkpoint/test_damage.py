"""Whatever happens to its files, a checkpoint is restored bit for bit or left aside aloud."""

import gc
import shutil

import numpy as np
import pytest

from bigmodel import checkpoint
from bigmodel.checkpoint import manifest
from tests.checkpoint import states

TRIALS = 24


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    gc.freeze()  # a read that fails collects garbage: not among all that other tests have traced
    folder = tmp_path_factory.mktemp("sound")
    with checkpoint.Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, states.on(states.mesh_of(8), step), {"step": step})
    yield folder
    gc.unfreeze()


def restore(folder):
    reports: list[str] = []
    restored = checkpoint.Checkpoints(folder).restore(
        states.abstract(states.mesh_of(8)), warn=reports.append
    )
    return restored, reports


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def truncate(path, rng):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def delete(path, rng):
    path.unlink()


# Where one read fails, Orbax drops the others in flight. Whether these complain to nobody as they
# are collected is a matter of timing, and says nothing of what was restored.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_damage_anywhere_is_harmless_or_reported(sound, tmp_path, damage):
    rng = np.random.default_rng(0)
    files = sorted(p for p in (sound / "2").rglob("*") if p.is_file() and p.stat().st_size)
    expected = {step: states.bits(states.make(step)) for step in (1, 2)}
    reported = 0
    for trial in range(TRIALS if damage is flip else len(files)):
        folder = tmp_path / str(trial)
        shutil.copytree(sound, folder)
        path = files[trial % len(files)]
        damage(folder / path.relative_to(sound), rng)
        restored, reports = restore(folder)
        assert states.bits(restored.tree) == expected[restored.step], path
        assert restored.metadata == {"step": restored.step}
        assert len(reports) == (restored.step == 1), reports
        assert all("/2 is unsound" in line and "\n" not in line for line in reports)
        reported += len(reports)
    assert reported >= 5


def test_files_of_another_step_are_caught_by_the_checksums(sound, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "check_sizes", lambda folder, content: None)
    shutil.copytree(sound, tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "2" / "state")
    shutil.copytree(sound / "1" / "state", tmp_path / "c" / "2" / "state")
    restored, (report,) = restore(tmp_path / "c")
    assert restored.step == 1
    assert report.endswith("does not match its checksum")


def test_a_folder_without_its_last_file_counts_as_unfinished(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "c")
    (tmp_path / "c" / "2" / "manifest.json").unlink()
    assert checkpoint.Checkpoints(tmp_path / "c").steps() == [1]
    restored, (report,) = restore(tmp_path / "c")
    assert restored.step == 1
    assert "the save did not finish" in report


def test_with_none_sound_all_are_listed(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "c")
    for step in (1, 2):
        shutil.rmtree(tmp_path / "c" / str(step) / "state")
    with pytest.raises(checkpoint.UnsoundError, match=r"(?s)step 2: .*step 1: "):
        restore(tmp_path / "c")


def test_an_unsound_checkpoint_does_not_crowd_out_sound_ones(sound, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(sound, folder)
    shutil.rmtree(folder / "2" / "state")
    mesh = states.mesh_of(8)
    with checkpoint.Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore(states.abstract(mesh), warn=lambda _: None).step == 1
        checkpoints.save(5, states.on(mesh, 5), {}, wait=True)
        assert checkpoints.steps() == [1, 5]


def test_a_later_checkpoint_neither_counts_nor_goes_and_is_replaced_in_the_end(sound, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(sound, folder)
    shutil.move(folder / "2", folder / "20")
    (folder / "20" / "state" / "_METADATA").write_text("{")
    mesh = states.mesh_of(8)
    with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(5, states.on(mesh, 5), {}, wait=True)
        assert checkpoints.steps() == [5, 20]
        checkpoints.save(20, states.on(mesh, 20), {}, wait=True)
        assert checkpoints.steps() == [20]
    restored, reports = restore(folder)
    assert (restored.step, reports) == (20, [])
    assert states.bits(restored.tree) == states.bits(states.make(20))
