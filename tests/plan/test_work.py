"""What instructions do: FLOPs of products however they are written, bytes that are touched."""

import math

import numpy as np
import pytest

from bigmodel.plan import work
from bigmodel.plan.program import Program
from bigmodel.sharding import splash
from tests.plan import programs


def last(text):
    """(Work, last instruction) of lines that stand in an entry, after other computations."""
    whole = Program(text)
    return work.Work(whole), whole.entry.root


def entry(*lines):
    return "ENTRY %main (x: f32[]) -> f32[] {\n  " + "\n  ".join(lines) + "\n}\n"


def convolution(left, right, result, labels, window=""):
    arrays = [
        f"%{n} = bf16{s}{{0}} parameter({i})"
        for i, (n, s) in enumerate(zip("ab", (left, right), strict=True))
    ]
    window = f"window={{{window}}}, " if window else ""
    made = f"ROOT %c = bf16{result}{{0}} convolution(%a, %b), {window}dim_labels={labels}"
    counter, one = last(entry(*arrays, made))
    return counter.flops(one)


# A product with a batch dimension G is written as a convolution along it: each place of the result
# meets one place of either side, all else is padding or holes.
PRODUCTS = [
    # [M, K] x [K, N]
    ("[64,32]", "[32,16]", "[64,16]", "bf_io->bf", "", 2 * 64 * 32 * 16),
    ("[64,32]", "[16,32]", "[64,16]", "bf_oi->bf", "", 2 * 64 * 32 * 16),
    # [G, M, K] x [K, N]: every place of G is a row
    ("[8,64,32]", "[1,32,16]", "[8,64,16]", "0bf_0io->0bf", "size=1", 2 * 8 * 64 * 32 * 16),
    # [G, M, K] x [G, K, N], G in disguise: one place of the kernel for one of the input
    (
        *("[8,64,32]", "[8,32,16]", "[8,64,16]", "0bf_0io->0bf"),
        *("size=8 stride=7 pad=0_0 lhs_dilate=8", 2 * 8 * 64 * 32 * 16),
    ),
    # a sum over G as well: [M, G, K] x [G, K, N]
    ("[64,8,32]", "[8,32,16]", "[64,1,16]", "b0f_0io->b0f", "size=8", 2 * 64 * 8 * 32 * 16),
    # two dimensions in disguise
    (
        *("[4,8,64,32]", "[4,8,32,16]", "[4,8,64,16]", "01bf_01io->01bf"),
        *("size=4x8 stride=3x7 lhs_dilate=4x8", 2 * 4 * 8 * 64 * 32 * 16),
    ),
]


@pytest.mark.parametrize(("left", "right", "result", "labels", "window", "flops"), PRODUCTS)
def test_a_convolution_has_the_flops_of_the_product_it_is(
    left, right, result, labels, window, flops
):
    assert convolution(left, right, result, labels, window) == flops


@pytest.mark.parametrize("seed", range(12))
def test_pairs_that_meet_are_those_a_loop_counts(seed):
    random = np.random.default_rng(seed)
    length, size = random.integers(1, 9, 2)
    stride, dilate, spread = random.integers(1, 4, 3)
    before = int(random.integers(0, 4))
    outputs = int(random.integers(1, 9))
    counted = 0
    for output in range(outputs):
        for place in range(size):
            at = output * stride + place * spread - before
            counted += at >= 0 and at % dilate == 0 and at // dilate < length
    given = (int(length), outputs, int(size), int(stride), before, int(dilate), int(spread))
    assert work.meeting(*given) == counted


def test_a_dot_and_its_convolution_have_equal_flops():
    counter, one = last(
        entry(
            "%a = f32[8,64,32]{2,1,0} parameter(0)",
            "%b = f32[8,32,16]{2,1,0} parameter(1)",
            "ROOT %c = f32[8,64,16]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, "
            "lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}",
        )
    )
    assert counter.flops(one) == convolution(*PRODUCTS[3][:5]) == 2 * 8 * 64 * 32 * 16


FUSION = """
%inner (p0: f32[100,64], p1: s32[]) -> f32[1,64] {{
  %p0 = f32[100,64]{{1,0}} parameter(0)
  %p1 = {second} parameter(1)
  %zero = s32[] constant(0)
  {lines}
}}

ENTRY %main (a: f32[100,64], b: s32[]) -> f32[1,64] {{
  %a = f32[100,64]{{1,0{space}}} parameter(0)
  %b = {second} parameter(1)
  ROOT %f = {result} fusion(%a, %b), kind=kLoop, calls=%inner
}}
"""
ROW, ALL = 64 * 4, 100 * 64 * 4
SLICE = "%s = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,64}\n  "
UPDATE = "ROOT %u = f32[100,64]{1,0} dynamic-update-slice(%p0, %p1, %zero, %zero)"
WHOLE = "f32[100,64]{1,0}"


