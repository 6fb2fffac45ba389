"""A golden run: the same seed and text give the same losses, release after release.

Where this fails and the change was meant to move the numbers, say in the commit why they are
better or as good, and renew the file: RENEW_GOLDEN=1 pytest tests/train/test_golden.py
"""

import json
import os

import numpy as np

import bigmodel
from bigmodel import config
from tests import runs

GOLDEN = runs.ROOT / "tests" / "golden" / "losses.json"


def test_thirty_steps_give_the_recorded_losses(tmp_path):
    loaded = config.load(str(runs.write_config(tmp_path)), ["checkpoint.every=1000"])
    bigmodel.train(loaded, tmp_path / "run")
    losses = list(runs.losses(tmp_path / "run").values())
    if "RENEW_GOLDEN" in os.environ:
        GOLDEN.write_text(json.dumps([round(loss, 6) for loss in losses]) + "\n")
    recorded = json.loads(GOLDEN.read_text())
    assert len(losses) == len(recorded) == 30
    np.testing.assert_allclose(losses, recorded, rtol=1e-4)
    assert recorded[-1] < recorded[0] - 0.5
