"""The clock and the queues: what runs beside the core is hidden as far as the core has work."""

import pytest

from bigmodel.plan import network, simulate
from tests.plan import programs

STEP = simulate.START_SECONDS
CORE, MEMORY, LINK, HOST = 1e12, 1e9, 1e9, 1e8  # of programs.CHIP
ROWS = 1_000_000  # float32: 4 MB, 8 ms to read and write


def elementwise(name, count=ROWS, operand="x"):
    return f"%{name} = f32[{count}]{{0}} negate(%{operand})"


X = f"%x = f32[{ROWS}]{{0}} parameter(0)"
TOUCH = 2 * 4 * ROWS / MEMORY + STEP  # seconds of elementwise()


def gather(name, count, axes="fsdp", op="start", operand="g"):
    """A ring of four: (n - 1) / n of the result over two links."""
    groups = {"fsdp": "[16,4]<=[64]", "tensor": "[16,4]<=[16,4]T(1,0)"}[axes]
    rest = f"channel_id=1, replica_groups={groups}, dimensions={{0}}"
    part = f"f32[{count // 4}]{{0}}"
    if op == "sync":
        return f"%{name} = f32[{count}]{{0}} all-gather(%{operand}), {rest}"
    kind = f"({part}, f32[{count}]{{0}})"
    return f"%{name} = {kind} all-gather-start(%{operand}), {rest}"


def done(name, count, start):
    return f"%{name} = f32[{count}]{{0}} all-gather-done(%{start})"


def ring_seconds(count):
    return 4 * count * 3 / 4 / (2 * LINK) + 2e-6


def run(*lines, devices=None):
    devices = devices or programs.net(mesh={"data": 4, "tensor": 4, "fsdp": 4})
    return programs.spent("\n".join(f"  {line}" for line in lines), devices)


def adds_up(spent):
    shown = ("matrix", "attention", "other", "collectives_exposed", "host_exposed")
    assert sum(spent.parts[name] for name in shown) == pytest.approx(spent.seconds)
    exposed = sum(row[2] for row in spent.collectives.values())
    assert exposed == pytest.approx(spent.parts["collectives_exposed"])
    total = sum(row[1] for row in spent.collectives.values())
    assert total == pytest.approx(spent.parts["collectives"])


def part_of(count):
    return f"%g = f32[{count // 4}]{{0}} parameter(1)"


@pytest.mark.parametrize("share", [0.5, 1.0, 1.5, 4.0])
def test_what_is_longer_than_the_compute_beside_it_shows_the_rest(share):
    count = round((TOUCH * share - 2e-6) * 2 * LINK / 3)
    count -= count % 4
    spent = run(
        *(X, part_of(count), gather("s", count), elementwise("y"), done("d", count, "s")),
    )
    exposed = max(0.0, ring_seconds(count) - TOUCH)
    assert spent.seconds == pytest.approx(TOUCH + exposed)
    assert spent.parts["collectives_exposed"] == pytest.approx(exposed, abs=1e-9)
    assert spent.parts["collectives"] == pytest.approx(ring_seconds(count))
    adds_up(spent)


def test_a_synchronous_collective_is_all_exposed():
    spent = run(X, part_of(ROWS), elementwise("y"), gather("s", ROWS, op="sync"))
    assert spent.seconds == pytest.approx(TOUCH + ring_seconds(ROWS))
    assert spent.parts["collectives_exposed"] == pytest.approx(ring_seconds(ROWS))
    (moved,) = spent.collectives
    assert (moved.kind, moved.axes, moved.devices) == ("all-gather", ("fsdp",), 4)
    assert (moved.bytes, moved.network, moved.synchronous) == (ROWS, "ICI", True)
    adds_up(spent)


@pytest.mark.parametrize(("axes", "turns"), [(("fsdp", "fsdp"), 2), (("fsdp", "tensor"), 1)])
def test_one_link_is_a_queue_and_two_run_side_by_side(axes, turns):
    lines = [gather(f"s{i}", ROWS, axis) for i, axis in enumerate(axes)]
    lines += [done(f"d{i}", ROWS, f"s{i}") for i in range(2)]
    spent = run(part_of(ROWS), *lines)
    assert spent.seconds == pytest.approx(turns * ring_seconds(ROWS))
    assert spent.parts["collectives"] == pytest.approx(2 * ring_seconds(ROWS))
    adds_up(spent)