@pytest.mark.parametrize(
    ("lines", "second", "result", "space", "size"),
    [
        # read a row, write a row; the index is nothing
        (SLICE + "ROOT %n = f32[1,64]{1,0} negate(%s)", "s32[]", "f32[1,64]{1,0}", "", 2 * ROW),
        # through what writes nothing
        (
            "%c = bf16[100,64]{1,0} convert(%p0)\n  "
            + SLICE.replace("%p0", "%c")
            + "ROOT %n = f32[1,64]{1,0} negate(%s)",
            *("s32[]", "f32[1,64]{1,0}", "", 2 * ROW),
        ),
        # two slices of one array cost two
        (
            SLICE + SLICE.replace("%s =", "%t =") + "ROOT %n = f32[1,64]{1,0} add(%s, %t)",
            *("s32[]", "f32[1,64]{1,0}", "", 3 * ROW),
        ),
        # used whole besides: all of it
        (
            SLICE + "ROOT %n = f32[100,64]{1,0} negate(%p0)",
            *("s32[]", WHOLE, "", 2 * ALL),
        ),
        # in place: the update is read and written
        (UPDATE, "f32[1,64]{1,0}", WHOLE, "", 2 * ROW),
        # rows of a table
        (
            "ROOT %g = f32[3,64]{1,0} gather(%p0, %p1), offset_dims={1}, slice_sizes={1,64}",
            *("s32[3]{0}", "f32[3,64]{1,0}", "", 6 * ROW + 12),
        ),
        # fast memory costs nothing
        (
            "ROOT %n = f32[100,64]{1,0} negate(%p0)",
            *("s32[]", "f32[100,64]{1,0:S(1)}", ":S(1)", 0),
        ),
    ],
)
def test_a_fusion_costs_what_it_touches(lines, second, result, space, size):
    text = FUSION.format(lines=lines, second=second, result=result, space=space)
    counter, one = last(text)
    assert counter.bytes(one) == size


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("negate(%a)", 2 * ALL),
        ("bitcast(%a)", 0),
        ("copy(%a)", 2 * ALL),
        ("dynamic-update-slice(%a, %b, %i, %i)", 2 * ROW),
    ],
)
def test_an_instruction_costs_what_it_touches(line, size):
    given = "%a = f32[100,64]{1,0} parameter(0)", "%b = f32[1,64]{1,0} parameter(1)"
    counter, one = last(entry(*given, "%i = s32[] constant(0)", f"ROOT %r = {WHOLE} {line}"))
    assert counter.bytes(one) == size


SEEN = [
    # queries, keys, causal, window, offset
    (1024, 1024, True, 0, 0),
    (1024, 1024, False, 0, 0),
    (2048, 2048, True, 512, 0),
    (2048, 2048, True, 300, 0),
    (1024, 1024, False, 200, 0),
    (512, 1024, True, 0, 512),
    (512, 512, True, 0, -512),
    (512, 512, True, 0, 512),
    (512, 1024, True, 300, 512),
]


