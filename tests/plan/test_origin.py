"""Which layer a collective without a name belongs to."""

import json

import pytest

from bigmodel.plan import names, origin
from bigmodel.plan.program import Program
from tests.plan import budgeted

STEP = "jit(train_step)/jvp(Decoder)/Decoder.run_layers/while/body/Block"
LAYER = 'metadata={{op_name="{step}/feedforward/{name}/BTD,DF->BTF/dot_general"}}'
UP, DOWN = (LAYER.format(step=STEP, name=name) for name in ("up", "down"))
GATHER = "all-gather(%p), replica_groups={{0,1}}, dimensions={0}"
CHAIN = 'frontend_attributes={chain_id="3"}'
HEAD = """%body (p: bf16[8]) -> bf16[16] {{
  %p = bf16[8]{{0}} parameter(0)
  %inner = bf16[16]{{0}} {inner}
  ROOT %end = bf16[16]{{0}} custom-call(%inner), custom_call_target="{mark}"
}}
"""
ENTRY = """ENTRY %main (x: bf16[8]) -> bf16[16] {
  %x = bf16[8]{0} parameter(0)
"""

# what the entry does after its parameter -> where its instruction "c" comes from
FOUND = {
    "its own name": (f"%c = bf16[16]{{0}} all-gather(%x), {UP}", "up"),
    "who reads a gather": (
        f"%c = bf16[16]{{0}} all-gather(%x)\n%b = bf16[16]{{0}} bitcast(%c)\n"
        f"%d = bf16[16]{{0}} fusion(%b), {UP}",
        "up",
    ),
    "who made what a sum adds up": (
        f"%a = bf16[8]{{0}} fusion(%x), {DOWN}\n%c = bf16[8]{{0}} all-reduce(%a)\n"
        f"%d = bf16[8]{{0}} fusion(%c), {UP}",
        "down",
    ),
    "who reads a sum that nobody named made": (
        f"%c = bf16[8]{{0}} all-reduce(%x)\n%d = bf16[8]{{0}} fusion(%c), {UP}",
        "up",
    ),
    "nothing is known": ("%c = bf16[8]{0} all-reduce(%x)", ""),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_collective_is_named_by_what_is_around_it(name):
    lines, layer = FOUND[name]
    whole = Program(f"{ENTRY}{lines}\n}}\n")
    one = whole.entry["c"]
    wanted = f"layers/feedforward/{layer}" if layer else ""
    assert names.layer(origin.op_name(whole, one, one)) == wanted


def test_a_gather_beside_other_work_belongs_to_who_reads_its_end():
    begin = HEAD.format(inner=f"{GATHER}, {CHAIN}", mark="AsyncCollectiveStart")
    end = HEAD.format(inner=f"{GATHER}, {CHAIN}", mark="AsyncCollectiveDone")
    end = end.replace("%body", "%ending")
    whole = Program(
        f"{begin}{end}{ENTRY}"
        f"  %c = bf16[16]{{0}} fusion(%x), kind=kCustom, calls=%body, {DOWN}\n"
        f"  %d = bf16[16]{{0}} fusion(%x), kind=kCustom, calls=%ending, {DOWN}\n"
        f"  ROOT %e = bf16[16]{{0}} fusion(%d), {UP}\n}}\n"
    )
    inner = whole.computations["body"]["inner"]
    assert names.layer(origin.op_name(whole, whole.entry["c"], inner)) == "layers/feedforward/up"


def test_what_comes_out_of_a_loop_is_what_its_body_made():
    whole = Program(
        "%turn (s: (s32[], bf16[8])) -> (s32[], bf16[8]) {\n"
        "  %s = (s32[], bf16[8]{0}) parameter(0)\n"
        f"  %made = bf16[8]{{0}} fusion(%s), {DOWN}\n"
        "  ROOT %t = (s32[], bf16[8]{0}) tuple(%s, %made)\n}\n"
        f"{ENTRY}"
        "  %w = (s32[], bf16[8]{0}) while(%x), condition=%none, body=%turn\n"
        "  %g = bf16[8]{0} get-tuple-element(%w), index=1\n"
        "  ROOT %c = bf16[8]{0} all-reduce(%g)\n}\n"
    )
    one = whole.entry["c"]
    assert names.layer(origin.op_name(whole, one, one)) == "layers/feedforward/down"


@pytest.mark.parametrize("layout", budgeted.LAYOUTS)
def test_a_budget_names_nearly_all_that_moves(layout):
    moved = json.loads((budgeted.FOLDER / f"{layout}.json").read_text())["moved"]
    nameless = sum(row["bytes"] for row in moved if not row["layer"])
    assert nameless <= 0.05 * sum(row["bytes"] for row in moved)