LOOP = f"""
%body (s: (s32[], f32[8], f32[8])) -> (s32[], f32[8], f32[8]) {{
  %s = (s32[], f32[{ROWS}]{{0}}, f32[{ROWS // 4}]{{0}}) parameter(0)
  %x = f32[{ROWS}]{{0}} get-tuple-element(%s), index=1
  %g = f32[{ROWS // 4}]{{0}} get-tuple-element(%s), index=2
  {gather("b", ROWS)}
  {elementwise("y")}
  {done("d", ROWS, "b")}
  {gather("e", ROWS, "tensor", op="sync")}
  ROOT %t = (s32[], f32[{ROWS}]{{0}}, f32[{ROWS // 4}]{{0}}) tuple(%s, %y, %g)
}}

%test (p: (s32[], f32[8], f32[8])) -> pred[] {{
  %p = (s32[], f32[{ROWS}]{{0}}, f32[{ROWS // 4}]{{0}}) parameter(0)
  ROOT %less = pred[] constant(true)
}}

ENTRY %main (s0: (s32[], f32[8], f32[8])) -> (s32[], f32[8], f32[8]) {{
  %s0 = (s32[], f32[{ROWS}]{{0}}, f32[{ROWS // 4}]{{0}}) parameter(0)
  ROOT %loop = (s32[], f32[{ROWS}]{{0}}) while(%s0), condition=%test, body=%body, TRIPS
}}
"""


def test_a_loop_takes_its_body_as_often_as_it_runs():
    devices = programs.net(mesh={"data": 4, "tensor": 4, "fsdp": 4})
    noted = 'backend_config={"known_trip_count":{"n":"%d"}}'
    once, seven = (programs.spent(LOOP.replace("TRIPS", noted % n), devices) for n in (1, 7))
    assert once.seconds == pytest.approx(TOUCH + ring_seconds(ROWS))
    assert seven.seconds == pytest.approx(7 * once.seconds)
    assert seven.loops == {7: pytest.approx(seven.seconds)}
    for part, seconds in once.parts.items():
        assert seven.parts[part] == pytest.approx(7 * seconds)
    assert [row[0] for row in seven.collectives.values()] == [7, 7]
    for mine, other in zip(seven.operations.values(), once.operations.values(), strict=True):
        assert mine == pytest.approx([7 * value for value in other])
    adds_up(seven)


def test_of_branches_the_longest_counts():
    sides = "".join(
        f"%{name} (a: f32[8]) -> f32[8] {{\n  %x = f32[{count}]{{0}} parameter(0)\n"
        f"  ROOT {elementwise('y', count)}\n}}\n\n"
        for name, count in (("short", 1000), ("long", ROWS))
    )
    entry = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n  {X}\n  %n = s32[] constant(0)\n"
    made = "  ROOT %c = f32[8] conditional(%n, %x, %x), branch_computations={%long, %short}\n}\n"
    assert programs.spent(sides + entry + made).seconds == pytest.approx(TOUCH)


TO_HOST = (
    f"%out = (f32[{ROWS}]{{0:S(5)}}, f32[{ROWS}]{{0}}, u32[]) copy-start(%x)",
    f"%out.done = f32[{ROWS}]{{0:S(5)}} copy-done(%out)",
)
FROM_HOST = (
    f"%in = (f32[{ROWS}]{{0}}, f32[{ROWS}]{{0:S(5)}}, u32[]) copy-start(%h)",
    f"%in.done = f32[{ROWS}]{{0}} copy-done(%in)",
)
H = f"%h = f32[{ROWS}]{{0:S(5)}} parameter(1)"


