"""Budgets: what a plan may move, hold and compute, held against faults of layouts and refactors.

A few are compiled in `make test`, all of them in `make test-tpu`.
"""

import copy
import importlib.util
from typing import Any

import pytest

from bigmodel.plan import budget
from tests.plan import budgeted, mis_shardings, refactors, rewritten
from tests.plan.budgeted import Case

needs_libtpu = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)
HOW = "If that is meant: python -m tests.plan.budgeted {}"


def collective(kind, layer, size, axes=("fsdp",), devices=8, times=2):
    row = dict(kind=kind, layer=layer, bytes=size, axes=list(axes), devices=devices, times=times)
    return row | {"network": "ICI"}


GATE, UP, OUT = "layers/feedforward/gate", "layers/feedforward/up", "layers/attention/out"
MB = 10**6
PLAN: dict[str, Any] = dict(
    **dict(task="train", topology="v5e:2x4", slices=1, versions={"libtpu": "0.0.52"}),
    **dict(fits=True, hbm_bytes=1000 * MB, step_seconds=0.1, mfu=0.5, mesh={"fsdp": 8}),
    layout={"rules": "fsdp_tensor", "batch": 64},
    config={"path": "a.py", "argument": None, "overrides": []},
    memory={"parameters": 100 * MB, "optimizer": 200 * MB, "activations": 700 * MB},
    time={"matrix": 0.08, "collectives_exposed": 0.02},
    sharding={f"params/{name}": {"bytes_per_device": 50 * MB} for name in ("gate", "up")},
    flops={"compiled_per_device": 1e12},
    collectives=[
        collective("all-gather", GATE, MB),
        collective("all-gather", UP, MB),
        collective("reduce-scatter", GATE, 8 * MB),
        collective("all-reduce", OUT, 4 * MB, ("tensor",), 4),
    ],
)


def but(**changes):
    return copy.deepcopy(PLAN) | changes


def moving(*rows):
    return but(collectives=list(rows))