@pytest.mark.parametrize("of_q", [128, 256])
@pytest.mark.parametrize(("T", "S", "causal", "window", "offset"), SEEN)
def test_an_attention_kernel_says_how_many_pairs_it_computes(T, S, causal, window, offset, of_q):
    blocks = splash.block_sizes(T, S, block_q=of_q, block_kv=256, backward_block_kv=128)
    q, k = np.arange(T)[:, None] + offset, np.arange(S)[None]
    seen = np.ones((T, S), bool)
    if causal:
        seen &= k <= q
    if window:
        seen &= (q - k < window) & (k - q < window)
    counted = []
    for names in (("block_q", "block_kv"), ("block_q_dkv", "block_kv_dkv")):
        a, b = (blocks[name] for name in names)
        some = seen.reshape(T // a, a, S // b, b).any((1, 3))
        counted.append(int(some.sum()) * a * b)
    said = splash.pairs_name(T, S, blocks, causal=causal, window=window, offset=offset)
    assert said == f"pairs_{counted[0]}_{counted[1]}"


def kernel(name, scope):
    where = f'metadata={{op_name="jit(step)/{scope}/vmap(splash_mha)/pallas_call"}}'
    return entry(
        "%ids = s32[2]{0} parameter(0)",
        "%q = bf16[4,16,1024,128]{3,2,1,0} parameter(1)",
        "%k = bf16[4,8,1024,128]{3,2,1,0} parameter(2)",
        f"ROOT %{name}.1 = (f32[4,16,1024]{{2,1,0}}, bf16[4,16,1024,128]{{3,2,1,0}}) "
        f'custom-call(%ids, %q, %k), custom_call_target="tpu_custom_call", {where}',
    )


@pytest.mark.parametrize(
    ("name", "scope", "products", "pairs"),
    [
        ("splash_mha_fwd_segmented", "pairs_600000_700000", 2, 600_000),
        ("splash_mha_dkv_segmented", "pairs_600000_700000", 4, 700_000),
        ("splash_mha_dq_segmented", "pairs_600000_700000", 3, 700_000),
        ("splash_mha_dkv_segmented", "pairs_600000_700000_fused", 5, 700_000),
        ("splash_mha_fwd", "attention", 2, 1024 * 1024 // 2),  # nobody says: causal
    ],
)
def test_an_attention_kernel_multiplies_for_each_pair(name, scope, products, pairs):
    _, one = last(kernel(name, scope))
    flops = 2 * products * 4 * 16 * pairs * 128
    assert work.attention_flops(one) == (flops, flops)
    assert programs.spent(kernel(name, scope)).parts["attention"] > 0


def test_narrow_heads_take_as_long_as_those_that_fill_a_matrix_unit():
    wide = kernel("splash_mha_fwd", "pairs_600000_700000")
    narrow = wide.replace("1024,128]", "1024,64]")
    _, one = last(narrow)
    flops, in_time = work.attention_flops(one)
    assert (2 * flops, in_time) == work.attention_flops(last(wide)[1])
    seconds = [programs.spent(t, efficiency=0.01).parts["attention"] for t in (narrow, wide)]
    assert seconds[0] == pytest.approx(seconds[1])


RAGGED = (
    'custom_call_target="tpu_custom_call", metadata={{op_name="jit(f)/experts/shard_map/{scope}'
    'ragged_dot_general/ragged-dot-none"}}'
)
GIVEN = (
    "%sizes = s32[9]{0} parameter(0)",
    "%x = bf16[1000,64]{1,0} parameter(1)",
    "%w = bf16[8,64,32]{2,1,0} parameter(2)",
    "%y = bf16[1000,32]{1,0} parameter(3)",
)


@pytest.mark.parametrize("scope", ["", "rows_250/"])
@pytest.mark.parametrize(
    "made",
    [
        "bf16[1000,32]{1,0} custom-call(%sizes, %x, %w)",
        "bf16[1000,64]{1,0} custom-call(%sizes, %y, %w)",
        "bf16[8,64,32]{2,1,0} custom-call(%sizes, %x, %y)",
    ],
)
def test_a_product_of_ragged_groups_multiplies_each_row_once(made, scope):
    counter, one = last(
        entry(*GIVEN, f"ROOT %ragged-dot-none.3 = {made}, {RAGGED.format(scope=scope)}")
    )
    rows = 250 if scope else 1000
    assert counter.flops(one) == 2 * rows * 64 * 32
    assert counter.bytes(one) == 2 * (8 * 64 * 32 + rows * (64 + 32))


def test_a_product_of_ragged_groups_without_a_name_has_the_rows_of_its_like():
    made = "bf16[1000,32]{1,0} custom-call(%sizes, %x, %w)"
    like = f"%ragged-dot-none.1 = {made}, {RAGGED.format(scope='rows_250/')}"
    bare = f'ROOT %ragged-dot-none.2 = {made}, custom_call_target="tpu_custom_call"'
    counter, one = last(entry(*GIVEN, like, bare))
    assert counter.flops(one) == 2 * 250 * 64 * 32


def test_what_lays_out_ragged_groups_multiplies_nothing():
    made = "(s32[9]{0}, s32[1024]{0}) custom-call(%sizes)"
    counter, one = last(
        entry(*GIVEN, f"ROOT %ragged-dot-none.3 = {made}, {RAGGED.format(scope='')}")
    )
    assert counter.flops(one) == 0


@pytest.mark.parametrize("name", ["llama_1b_libtpu_50", "llama_1b_libtpu_52"])
def test_a_compiled_step_does_the_products_of_the_traced_one(name):
    found, _ = programs.load(name)
    done = programs.facts(found)["matrix_flops"] * math.prod(found.meta["mesh"].values())
    # All but attention, whose kernel the trace does not look into.
    assert done == pytest.approx(found.meta["traced_flops"], rel=0.01)