def test_copies_to_the_host_wait_for_it_and_for_nothing_else():
    copied = 4 * ROWS / HOST
    alone = run(X, *TO_HOST)
    assert alone.seconds == pytest.approx(copied)
    assert alone.parts["host_exposed"] == pytest.approx(copied)
    beside = run(X, TO_HOST[0], elementwise("y"), TO_HOST[1])
    assert beside.parts["host_exposed"] == pytest.approx(copied - TOUCH)
    adds_up(beside)
    both = run(X, H, TO_HOST[0], FROM_HOST[0], TO_HOST[1], FROM_HOST[1])
    assert both.seconds == pytest.approx(copied)  # there and back are two queues
    again = [line.replace("%out", "%more") for line in TO_HOST]
    twice = run(X, TO_HOST[0], again[0], TO_HOST[1], again[1])
    assert twice.seconds == pytest.approx(2 * copied)


def test_copies_into_fast_memory_are_hidden_behind_the_core():
    start = f"%c = (f32[{ROWS}]{{0:S(1)}}, f32[{ROWS}]{{0}}, u32[]) copy-start(%x)"
    end = f"%c.done = f32[{ROWS}]{{0:S(1)}} copy-done(%c)"
    assert run(X, start, elementwise("y"), end).seconds == pytest.approx(TOUCH)
    assert run(X, start, end).seconds == pytest.approx(4 * ROWS / MEMORY)


def test_a_gather_that_is_started_with_nothing_begins_when_it_is_given_rows():
    rows = f"f32[{ROWS}]{{0}}"
    spent = run(
        *(X, "%s = ((), (), s32[8]) async-start(), calls=%elsewhere", elementwise("y")),
        f"%u = (({rows}, s32[8]), {rows}, s32[8]) async-update(%s, %y)",
        f"%d = {rows} async-done(%u)",
    )
    assert spent.seconds == pytest.approx(TOUCH + 4 * ROWS / MEMORY)


PRODUCT = (
    "%a = bf16[1000,1000]{1,0} parameter(2)",
    "%b = bf16[1000,1000]{1,0} parameter(3)",
    "%p = bf16[1000,1000]{1,0} convolution(%a, %b), dim_labels=bf_io->bf",
)


def test_a_product_is_bound_by_arithmetic_or_by_memory():
    fast = run(*PRODUCT)
    assert fast.seconds == pytest.approx(3 * 2e6 / MEMORY + STEP)  # 6 ms against 2
    inside = [line.replace("{1,0}", "{1,0:S(1)}") for line in PRODUCT]
    assert run(*inside).seconds == pytest.approx(2e9 / CORE + STEP)
    assert run(*inside).parts == {"matrix": pytest.approx(2e9 / CORE + STEP)}


CHAIN = """
%begin (p: f32[8]) -> f32[8] {{
  %p = f32[{part}]{{0}} parameter(0)
  %ag.1 = f32[{count}]{{0}} all-gather(%p), {how}
  ROOT %m.1 = f32[{count}]{{0}} custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}}

%end (p: f32[8]) -> f32[8] {{
  %p = f32[{part}]{{0}} parameter(0)
  %ag.2 = f32[{count}]{{0}} all-gather(%p), {how}
  ROOT %m.2 = f32[{count}]{{0}} custom-call(%ag.2), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[{count}]{{0}} parameter(0)
  %g = f32[{part}]{{0}} parameter(1)
  %s = f32[{count}]{{0}} fusion(%g), kind=kCustom, calls=%begin
  {work}
  ROOT %d = f32[{count}]{{0}} fusion(%g), kind=kCustom, calls=%end
}}
"""


HOW = 'channel_id=9, replica_groups=[16,4]<=[64], frontend_attributes={chain_id="3"}'


@pytest.mark.parametrize("work", [0, 1])
def test_a_collective_in_fusions_goes_on_from_its_start_to_its_done(work):
    count = 4 * ROWS
    line = elementwise("y", count) if work else ""
    text = CHAIN.format(part=ROWS, count=count, work=line, how=HOW)
    spent = programs.spent(text, programs.net(mesh={"data": 16, "fsdp": 4}))
    beside = work * (2 * 4 * count / MEMORY + STEP)
    assert spent.seconds == pytest.approx(max(beside, ring_seconds(count)))
    assert [row[0] for row in spent.collectives.values()] == [1]
    adds_up(spent)


