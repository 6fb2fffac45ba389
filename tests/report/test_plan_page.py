"""The page of a plan: well-formed, all its own, its bars as long as its numbers say."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from bigmodel.report import labels, markup, plan_facts, plan_page, plan_screen, units
from tests.report.plan_cases import FITS, PLANS, but

PAGES = {name: plan_page.page(plan) for name, plan in PLANS.items()}
TREES = {name: ElementTree.fromstring(text) for name, text in PAGES.items()}
EVERY = pytest.mark.parametrize("name", PLANS)


def by_class(tree, name):
    return [node for node in tree.iter() if name in node.get("class", "").split()]


def text_of(node):
    return "".join(node.itertext())


def titles(tree):
    return {node.text for node in tree.iter("title")}


@EVERY
def test_nothing_is_fetched(name):
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|src=", PAGES[name])


@EVERY
def test_what_it_says_is_what_the_plan_says(name):
    plan, text = PLANS[name], text_of(TREES[name])
    wanted = [plan_facts.verdict(plan)[1], plan_facts.mfu(plan), plan_facts.promise(plan)]
    wanted += [units.seconds(plan["step_seconds"]), units.flops(plan["flops"]["full"])]
    wanted += [units.count(plan["tokens_per_second_per_chip"]), *plan["warnings"]]
    wanted += [*plan["flags_refused"], *(row["name"] for row in plan["largest_buffers"])]
    wanted += [row["layer"] for row in plan["collectives"]]
    wanted += [plan_facts.change_words(row["change"]) for row in plan["changes"]]
    wanted += [units.count(row["tokens_per_second_per_chip"]) for row in plan["scaling"][1:]]
    for row in plan["search"]["layouts"] if plan["search"] else []:
        wanted += [units.size(row["hbm_bytes"]), units.seconds(row["step_seconds"])]
    assert [words for words in wanted if words not in text] == []


@EVERY
def test_every_bar_starts_where_the_one_before_it_ends(name):
    bars = by_class(TREES[name], "bar")
    assert bars
    for bar in bars:
        parts = [(float(p.get("x")[:-1]), float(p.get("width")[:-1])) for p in bar.findall("rect")]
        ends = [0.0, *(x + width for x, width in parts)]
        assert ends[-1] <= 100.01
        assert [x for x, _ in parts] == pytest.approx(ends[:-1], abs=0.002)


@pytest.mark.parametrize("name", [n for n in PLANS if PLANS[n]["hbm_limit_bytes"]])
def test_memory_is_drawn_to_the_scale_of_the_limit(name):
    plan = PLANS[name]
    bars = [bar for bar in by_class(TREES[name], "bar") if bar.get("aria-label").count("GiB") == 5]
    bar = bars[-1]  # after those of a search
    drawn = sum(float(part.get("width")[:-1]) for part in bar.findall("rect"))
    limit = float(bar.find("line").get("x1")[:-1])
    assert drawn / limit == pytest.approx(plan["hbm_bytes"] / plan["hbm_limit_bytes"], rel=1e-3)


@pytest.mark.parametrize("name", [n for n in PLANS if PLANS[n]["time"]])
def test_the_parts_of_a_step_fill_its_bar(name):
    bar = next(
        row.find("svg")
        for row in by_class(TREES[name], "row")
        if text_of(row.find("span")) == "step"
    )
    widths = [float(part.get("width")[:-1]) for part in bar.findall("rect")]
    assert sum(widths) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize(
    ("name", "columns"), [("fits", 2), ("over", 2), ("decode", 1), ("alone", 0)]
)
def test_a_tensor_is_filled_under_each_axis_that_cuts_it(name, columns):
    (table,) = by_class(TREES[name], "map")
    head, *rows = list(table.iter("tr"))
    assert len(head) == 4 + columns
    row = next(row for row in rows if "feedforward/down" in text_of(row))
    cut = by_class(row, "cut")
    assert [text_of(node) for node in cut] == {"fits": ["embed", "mlp"], "decode": ["mlp"]}.get(
        name, ["embed"] if columns else []
    )
    assert len(rows) == 9  # of 12 tensors three pairs are alike
    if name == "fits":
        assert cut[0].get("title") == (
            "embed of length 8,192 is cut over fsdp 64 × expert 1 × context 1"
        )


@pytest.mark.parametrize("name", ["fits", "over", "decode", "hostile"])
def test_every_operation_is_a_dot_with_its_name_or_is_said_to_be_left_out(name):
    told = "\n".join(titles(TREES[name]))
    for row in PLANS[name]["roofline"]["operations"]:
        assert (f"{row['name']}: " in told) == bool(row["flops"])
    left_out = sum(not row["flops"] for row in PLANS[name]["roofline"]["operations"])
    assert ("Without FLOPs, so not here: 1 operation" in text_of(TREES[name])) == (left_out == 1)


NULLABLE = ["roofline", "host_bytes", "hbm_limit_bytes", "fits", "step_seconds", "time", "mfu"]
NULLABLE += ["mfu_full_attention", "tokens_per_second", "tokens_per_second_per_chip"]


@pytest.mark.parametrize("key", NULLABLE)
@pytest.mark.parametrize("name", ["over", "search_cost"])
def test_any_number_may_be_unknown(name, key):
    plan = but(PLANS[name], **{key: None})
    if plan["search"] and key in plan["search"]["layouts"][0]:
        rows = [row | {key: None} for row in plan["search"]["layouts"]]
        plan["search"] = plan["search"] | {"layouts": rows}
        assert "unknown" in plan_screen.ranking(plan) or key in ("fits", "time")
    assert "None" not in text_of(ElementTree.fromstring(plan_page.page(plan)))
    assert "None" not in plan_screen.screen(plan)


def test_an_unknown_chip_has_no_roofline():
    assert not by_class(TREES["unknown_chip"], "roof")
    assert by_class(TREES["fits"], "roof")
    assert not by_class(TREES["alone"], "column")  # one size is no scaling


@pytest.mark.parametrize("spread", [1.0, 8.0, 60.0])
def test_labels_overlap_neither_dots_nor_each_other(spread):
    named = [
        (300 + spread * (i * 7 % 11), 200 + spread * (i * 5 % 7), 4.0 + i, f"operation {i}")
        for i in range(9)
    ]
    dots = [labels.around(x, y, radius) for x, y, radius, _ in named]
    found = labels.place(named, dots=dots, words=[], allowed=lambda box: box[2] < 800)
    assert len(found) >= 5
    boxes = [box for _, box, _ in found]
    assert not any(labels.touch(a, b) for a, b in itertools.combinations(boxes, 2))
    assert not any(labels.touch(box, dot) for box in boxes for dot in dots)
    for (_, _, leader), box in itertools.product(found, boxes):
        inner = (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)
        assert not (leader and labels.crosses(leader, inner))


def test_ties_and_what_was_compiled_are_marked_in_a_search():
    (layouts,) = by_class(TREES["search"], "layouts")
    ranks = [text_of(node) for node in by_class(layouts, "rank")]
    assert ranks[:5] == ["1=", "1=", "1=", "1=", "2"]
    assert ranks[-1] == "✕"
    assert len(by_class(layouts, "compiled")) == 6
    assert not by_class(TREES["fits"], "layouts")


def test_names_are_escaped():
    assert "<u>" not in PAGES["hostile"]
    assert "<script" not in PAGES["hostile"]
    assert "<b>&\"'" in text_of(TREES["hostile"])
    assert markup.element("p", "a < b", title='"&"') == '<p title="&quot;&amp;&quot;">a &lt; b</p>'


def test_many_tensors_and_collectives_are_added_up():
    row = FITS["sharding"]["params/norm/scale"]
    many = {f"params/block_{i}/norm/scale": row | {"shape": [i]} for i in range(100)}
    moved = [row | {"layer": f"layer {i}"} for i, row in enumerate(FITS["collectives"] * 5)]
    text = text_of(
        ElementTree.fromstring(plan_page.page(but(FITS, sharding=many, collectives=moved)))
    )
    assert "60 smaller groups" in text
    assert "20 smaller" in text


def test_every_colour_is_there_in_light_and_in_dark():
    style = plan_page.STYLE.read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    dark = dark[: dark.index("* {")]
    names = [set(re.findall(r"(--[a-z-]+):", part)) for part in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\((--[a-z-]+)\)", style)) <= names[0]
