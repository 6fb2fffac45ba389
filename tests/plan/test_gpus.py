"""GPUs that are not here: the table, calls of cuDNN, and devices where jax's plugin is."""

import importlib.util
import re

import pytest

from bigmodel import compat, costs
from bigmodel.plan import gpus
from bigmodel.plan.program import Program

WITH_PLUGIN = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="needs pip install 'bigmodel[plan-gpu]'",
)


@pytest.mark.parametrize("name", gpus.TARGETS)
def test_a_target_is_the_chip_of_its_name(name):
    target, chip = gpus.TARGETS[name], costs.chip(name)
    assert chip is not None
    assert costs.chip(target.kind) == chip
    assert target.bandwidth == pytest.approx(chip.hbm_bandwidth, rel=0.05)
    assert target.memory == pytest.approx(chip.hbm_bytes, rel=0.08)
    # A tensor core multiplies 256 bfloat16 pairs a tick on A100, 512 on H100, 1,024 on B200;
    # data sheets say the peak at a clock of up to a tenth less than the highest.
    pairs = {8: 256, 9: 512, 10: 1024}[target.capability]
    peak = 2 * 4 * pairs * target.cores * target.clock * 1e9
    assert 0.9 < chip.peak_flops / peak < 1.01


@pytest.mark.parametrize("name", gpus.TARGETS)
def test_a_target_is_written_as_a_protocol_buffer(name):
    left = re.sub(r'\w+: ("[^"]*"|[\d.]+)', "", gpus.TARGETS[name].text)
    for _ in range(2):  # a message within a message
        left = re.sub(r"\w+ \{\s*\}", "", left)
    assert not left.strip()


def test_a_program_has_three_quarters_of_the_memory_or_what_jax_is_told():
    whole = gpus.TARGETS["h100"].memory
    assert gpus.limit("h100", {}) == int(0.75 * whole)
    assert gpus.limit("h100", {"XLA_CLIENT_MEM_FRACTION": ".92"}) == int(0.92 * whole)
    assert gpus.limit("h100", {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}) == int(0.5 * whole)


# As XLA of jax 0.10.2 writes calls, without what is not read: 2 rows of 64, 4 heads, 2 of keys.
CALL = """ENTRY %main (q: bf16[2,64,4,16]) -> bf16[2,4,64,16] {
  %q = bf16[2,64,4,16]{3,2,1,0} parameter(0)
  %fwd = (bf16[2,4,64,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaSoftmax", \
operand_layout_constraints={bf16[2,64,4,16]{3,2,1,0}, bf16[2,64,2,16]{3,2,1,0}}, \
backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": \
["2", "4", "64", "64"]}, "mask_type": "MASK", "sliding_window_length": WINDOW}}
  ROOT %bwd = (bf16[2,4,64,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward", \
operand_layout_constraints={bf16[2,64,4,16]{3,2,1,0}, bf16[2,64,2,16]{3,2,1,0}}, \
backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"dimensions": \
["2", "4", "64", "64"]}, "mask_type": "MASK", "sliding_window_length": WINDOW}}
}
"""


@pytest.mark.parametrize(
    ("mask", "window", "pairs"),
    [("NO_MASK", 0, 64 * 64), ("CAUSAL", 0, 64 * 64 // 2), ("CAUSAL", 2, 1 + 63 * 2)],
)
def test_attention_costs_its_pairs(mask, window, pairs):
    whole = Program(CALL.replace("MASK", mask, 2).replace("WINDOW", str(window)))
    forward, backward = (gpus.attention(whole.entry[name]) for name in ("fwd", "bwd"))
    assert (forward.backward, backward.backward) == (False, True)
    assert forward.flops == 2 * 2 * (2 * 4) * pairs * 16
    assert backward.flops == 2.5 * forward.flops
    assert forward.workspace == 0
    assert gpus.workspace(whole) == backward.workspace == 4 * (2 * 4 * 64) * (16 + 1)


def test_another_call_is_no_attention():
    whole = Program(CALL.replace("fmha", "conv"))
    assert gpus.attention(whole.entry["bwd"]) is None
    assert gpus.workspace(whole) == 0


def test_cudnn_is_assumed_and_no_longer():
    from jax._src.cudnn import fused_attention_stablehlo as library

    before = library.check_cudnn_version
    with compat.assumed_cudnn(91000):
        assert library.check_cudnn_version() == 91000
    assert library.check_cudnn_version is before


@WITH_PLUGIN
@pytest.mark.parametrize("name", gpus.TARGETS)
def test_devices_of_a_host_follow_each_other(name):
    found = gpus.devices(name, 2, 8)
    assert [device.process_index for device in found] == [0] * 8 + [1] * 8
    assert {device.device_kind for device in found} == {gpus.TARGETS[name].kind}
    assert {device.platform for device in found} == {"gpu"}
