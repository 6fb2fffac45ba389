"""Every family resumes as if nothing had happened."""

import shutil

import bigmodel
from tests import runs
from tests.train.family_runs import ONE, load, over_families


@over_families(ONE)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    loaded = load(name, steps=4, **{"checkpoint.every": 2, "checkpoint.keep": 3, "log.every": 1})
    bigmodel.train(loaded, tmp_path)
    losses, sums = runs.losses(tmp_path), runs.checksums(tmp_path, 4)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    bigmodel.train(loaded, tmp_path)
    assert runs.losses(tmp_path) == losses
    assert runs.checksums(tmp_path, 4) == sums
    assert len(set(losses.values())) >= 3  # so the law can fail (the first rate is zero)