SCATTER = f"""
%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%inner (p: f32[8]) -> f32[8] {{
  %p = f32[{ROWS}]{{0}} parameter(0)
  %ar = f32[{ROWS}]{{0}} all-reduce(%p), channel_id=9, replica_groups=[16,4]<=[64], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[{ROWS // 4}]{{0}} dynamic-slice(%ar, %zero), dynamic_slice_sizes={{1}}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[{ROWS}]{{0}} parameter(0)
  ROOT %f = f32[{ROWS // 4}]{{0}} fusion(%x), kind=kCustom, calls=%inner
}}
"""


def test_a_sum_of_which_a_part_is_kept_is_a_reduce_scatter():
    spent = programs.spent(SCATTER, programs.net(mesh={"data": 16, "fsdp": 4}))
    (moved,) = spent.collectives
    assert moved.kind == "reduce-scatter"
    assert spent.seconds == pytest.approx(ring_seconds(ROWS), rel=1e-3)
    whole = programs.spent(SCATTER.replace(f"f32[{ROWS // 4}]", f"f32[{ROWS}]"))
    assert [moved.kind for moved in whole.collectives] == ["all-reduce"]
    assert whole.seconds == pytest.approx(2 * ring_seconds(ROWS), rel=1e-3)


def test_an_exchange_of_ragged_parts_moves_its_rows_and_not_the_room_for_more():
    small, room = f"f32[{ROWS}]{{0}}", f"f32[{4 * ROWS}]{{0}}"
    given = (f"%a = {small} parameter(0)", f"%b = {room} parameter(1)")
    rest = "channel_id=1, replica_groups=[16,4]<=[64]"
    there = run(*given, f"%c = {room} ragged-all-to-all(%a, %b), {rest}")
    back = run(*given, f"%c = {small} ragged-all-to-all(%b, %a), {rest}")
    assert [moved.bytes for moved in (*there.collectives, *back.collectives)] == [4 * ROWS] * 2
    assert there.seconds == back.seconds == pytest.approx(4 * ROWS / 2 / LINK + 2e-6)


def test_a_sum_between_slices_is_carried_by_the_runtime():
    where = '_xla_megascale_transfer_type="ALL_REDUCE"'
    lines = (
        f"%s = (f32[{ROWS}]{{0}}, u32[], token[]) send(%x), channel_id=1, "
        f'frontend_attributes={{{where},rendezvous="a"}}',
        f"%r = (f32[{ROWS}]{{0}}, u32[], token[]) recv(%x), channel_id=1, "
        'frontend_attributes={rendezvous="a"}',
        elementwise("y"),
        "%s.done = token[] send-done(%s), channel_id=1",
        f"%r.done = (f32[{ROWS}]{{0}}, token[]) recv-done(%r), channel_id=1",
    )
    spent = run(X, *lines, devices=programs.net(slices=2, mesh={"data": 2, "fsdp": 64}))
    carried = 4 * ROWS / 1e8  # twice the bytes, half of them between slices
    assert spent.seconds == pytest.approx(carried)
    assert spent.parts["collectives_exposed"] == pytest.approx(carried - TOUCH)
    (moved,) = spent.collectives
    assert (moved.kind, moved.axes, moved.network) == ("all-reduce", ("data",), "DCN")
    adds_up(spent)


@pytest.mark.parametrize("name", ["llama_1b_libtpu_50", "llama_1b_libtpu_52"])
def test_the_parts_of_a_compiled_step_add_up(name):
    found, _ = programs.load(name)
    spent = programs.spent(found.program, network.Network.of(found.meta, programs.V5E))
    adds_up(spent)
    operations = sum(row[1] for row in spent.operations.values())
    core = sum(spent.parts[part] for part in ("matrix", "attention", "other"))
    assert operations == pytest.approx(core, rel=0.05)  # the rest waits for copies
