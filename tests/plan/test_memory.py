"""What a device holds at the peak: parts that add up, buffers by name."""

import pytest

from bigmodel.plan import memory
from bigmodel.plan.program import Program
from tests.plan import programs

PART = 16 * 512 * 4096 * 4  # bytes that a device has of each kernel of the feed-forward layers


@pytest.fixture(scope="module", params=["llama_1b_libtpu_50", "llama_1b_libtpu_52"])
def step(request):
    return programs.load(request.param)[0]


def held(found, **changes):
    given = dict(program=found.program, allocations=found.allocations, live=found.live) | changes
    whole = Program(given["program"])
    return memory.held(whole, given["allocations"], given["live"], found.meta, trains=True)


def test_the_parts_add_up_to_the_peak(step):
    found = held(step)
    assert tuple(found.kinds) == memory.KINDS
    assert sum(found.kinds.values()) == found.total
    assert min(found.kinds.values()) >= 0
    assert found.host == 0


def test_parameters_and_optimizer_are_what_the_state_holds(step):
    found, sharding = held(step), step.meta["sharding"]
    parameters = sum(each["bytes_per_device"] for each in sharding.values())
    assert found.kinds["parameters"] == pytest.approx(parameters, rel=1e-3)
    assert found.kinds["optimizer"] == pytest.approx(2 * parameters, rel=1e-3)
    assert found.kinds["gradients"] > 0.9 * parameters
    # One input of every layer is kept: 16 layers of 4 rows of 4,096 x 2,048 in bfloat16.
    assert found.kinds["activations"] > 16 * 4 * 4096 * 2048 * 2


def test_the_largest_buffers_are_told_by_layer_and_parameter(step):
    rows = held(step).largest
    assert [row["bytes"] for row in rows] == sorted((row["bytes"] for row in rows), reverse=True)
    assert rows[0] == dict(
        bytes=2**30, name="layers/input (kept)", shape="bf16[16,4,4096,2048]", kind="activations"
    )
    assert rows[1]["name"] == "loss (backward)"  # room that is only made, by what fills it
    names = {row["name"]: row for row in rows}
    kernel = names["params/layers/feedforward/gate/kernel"]
    assert (kernel["bytes"], kernel["kind"]) == (PART, "parameters")


def test_a_gradient_is_told_by_its_size_and_pass():
    parts = {100, 400}

    def made(turn, count):
        line = f'  %v = f32[{count}]{{0}} negate(%x), metadata={{op_name="jit(step)/{turn}/mul"}}'
        one = Program(f"ENTRY %main (x: f32[]) -> f32[] {{\n{line}\n}}\n").entry["v"]
        return memory.is_gradient(one, one.type, parts)

    assert made("transpose(jvp(Decoder))", 100)
    assert made("optimizer", 400)
    assert not made("jvp(Decoder)", 100)
    assert not made("transpose(jvp(Decoder))", 101)


def test_parts_of_parameters_are_of_all_layers_and_of_one():
    whole = dict(shape=[8, 30], dtype="float32", logical=["layers", "embed"], bytes_per_device=480)
    single = dict(shape=[30], dtype="bfloat16", logical=["embed"], bytes_per_device=20)
    assert memory.parts_of_parameters({"sharding": {"a": whole, "b": single}}) == {120, 15, 10}


def test_a_program_whose_values_nobody_times_is_activations(step):
    timed, untimed = held(step), held(step, live="")
    assert untimed.total == timed.total
    assert untimed.kinds["gradients"] == 0
    assert untimed.kinds["activations"] > timed.kinds["activations"]


ALLOCATIONS = """BufferAssignment:
allocation 0: size 400, page 0, parameter 0, shape |f32[100]| at ShapeIndex {}:
 value: <1 p @0> (size=400,offset=0): f32[100]{0}
allocation 1: size 80, color 5, page 0, parameter 1, shape |f32[20]| at ShapeIndex {}:
 value: <2 q @0> (size=80,offset=0): f32[20]{0:S(5)}
allocation 2: size 64, color 1, page 0, preallocated-temp:
 value: <3 fast @0> (size=64,offset=0): f32[16]{0:S(1)}
allocation 3: size 12, page 0, constant:
 value: <4 c @0> (size=12,offset=0): f32[3]{0}
allocation 4: size 1000, page 0, preallocated-temp:
 value: <5 a @0> (size=400,offset=0): f32[100]{0}
 value: <6 b @0> (size=500,offset=400): f32[125]{0}
 value: <7 d @0> (size=400,offset=0): f32[100]{0}
"""
LIVE = "    a{}:2-5\n    b{}:4-6\n    d{}:6-9\n"
TEXT = """ENTRY %main (p: f32[100], q: f32[20]) -> f32[100] {
  %p = f32[100]{0} parameter(0), metadata={op_name="state.params[\\'w\\']"}
  %q = f32[20]{0:S(5)} parameter(1), metadata={op_name="state.opt_state[\\'w\\']"}
  %a = f32[100]{0} negate(%p), metadata={op_name="jit(s)/jvp(Decoder)/embed/mul"}
  %b = f32[125]{0} negate(%a), metadata={op_name="jit(s)/jvp(Decoder)/final_norm/mul"}
  ROOT %d = f32[100]{0} negate(%b), metadata={op_name="jit(s)/transpose(jvp(Decoder))/embed/mul"}
}
"""


def test_a_peak_written_by_hand():
    meta = {
        "sharding": {"w": dict(shape=[100], dtype="float32", logical=["x"], bytes_per_device=400)}
    }
    found = memory.held(Program(TEXT), ALLOCATIONS, LIVE, meta, trains=True)
    assert found.total == 400 + 12 + 1000
    assert found.host == 80
    # Most is held while a and b live; of d, which then takes a's place, and fast memory nothing.
    assert found.kinds == dict(
        parameters=400, optimizer=0, gradients=0, activations=900, other=12 + 100
    )
    assert [(row["bytes"], row["name"]) for row in found.largest] == [
        (500, "final_norm (forward)"),
        (400, "params/w"),
        (400, "embed (forward)"),
    ]
    later = LIVE.replace("b{}:4-6", "b{}:6-6")
    other = memory.held(Program(TEXT), ALLOCATIONS, later, meta, trains=True)
    assert other.kinds["gradients"] == 400
