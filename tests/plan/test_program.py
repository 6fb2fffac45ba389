"""The parser of scheduled programs: what each way of writing says."""

import pathlib

import pytest

from bigmodel.plan import program
from bigmodel.plan.program import Program
from tests.plan import programs

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"

ONE_WAY = """
%slice (x: f32[4,1024]) -> f32[1,1024] {
  %x = f32[4,1024]{1,0} parameter(0)
  ROOT %part = f32[1,1024]{1,0:S(1)} slice(%x), slice={[0:1],[0:1024]}
}

ENTRY %main (a: f32[4,1024]) -> f32[4,1024] {
  %a = f32[4,1024]{1,0:T(8,128)} parameter(0)
  %two = (f32[4,1024]{1,0}, /*index=1*/f32[2]{0}) custom-call(%a), custom_call_target="mark"
  %big = f32[4,1024]{1,0} get-tuple-element(%two), index=0
  %small = f32[2]{0} get-tuple-element(%two), index=1
  %slice-start = ((f32[4,1024]{1,0}), f32[1,1024]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%big)
  %sum = f32[2]{0} add(%small, %small)
  %slice-done = f32[1,1024]{1,0:S(1)} slice-done(%slice-start)
  ROOT %out = f32[4,1024]{1,0} negate(%big)
}
"""
THE_OTHER = (
    ONE_WAY.replace("  %big = f32[4,1024]{1,0} get-tuple-element(%two), index=0\n", "")
    .replace("  %small = f32[2]{0} get-tuple-element(%two), index=1\n", "")
    .replace("%big", "%two#0")
    .replace("%small", "%two#1")
    .replace("slice-start(%two#0)", "async-start(%two#0), calls=%slice")
    .replace(" slice-done(", " async-done(")
)


@pytest.mark.parametrize(
    ("text", "shapes", "spaces", "size"),
    [
        ("f32[]", [()], "0", 4),
        ("bf16[4,8]{1,0:T(8,128)(2,1)}", [(4, 8)], "0", 64),
        ("bf16[4,8]{1,0:T(8,128)(2,1)S(1)}", [(4, 8)], "1", 64),
        ("f32[128]{0:T(128)L(128)S(5)}", [(128,)], "5", 512),
        ("(s32[]{:S(2)}, /*index=1*/f32[2,3]{1,0})", [(), (2, 3)], "20", 28),
        ("((f32[8]{0}), f32[2]{0:S(1)}, u32[])", [(8,), (2,), ()], "010", 44),
        ("(pred[8], s8[8], f8e4m3fn[8], f8e5m2[8])", [(8,)] * 4, "0000", 32),
        ("token[]", [], "", 0),
        ("()", [], "", 0),
    ],
)
def test_a_type_names_its_arrays(text, shapes, spaces, size):
    found = program.arrays(text)
    assert [array.shape for array in found] == shapes
    assert "".join(array.space for array in found) == spaces
    assert program.size_of(text) == size


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("f32[2,3]{1,0}", ["f32[2,3]{1,0}"]),
        ("()", [""]),
        ("(f32[2,3]{1,0:T(8,128)(2,1)}, s32[])", ["f32[2,3]{1,0:T(8,128)(2,1)}", "s32[]"]),
        ("((f32[2]{0}, s32[]), (), u32[]{:S(2)})", ["(f32[2]{0}, s32[])", "()", "u32[]{:S(2)}"]),
    ],
)
def test_a_tuple_has_elements(text, parts):
    assert list(program.elements(text)) == parts


def test_both_ways_of_writing_are_one_program():
    assert "#" in THE_OTHER
    assert "slice-start(" not in THE_OTHER
    one, other = Program(ONE_WAY).entry, Program(THE_OTHER).entry
    assert one.type_of("big") == other.type_of("two#0") == "f32[4,1024]{1,0}"
    assert one.maker("small").operands == ("two",)
    assert other["sum"].operands == ("two#1", "two#1")
    assert other.maker("two#1") is other["two"]
    took = [programs.spent(text) for text in (ONE_WAY, THE_OTHER)]
    assert took[0].seconds == took[1].seconds > 0
    assert took[0].parts == took[1].parts


def test_a_comment_changes_nothing():
    bare = Program(ONE_WAY.replace("/*index=1*/", ""))
    assert [*bare.entry] == [*Program(ONE_WAY).entry]
    assert bare.entry["two"].type == Program(ONE_WAY).entry["two"].type


def test_what_a_kernel_says_of_itself_over_several_lines_is_one_instruction():
    whole = Program("""ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %kernel = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", kernel_metadata={
"xprof": "{'flops': 1}"
}, metadata={op_name="jit(f)/splash"}
  ROOT %y = f32[8]{0} negate(%kernel)
}
""")
    assert [*whole.entry] == ["x", "kernel", "y"]
    assert whole.entry["kernel"].op_name == "jit(f)/splash"
    assert whole.entry.root.name == "y"


