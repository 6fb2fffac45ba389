"""GPUs that are not here: the table, their libraries' calls, collectives, and the devices."""

import importlib.util
import re

import numpy as np
import pytest

from bigmodel import compat, config, costs, recipe
from bigmodel.plan import answer as plans
from bigmodel.plan import compiling, gpus, network, requests, simulate, topology, work
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


@pytest.mark.parametrize(
    ("environment", "version", "share"),
    [
        ({}, (0, 10, 2), 0.75),
        ({}, (0, 12, 0), 0.94),
        ({"XLA_CLIENT_MEM_FRACTION": ".92"}, (0, 10, 2), 0.92),
        ({"XLA_CLIENT_MEM_FRACTION": "0.8"}, (0, 12, 0), 0.8),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5-0.9"}, (0, 12, 0), 0.9),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5+"}, (0, 12, 0), 0.94),
    ],
)
def test_a_program_has_the_share_of_the_memory_that_jax_gives_it(environment, version, share):
    assert gpus.limit("h100", environment, version) == int(share * gpus.TARGETS["h100"].memory)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(config.InputError, match="MEM_FRACTION=most is no share"):
        gpus.limit("h100", {"XLA_CLIENT_MEM_FRACTION": "most"})


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


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,3},{1,4},{2,5}}", [0, 3]),
        ("[3,2]<=[6]", [0, 1]),
        ("[3,2]<=[2,3]T(1,0)", [0, 3]),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=3] {'axis_2'}", [0, 1, 2]),
        ("mesh['axis_0'=2,'axis_1'=3] {'axis_0'}", [0, 3]),
        ("mesh['axis_0'=2,'axis_1'=3], device_ids=([3,2]T(1,0)) {'axis_0'}", [0, 1]),
        ("mesh['axis_0'=2,'axis_1'=3], device_ids=([3,2]T(1,0)) {'axis_1'}", [0, 2, 4]),
    ],
)
def test_groups_of_devices_are_read_in_every_notation(groups, first):
    text = "ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n"
    text += f"  ROOT %r = f32[8]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%add\n}}\n"
    assert network.group_of(Program(text).entry["r"], 6) == first


def hosts_of(hosts, gpus, name="h100"):
    """GPUs in hosts, as one mesh axis."""
    slices = [host for host in range(hosts) for _ in range(gpus)]
    places = np.zeros((hosts * gpus, 0), int)
    return network.Network(costs.chip(name), {"fsdp": hosts * gpus}, places, np.array(slices))


# Measured on eight H100 of one host by XLA's authors (sm_90 in collective_interpolator_data.h):
# bytes of the whole array, its bytes/s.
@pytest.mark.parametrize(
    ("kind", "size", "speed"),
    [
        ("all-gather", 2**31, 402e9),
        ("reduce-scatter", 2**31, 376e9),
        ("all-gather", 2**22, 89e9),
        ("reduce-scatter", 2**22, 118e9),
        ("all-gather", 2**23, 129e9),
    ],
)
def test_a_collective_in_a_host_takes_what_was_measured(kind, size, speed):
    given, made = (size / 8, size) if kind == "all-gather" else (size, size / 8)
    seconds = hosts_of(1, 8).seconds(kind, given, made, range(8))
    assert seconds == pytest.approx(size / speed, rel=0.25)


def test_gpus_of_a_host_leave_it_by_as_many_doors():
    size, net = 2**33, hosts_of(4, 8)
    all_of_them = net.seconds("all-gather", size / 32, size, range(32))
    one_of_each = net.seconds("all-gather", size / 4, size, range(0, 32, 8))
    assert one_of_each == pytest.approx(size * 3 / 4 / 50e9, rel=0.01)
    assert all_of_them < one_of_each / 4  # there NVLink is the narrower way
    assert net.seconds("all-reduce", size, size, range(32)) > 1.9 * all_of_them


COPIED = """%slice (x: f32[4,1048576], i: s32[]) -> f32[1,1048576] {
  %x = f32[4,1048576]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %part = f32[1,1048576]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,1048576}
}

ENTRY %main (x: f32[4,1048576], i: s32[]) -> f32[1,1048576] {
  %x = f32[4,1048576]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %c = ((f32[4,1048576]{1,0}, s32[]), f32[1,1048576]{1,0}, u32[]) fusion-start(%x, %i), \
kind=kLoop, calls=%slice
  %y = f32[4,1048576]{1,0} negate(%x)
  ROOT %d = f32[1,1048576]{1,0} fusion-done(%c)
}
"""


def test_a_copy_on_a_stream_of_its_own_goes_through_the_memory_that_others_use():
    net = hosts_of(1, 1)
    spent = simulate.Clock(Program(COPIED), net, 0.7).run()
    row = 4 * 2**20
    moved = 2 * row + 8 * row  # the slice, and the array that is negated
    reached = net.chip.hbm_bandwidth * net.chip.memory_efficiency
    assert spent.seconds == pytest.approx(moved / reached + 2 * simulate.START_SECONDS)
    assert net.chip.memory_efficiency < 1


LIBRARY = """ENTRY %main (a: f32[4,8], b: DTYPE[8,16]) -> f32[4,16] {
  %a = DTYPE[4,8]{1,0} parameter(0)
  %b = DTYPE[8,16]{1,0} parameter(1)
  %call = (f32[4,16]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"\
, backend_config={"gemm_backend_config":{"lhs_contracting_dimensions":["1"]}}
  ROOT %dot = f32[4,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


@pytest.mark.parametrize(("dtype", "slow"), [("f32", 2.0 * 4 * 8 * 16), ("bf16", 0.0)])
def test_products_of_float32_are_told_apart(dtype, slow):
    whole = Program(LIBRARY.replace("DTYPE", dtype))
    counted = work.Work(whole)
    for name in ("call", "dot"):
        assert counted.flops(whole.entry[name]) == 2.0 * 4 * 8 * 16
        assert counted.slow_flops(whole.entry[name]) == slow


@WITH_PLUGIN
def test_a_step_is_planned_for_gpus():
    """To the schedule, by the compiler itself: 5 s."""
    overrides = ["model.dtype=bfloat16", "batch=16", "mesh.fsdp=4", "mesh.tensor=2"]
    loaded = recipe.resolve(config.load("configs/llama.py:tiny", overrides))
    request = requests.Request(loaded, topology.parse("gpu:h100:2x4"))
    answer = plans.plan(request, compiling.compile_one(request, cached=False))
    assert answer["fits"]
    assert answer["device"] == "H100"
    assert answer["time"]["attention"] > 0
    networks = {tuple(row["axes"]): row["network"] for row in answer["collectives"]}
    assert networks[("fsdp",)] == "InfiniBand"
    assert networks[("tensor",)] == "NVLink"