REST: list[Any] = PLAN["collectives"]
HARMLESS = {
    "nothing": PLAN,
    "less": moving(*REST[1:]),
    "another order": moving(*REST[::-1]),
    "in two halves": moving(*[collective("all-gather", GATE, MB / 2)] * 2, *REST[1:]),
    "sent round in parts": moving(collective("collective-permute", GATE, MB, times=14), *REST[1:]),
    "a sum as scatter and gather": moving(
        *REST[:3],
        collective("reduce-scatter", OUT, 4 * MB, ("tensor",), 4),
        collective("all-gather", OUT, MB, ("tensor",), 4),
    ),
    "under another name beside it": moving(collective("all-gather", UP, MB), *REST[1:]),
    "under another name elsewhere": moving(collective("all-gather", "loss", MB), *REST[1:]),
    "a scalar": moving(*REST, collective("all-reduce", "loss", 4, ("stage",))),
    "a little memory": but(hbm_bytes=1020 * MB),
    "parameters by other names": but(sharding={"params/w": {"bytes_per_device": 100 * MB}}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_otherwise_is_no_breach(name):
    assert budget.check(HARMLESS[name], budget.make(PLAN)) == []
    assert budget.check(HARMLESS[name], PLAN) == [], "a plan is taken as a budget"


BREACHES = {  # what is done -> words of the one sentence
    "appeared in a layer": (
        moving(*REST, collective("all-gather", "layers/attention/key", MB / 4)),
        ("grew over mesh fsdp (ICI)", "layers/attention/key (3.3 MiB, allowed 0.0 MiB)"),
    ),
    "appeared over an axis": (
        moving(*REST, collective("all-to-all", "loss", MB, ("data",))),
        ("appeared over mesh data (ICI)", "in loss (1.7 MiB, allowed 0.0 MiB)"),
    ),
    "grew": (
        moving(collective("all-gather", GATE, 1.1 * MB), *REST[1:]),
        ("grew over mesh fsdp (ICI)", "layers/feedforward/gate (28.0 MiB, allowed 26.7 MiB)"),
    ),
    "runs more often": (
        moving(collective("all-gather", GATE, MB, times=3), *REST[1:]),
        ("grew", GATE),
    ),
    "grew while another part fell": (
        moving(*REST[1:], collective("all-gather", "embed", 0.8 * MB)),
        ("grew", "embed (10.7 MiB, allowed 0.0 MiB)"),
    ),
    "goes over another network": (
        moving(*(row | {"network": "DCN"} for row in REST[:1]), *REST[1:]),
        ("appeared over mesh fsdp (DCN)", GATE),
    ),
    "a parameter is whole": (
        but(
            memory=PLAN["memory"] | {"parameters": 450 * MB},
            sharding=PLAN["sharding"] | {"params/up": {"bytes_per_device": 400 * MB}},
        ),
        ("holds 429.2 MiB, more in params/up", "may hold 95.4 MiB of parameters"),
    ),
    "a state of the optimizer is whole": (
        but(memory=PLAN["memory"] | {"optimizer": 210 * MB}),
        ("of optimizer state and holds 200.3 MiB",),
    ),
    "memory at the peak": (but(hbm_bytes=1050 * MB), ("hold 953.7 MiB at the peak", "5.0% more")),
    "the same twice": (but(flops={"compiled_per_device": 2e12}), ("1.000 TFLOP a step", "100.0%")),
    "of another topology": (but(topology="v5p:2x2x1"), ("of topology v5e:2x4", "v5p:2x2x1")),
}


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_one_sentence_with_layer_found_allowed_and_cure(name):
    plan, words = BREACHES[name]
    (said,) = budget.check(plan, budget.make(PLAN))
    assert said.startswith("budget: ")
    assert "write the budget anew" in said
    assert [word for word in words if word not in said] == [], said


def test_another_compiler_is_told_where_there_is_a_breach():
    newer = but(versions={"libtpu": "0.0.60"})
    assert budget.check(newer, PLAN) == []
    said = budget.check(newer | {"hbm_bytes": 2000 * MB}, PLAN)
    assert "libtpu 0.0.52 and this one is 0.0.60" in said[-1]


def test_a_comparison_says_what_appeared_went_grew_and_shrank():
    before = moving(*REST, collective("all-reduce", "embed", MB, ("data",)))
    rows = [collective("all-gather", "loss", MB), collective("all-gather", UP, 2 * MB)]
    layout = {"rules": "sequence", "batch": 64}
    diff = budget.compare(before, but(layout=layout, collectives=[*rows, *REST[2:]]))
    assert diff["settings"] == {"rules": ("fsdp_tensor", "sequence")}
    change = {row["layer"]: row["change"] for row in diff["collectives"]}
    assert change == {"loss": "appeared", "embed": "went", UP: "grew", GATE: "shrank"}
    text = budget.comparison(diff)
    assert "rules: fsdp_tensor -> sequence" in text
    assert "appeared" in text
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 100
    assert "the collectives are the same" in budget.comparison(budget.compare(PLAN, PLAN))


def test_the_tables_are_long_enough():
    assert len(budgeted.LAYOUTS) >= 6
    assert len(mis_shardings.FAULTS) >= 30
    assert len(refactors.CHANGES) >= 20
    layouts = {case.layout for case in (*mis_shardings.FAULTS, *refactors.CHANGES)}
    assert layouts == set(budgeted.LAYOUTS)


# Compiled

SMALL = dict(model=budgeted.TINY, batch=8, data=dict(length=256))
QUICK = (
    Case("as it is", "fsdp_tensor"),
    Case("other words", "fsdp_tensor", patch=rewritten.rotation_by_stacking),
    Case("a rule is lost", "fsdp_tensor", mis_shardings.row(mlp=None)),
    Case("logits", "fsdp_tensor", patch=mis_shardings.logits_are_gathered_for_the_target),
)


@needs_libtpu
def test_a_lost_rule_and_a_copy_too_many_are_caught_and_other_words_are_not():
    plans = budgeted.plans([budgeted.request(case, SMALL) for case in QUICK])
    as_it_is, other_words, lost, copied = plans
    assert budget.check(other_words, as_it_is) == []
    assert any("layers/feedforward" in said for said in budget.check(lost, as_it_is))
    assert any("more in loss" in said for said in budget.check(copied, as_it_is))


@pytest.fixture(scope="module")
def compiled():
    """Case -> its plan, or why there is none; all that `make test-tpu` asks for."""
    cases = [Case("", layout) for layout in budgeted.LAYOUTS]
    cases += [*mis_shardings.FAULTS, *refactors.CHANGES]
    return dict(zip(map(str, cases), budgeted.plans(map(budgeted.request, cases)), strict=True))


def breaches(compiled, case):
    plan = compiled[str(case)]
    if isinstance(plan, Exception):
        raise plan
    return budget.check(plan, budgeted.kept(case.layout))


@needs_libtpu
@pytest.mark.tpu
@pytest.mark.parametrize("layout", budgeted.LAYOUTS)
def test_a_layout_keeps_its_budget(compiled, layout):
    said = breaches(compiled, Case("", layout))
    assert not said, "\n".join([*said, HOW.format(layout)])


@needs_libtpu
@pytest.mark.tpu
@pytest.mark.parametrize("fault", mis_shardings.FAULTS, ids=str)
def test_a_fault_of_a_layout_is_caught(compiled, fault):
    assert breaches(compiled, fault), "nothing moves more, is held or computed more"


@needs_libtpu
@pytest.mark.tpu
@pytest.mark.parametrize("change", refactors.CHANGES, ids=str)
def test_a_harmless_change_breaches_nothing(compiled, change):
    assert not breaches(compiled, change)