LOOP = """
%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %s = (s32[], f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{{0}} get-tuple-element(%s), index=1
  %step = s32[] constant({step})
  %next = s32[] add(%i, %step)
  %copied = s32[] copy(%next)
  %y = f32[8]{{0}} negate(%x)
  ROOT %t = (s32[], f32[8]{{0}}) tuple(%copied, %y)
}}
{condition}
ENTRY %main (s0: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %s0 = (s32[], f32[8]{{0}}) parameter(0)
  ROOT %loop = (s32[], f32[8]{{0}}) while(%s0), condition=%test, body=%body{noted}
}}
"""
DIRECT = """
%test (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%p), index=0
  %bound = s32[] constant(10)
  ROOT %less = pred[] compare(%j, %bound), direction=LT
}
"""
MARKED = """
%test (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %bound = s32[] constant(10)
  ROOT %less = pred[] compare(%p#0, %bound), direction=LT
}
"""
FUSED = """
%compared (a: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %bound = s32[] constant(10)
  ROOT %less.1 = pred[] compare(%a, %bound), direction=LT
}

%test (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] fusion(%j), kind=kLoop, calls=%compared
}
"""
NOTED = ', backend_config={"known_trip_count":{"n":"7"}}'


@pytest.mark.parametrize(
    ("condition", "step", "noted", "trips"),
    [
        (DIRECT, 1, "", 10),
        (DIRECT, 2, "", 5),
        (DIRECT, 3, "", 4),
        (MARKED, 1, "", 10),
        (MARKED, 2, "", 5),
        (FUSED, 1, "", 10),
        (FUSED, 2, "", 5),
        (DIRECT, 1, NOTED, 7),
        (MARKED, 2, NOTED, 7),
    ],
)
def test_a_loop_says_how_often_it_runs(condition, step, noted, trips):
    whole = Program(LOOP.format(step=step, condition=condition, noted=noted))
    body, found = whole.loop(whole.entry["loop"])
    assert (body.name, found) == ("body", trips)
    assert whole.loops["body"] is whole.entry["loop"]


@pytest.mark.parametrize(
    "written",
    [
        "conditional(%p, %x, %x), true_computation=%left, false_computation=%right",
        "conditional(%n, %x, %x), branch_computations={%left, %right}",
    ],
)
def test_a_conditional_has_branches(written):
    sides = "".join(
        f"%{name} (a: f32[8]) -> f32[8] {{\n  ROOT %a.{name} = f32[8]{{0}} parameter(0)\n}}\n"
        for name in ("left", "right")
    )
    whole = Program(
        f"{sides}ENTRY %main (x: f32[8]) -> f32[8] {{\n  ROOT %c = f32[8] {written}\n}}\n"
    )
    assert [side.name for side in whole.branches(whole.entry["c"])] == ["left", "right"]


def test_a_program_that_was_written_by_hand_is_read_whole():
    whole = Program((GOLDEN / "scheduled.txt").read_text())
    assert whole.entry.name == "main"
    kinds = {
        one.op.removesuffix("-start") for c in whole.computations.values() for one in c.values()
    }
    assert kinds >= {"all-gather", "all-reduce", "collective-permute", "while", "fusion"}
    trips = {name: whole.loop(one)[1] for name, one in whole.loops.items()}
    assert trips["window"] == 2
    for body in whole.computations.values():
        for one in body.values():
            assert all(operand.partition("#")[0] in body for operand in one.operands), one


@pytest.fixture(scope="module", params=["llama_1b_libtpu_50", "llama_1b_libtpu_52"])
def kept(request):
    found, expected = programs.load(request.param)
    return Program(found.program), expected, programs.facts(found)


def test_a_kept_program_is_read_as_it_was(kept):
    """To renew: `python -m tests.plan.programs NAME ...`; the commit says why that is right."""
    _, expected, now = kept
    for part in ("versions", "largest"):
        assert now[part] == expected[part]
    for part in ("matrix_flops", "hbm_traffic", "hbm_bytes", "memory"):
        assert now[part] == pytest.approx(expected[part]), part
    # Seconds move when constants are refitted, a little.
    assert now["seconds"] == pytest.approx(expected["seconds"], rel=0.05)
    assert now["parts"] == pytest.approx(expected["parts"], rel=0.2)
    assert now["collectives"].keys() == expected["collectives"].keys()
    for name, (times, moved, seconds) in expected["collectives"].items():
        assert now["collectives"][name][:2] == pytest.approx([times, moved]), name
        assert now["collectives"][name][2] == pytest.approx(seconds, rel=0.2), name


def test_a_kept_program_has_no_operand_that_nobody_makes(kept):
    for body in kept[0].computations.values():
        for one in body.values():
            for operand in one.operands:
                assert body.type_of(operand), f"{body.name}: {one.name} reads {operand}"


def test_versions_of_the_compiler_give_one_prediction():
    old, new = (programs.load(f"llama_1b_libtpu_{n}")[1] for n in (50, 52))
    assert old["seconds"] == pytest.approx(new["seconds"], rel=0.02)
    assert old["hbm_bytes"] == pytest.approx(new["hbm_bytes"], rel=0.01)
    assert old["collectives"].keys() == new["collectives"].keys()
    assert old["matrix_flops"] == pytest.approx(new["matrix_flops"], rel=1e-3)


def test_a_kept_program_tells_nothing_of_who_compiled_it():
    for path in programs.KEPT.glob("*.gz"):
        found, _ = programs.load(path.name.removesuffix(".json.gz"))
        assert not any(word in found.program for word in ("FileNames", ".py")), path
