"""A measured step gives the efficiency with which the prediction is that step."""

import dataclasses

import pytest

from bigmodel import config
from bigmodel.plan import calibrate, network, program, simulate, topology
from bigmodel.plan.requests import Found, Request

# One product of 8,192 x 8,192 x 8,192 a device, and a copy of 4 GiB.
PROGRAM = """HloModule tiny, is_scheduled=true

ENTRY %main (a: bf16[8192,8192], b: bf16[8192,8192], c: f32[1073741824]) -> f32[1073741824] {
  %a = bf16[8192,8192]{1,0} parameter(0)
  %b = bf16[8192,8192]{1,0} parameter(1)
  %c = f32[1073741824]{0} parameter(2)
  %product = bf16[8192,8192]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %copied = f32[1073741824]{0} negate(%c)
}
"""
META = {
    "mesh": {"fsdp": 8},
    "coords": [[x, y, 0] for x in range(2) for y in range(4)],
    "slice_of": [0] * 8,
    "networks": ["ICI", "DCN"],
}
FOUND = Found(PROGRAM, "", "", META, None, "", [], 1.0)
REQUEST = Request(config.Loaded(None, "", ""), topology.parse("v5e:2x4"))


def seconds(efficiency: float) -> float:
    chip = REQUEST.topology.chip
    assert chip
    net = network.Network.of(META, chip)
    return simulate.Clock(program.Program(PROGRAM), net, efficiency).run().seconds


@pytest.mark.parametrize("efficiency", [0.06, 0.3, 0.735, 1.0, 1.4])
def test_a_fit_takes_back_what_a_prediction_was_made_with(efficiency):
    assert calibrate.fit(REQUEST, FOUND, seconds(efficiency)) == pytest.approx(efficiency, rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 20.0])
def test_a_time_that_no_efficiency_gives_is_refused_with_what_is_allowed(share):
    with pytest.raises(config.InputError) as refused:
        calibrate.fit(REQUEST, FOUND, share * seconds(0.5))
    for part in (
        "0.05 to 1.5",
        "TPU v5e",
        "measured",
        f"{seconds(1.5):.4g}",
        f"{seconds(0.05):.4g}",
    ):
        assert part in str(refused.value)


def test_a_chip_without_a_time_model_is_refused():
    simulated = dataclasses.replace(REQUEST, topology=topology.parse("cpu:8"))
    with pytest.raises(config.InputError, match="cpu:8"):
        calibrate.fit(simulated, FOUND, 1.0)
