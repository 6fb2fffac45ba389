"""The benchmark of a step: figures that hang together, for a program and for a person."""

import json
import math

import pytest

from bigmodel.train import bench
from tests import runs


@pytest.fixture(scope="module")
def found():
    return bench.bench(runs.config(mesh=dict(data=2)), steps=2, warmup=1)


def test_its_figures_follow_from_one_another(found):
    assert found["devices"] == 2
    assert found["mesh"] == {"data": 2}
    assert found["steps"] == 2
    assert found["tokens_per_step"] == 8 * 32
    assert 0 < found["step_seconds_min"] <= found["step_seconds"] <= found["step_seconds_max"]
    seconds = found["step_seconds"]
    assert found["tokens_per_second"] == pytest.approx(found["tokens_per_step"] / seconds)
    flops = found["model_flops_per_second"]
    assert flops == pytest.approx(found["model_flops_per_step"] / seconds)
    assert found["utilization"] == pytest.approx(flops / found["peak_flops_per_second"])
    assert 0 < found["utilization"] < 1  # of this machine's own matrix product
    assert found["flops_convention"] == "causal"
    # Of a row of 32, over 2 layers, 4 heads of 8 and 8 rows: the pairs that only one counts.
    more = found["model_flops_per_step_full_attention"] - found["model_flops_per_step"]
    assert more == 12 * 2 * 4 * 8 * 16 * 8 * 32
    shares = found["utilization_full_attention"] / found["utilization"]
    assert shares == pytest.approx(1 + more / found["model_flops_per_step"])
    assert 0 <= found["data_wait_share"] <= 1
    assert found["memory_bytes"] > 3 * 4 * found["parameters"]
    assert math.isfinite(found["loss"])


def test_they_are_json(found):
    assert json.loads(json.dumps(found)) == found


def test_a_person_reads_each_with_its_unit(found):
    lines = dict(line.split(maxsplit=1) for line in bench.table(found).splitlines())
    assert lines["device"] == "2 x cpu (data 2)"
    assert lines["step"].startswith(f"{found['step_seconds'] * 1e3:.1f} ms median of 2")
    assert lines["utilization"].endswith("(this machine's own float32 matrix product)")
    assert lines["memory"].endswith("MiB a device, as compiled")


def test_a_chip_without_a_known_peak_has_no_utilization(found):
    unknown = found | dict(device="abacus", utilization=None, peak_flops_per_second=None)
    assert "utilization unknown chip" in bench.table(unknown)


def test_a_model_of_the_users_own_has_no_flops_and_no_utilization(found):
    names = [name for name in found if "flops" in name or name.startswith("utilization")]
    peak = found["peak_flops_per_second"]
    unknown = found | dict.fromkeys(names) | dict(peak_flops_per_second=peak)
    assert bench.table(unknown).count("unknown model") == 2
