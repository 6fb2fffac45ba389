"""A plan on one screen: all that matters is there, within the width, whatever is unknown."""

import pytest

from bigmodel.report import plan_facts, plan_screen, units
from tests.report.plan_cases import FITS, PLANS, UNKNOWN, but, searched

CASES = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
SEARCHES = {name: plan for name, plan in PLANS.items() if plan["search"]}


@CASES
def test_it_is_one_screen(plan):
    lines = plan_screen.screen(plan).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= plan_screen.WIDTH
    assert not any(line != line.rstrip() for line in lines)


@CASES
def test_every_number_that_matters_is_there(plan):
    text = plan_screen.screen(plan)
    size = units.alike(max(plan["hbm_limit_bytes"] or 0, plan["hbm_bytes"]), units.BYTES)
    seconds = units.alike(plan["step_seconds"], units.SECONDS)
    wanted = [size(part) for part in plan["memory"].values()]
    wanted += [size(plan["hbm_bytes"]), units.count(plan["layout"]["batch"])]
    wanted += [units.flops(plan["flops"][key]) for key in ("causal", "full")]
    if plan["step_seconds"] is not None:
        wanted += [seconds(plan["step_seconds"]), *map(seconds, plan["time"].values())]
        wanted += [units.percent(plan[key]) for key in ("mfu", "mfu_full_attention")]
        wanted.append(f"{units.count(plan['tokens_per_second_per_chip'])} tokens/s/chip")
    wanted += [units.size(row["bytes"]) for row in plan["largest_buffers"]]
    wanted += [f"{len(plan['flags_refused'])} flag"] if plan["flags_refused"] else []
    wanted += ["Never measured here", plan["topology"], plan["task"]]
    assert [words for words in wanted if words not in text] == []


@CASES
def test_collectives_are_shown_largest_first_and_the_rest_is_added_up(plan):
    lines = plan_screen.screen(plan).splitlines()
    rows = sorted(plan["collectives"], key=plan_facts.size_of, reverse=True)
    if not rows:
        assert "no collectives: nothing moves between devices" in lines
        return
    start = next(i for i, line in enumerate(lines) if line.startswith("collective "))
    shown, rest = rows[: plan_screen.COLLECTIVES], rows[plan_screen.COLLECTIVES :]
    for row, line in zip(shown, lines[start + 1 :], strict=False):
        words = [str(row["devices"]), row["network"], units.size(row["bytes"])]
        words.append(units.count(row["times"]))
        words += [units.seconds(row[key]) for key in ("seconds", "exposed_seconds")]
        assert line.startswith(row["kind"])
        assert " ".join(words) in " ".join(line.split())
        assert ("(sync)" in line) == row["synchronous"]
    if rest:
        last = lines[start + 1 + len(shown)]
        assert last.startswith(f"{len(rest)} smaller")
        assert units.count(sum(row["times"] for row in rest)) in last


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fits", "[ok] Fits, with 39.6 GiB a device (41.4 %) to spare"),
        ("fits", "step time within 15 %"),
        ("over", "[NO] Does not fit: 4.16 GiB a device (13.3 %) too much"),
        ("over", "step time within 30 % (less than 8 % of HBM free, offload to the host)"),
        ("over", "accumulate = 4                           fits "),
        ("over", "2 slices, crossed along data"),
        ("over", "warning: the compiler recomputes by itself"),
        ("unknown_chip", "MFU refused: unknown chip cpu"),
        ("unknown_chip", "its limit is not known"),
        ("gpu", "no accuracy is promised for a GPU"),
        ("gpu", "$1.87 per million tokens"),
        ("decode", "no accuracy is promised for task decode"),
        ("alone", "one device"),
        ("alone", "not compiled: analytic"),
        ("hostile", "and 8 more warnings"),
    ],
)
def test_what_is_said(name, words):
    assert words in plan_screen.screen(PLANS[name])


def test_a_number_that_is_missing_is_missed():
    assert "172,392 tokens/s" in plan_screen.screen(FITS)
    assert "172,392 tokens/s" not in plan_screen.screen(but(FITS, tokens_per_second=None))


@pytest.mark.parametrize("plan", SEARCHES.values(), ids=SEARCHES)
def test_a_ranking_shows_all_layouts_that_there_is_room_for(plan):
    lines = plan_screen.ranking(plan).splitlines()
    assert max(map(len, lines)) <= plan_screen.WIDTH
    layouts = plan["search"]["layouts"]
    rows = [line for line in lines if " fsdp " in line]
    assert len(rows) == min(len(layouts), plan_screen.LAYOUTS)
    for row, line in zip(layouts, rows, strict=False):
        assert ("*" in line) == (row["compiled"] != "analytic")
        assert line.startswith("no") == (not row["fits"])
        assert units.seconds(row["step_seconds"]) in line
    assert ("cut short" in " ".join(" ".join(lines).split())) != plan["search"]["complete"]


def test_a_long_ranking_says_how_many_more():
    assert "and 7 more" in plan_screen.ranking(searched(rows=27))


@pytest.mark.parametrize(
    ("objective", "rows", "ranks"),
    [
        ("time", [(1, 10.0), (1, 11.4), (1, 11.6), (1, None), (1, 13.2)], [1, 1, 2, None, 3]),
        ("cost", [(1, 10.0), (1, 11.6)], [1, 2]),
        ("chips", [(8, 30.0), (8, 31.0), (8, 40.0), (16, 1.0)], [1, 1, 3, 4]),
    ],
)
def test_predictions_within_15_percent_are_ties(objective, rows, ranks):
    key = "dollars_per_million_tokens" if objective == "cost" else "step_seconds"
    layouts = [{"fits": True, "chips": chips, key: value} for chips, value in rows]
    assert plan_facts.ranks(layouts, objective) == ranks
    assert plan_facts.ranks([row | {"fits": False} for row in layouts], objective) == (
        [None] * len(layouts)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh": FITS["mesh"] | {"stage": 4}}, "a pipeline"),
        ({"layout": FITS["layout"] | {"offload": True}}, "30 % (offload to the host)"),
        ({"step_seconds": 0.05}, "30 % (a step under 100 ms)"),
        ({"hbm_limit_bytes": 1.05 * FITS["hbm_bytes"]}, "30 % (less than 8 % of HBM free)"),
        ({"sharding": {"x": {"logical": ["layers", "experts"]}}}, "a mixture of experts"),
    ],
)
def test_accuracy_is_promised_for_what_was_tried_only(changes, words):
    assert words in plan_facts.promise(but(FITS, **changes))
    assert words not in plan_facts.promise(FITS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.size(0), "0 B"),
        (units.size(1023.9), "1.00 KiB"),
        (units.size(95.7 * 2**30), "95.7 GiB"),
        (units.seconds(0.0131), "13.1 ms"),
        (units.seconds(0.9999), "1.00 s"),
        (units.seconds(0), "0 s"),
        (units.flops(1.907e18), "1.91 EFLOP"),
        (units.count(1384), "1,384"),
        (units.count(39.42), "39.4"),
        (units.rounded(70_553_706_496), "70.6 billion"),
        (units.dollars(0.0123), "$0.0123"),
        (units.percent(0.6666), "66.7 %"),
        (units.times(1, "flag"), "1 flag"),
        (units.alike(24.33, units.SECONDS)(0.31), "0.31 s"),
        (units.seconds(UNKNOWN["step_seconds"]), "unknown"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected
