"""The page of a run: well-formed, all its own, and nothing in it becomes markup."""

import math
import re
from xml.etree import ElementTree

import pytest

from bigmodel.report import line_chart, run_page

HOSTILE = "</style><script>alert(1)</script>&\"'\x00"
KINDS = ("steps", "start", "compile", "down", "lost")
ATTEMPT = dict(
    began=1000.0, seen=1060.0, first=0, last=40, ended="", host="h", to_first={"start": 3.0}
)


def run(**changes):
    rows = [
        {"step": step, "train/loss": 2 + 3 * math.exp(-step / 9), "train/grad_norm": 1 + step % 7}
        | {"train/learning_rate": 1e-3, "train/tokens_per_second": 5000.0}
        | ({"validation/loss": 2.5, "validation/accuracy": step / 90} if step % 20 == 0 else {})
        for step in range(1, 61)
    ]
    seconds = dict(zip(KINDS, (70.0, 10.0, 10.0, 5.0, 5.0), strict=True))
    goodput = dict(seconds=seconds, words=dict.fromkeys(KINDS, "words"), wall=100.0, share=0.7)
    rest = ATTEMPT | dict(began=1065.0, seen=1100.0, first=30, last=60, ended="Stopped")
    goodput |= dict(notes=[], attempts=[one | dict(seconds=seconds) for one in (ATTEMPT, rest)])
    whole = dict(
        name="run",
        now=1110.0,
        pills=["decoder"],
        step=60,
        steps=100,
        rows=rows,
        evals=["validation"],
        goodput=goodput,
        faults=[],
        checkpoints=[30, 60],
        samples=None,
        config=[("steps", "100", "1000"), ("seed", "0", "0"), ("own", "1", None)],
        provenance={"git": "abc"},
        notes=[],
    )
    return whole | changes


def tree(**changes):
    return ElementTree.fromstring(run_page.page(run(**changes)))


def text(**changes):
    return "".join(tree(**changes).itertext())


def test_the_page_is_well_formed_and_fetches_nothing():
    page = run_page.page(run())
    ElementTree.fromstring(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|src=", page)


@pytest.mark.parametrize(
    "field",
    ["name", "pills", "faults", "samples", "config", "provenance", "notes", "evals"],
)
def test_no_text_of_a_run_becomes_markup(field):
    made = {
        "name": HOSTILE,
        "faults": [(3, HOSTILE)],
        "config": [(HOSTILE, HOSTILE, "1")],
        "provenance": {HOSTILE: HOSTILE},
    }.get(field, [HOSTILE])
    rows = [{"step": 1, "train/loss": 1.0, f"{HOSTILE}/loss": 2.0, f"{HOSTILE}/{HOSTILE}": 3.0}]
    page = run_page.page(run(**{"rows": rows, field: made}))
    ElementTree.fromstring(page)  # and no control character
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_no_text_of_an_attempt_becomes_markup():
    goodput = run()["goodput"]
    goodput["notes"] = [HOSTILE]
    goodput["attempts"][0]["ended"] = HOSTILE
    page = run_page.page(run(goodput=goodput))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2


def test_the_goodput_bar_is_as_long_as_the_shares_say():
    (bar,) = [node for node in tree().iter("svg") if node.get("class") == "bar"]
    parts = {part.get("class").split("-")[1]: part.get("width") for part in bar.findall("rect")}
    assert {kind: float(width[:-1]) for kind, width in parts.items()} == {
        "steps": 70.0,
        "start": 10.0,
        "compile": 10.0,
        "down": 5.0,
        "lost": 5.0,
    }
    assert "70.0 % of 1 min 40 s went to steps that count, in 2 attempts." in text()


def test_of_many_attempts_the_last_are_seen_and_the_rest_is_folded():
    goodput = run()["goodput"]
    made = dict(goodput["attempts"][0], seconds=goodput["seconds"] | {"lost": 0.01}, to_first={})
    found = tree(goodput=goodput | {"attempts": [made] * 30})
    (part,) = [node for node in found.iter("div") if node.get("class") == "attempts"]
    shown, folded = part.find("div"), part.find("details")
    rows = [["".join(cell.itertext()) for cell in row] for row in shown.iter("tr")]
    assert rows[0] == ["", "began", "steps", "ended", "first step after", *KINDS[:-1]]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(11, 31)]
    assert rows[1][2] == "none"
    assert "10 earlier attempts" in folded.find("summary").text
    assert len(list(folded.iter("tr"))) == 11


def test_fields_that_were_changed_come_first_and_alone():
    assert "1 field of 3 changed from defaults." in text()
    tables = ["".join(node.itertext()) for node in tree().iter("table")]
    assert "fieldvaluedefaultsteps1001000" in tables


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(step=100), "Finished: step 100 of 100."),
        (dict(), "Stopped at step 60 of 100"),
        (dict(goodput=None), "At step 60 of 100."),
        (dict(ended="", now=1120.0), "Running: step 60 of 100."),
        (dict(ended="", now=4710.0), "Silent for 1 h 0 min: at step 60 of 100; it was killed"),
        (dict(ended="NonFiniteError"), "Ended by NonFiniteError at step 60 of 100."),
    ],
)
def test_it_says_how_the_run_stands(changes, words):
    goodput = run()["goodput"]
    goodput["attempts"][-1]["ended"] = changes.pop("ended", "Stopped")
    assert words in text(**{"goodput": goodput, **changes})


def test_faults_are_told_the_first_of_many_only():
    found = text(faults=[(step, "went wrong.") for step in range(1, 51)])
    assert "Step 20: went wrong." in found
    assert "Step 21: " not in found
    assert "30 more" in found


@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 1, "train/loss": None}],
        [{"step": 0, "train/loss": 1e300, "train/grad_norm": 0.0}],
        [{"step": 5, "train/loss": -1e-300, "train/learning_rate": 0.0}],
        [{"step": 5}],
    ],
)
def test_little_or_odd_numbers_are_drawn_as_well(rows):
    found = run_page.page(run(rows=rows))
    assert not re.search(r"\b(nan|inf)\b", found.split("</style>")[1])


# Charts


def test_what_is_left_out_of_a_long_line_changes_no_picture():
    points = [(step, 100.0 if step == 5003 else step / 1e4) for step in range(10_000)]
    few = line_chart.thinned(points)
    assert len(few) <= line_chart.MOST
    assert (5003, 100.0) in few
    assert few == sorted(few)
    assert sum(v for _, v in line_chart.means(points)) == pytest.approx(
        1500 * sum(v for _, v in points) / 1e4, rel=0.01
    )


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3.1, 3.9, [3.2, 3.4, 3.6, 3.8]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert line_chart.Scale(low, high, (0, 1)).ticks() == pytest.approx(ticks)


def test_a_logarithmic_scale_has_decades():
    scale = line_chart.Scale(0.5, 2000, (0, 100), logarithmic=True)
    assert scale.ticks() == [1, 10, 100, 1000]
    assert scale(1000) - scale(100) == pytest.approx(scale(10) - scale(1))
    short = line_chart.Scale(0.3, 8, (0, 100), logarithmic=True)
    assert short.ticks() == pytest.approx([0.5, 1, 2, 5])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.24, "4.2 s"), (187, "3 min 7 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")],
)
def test_a_duration_has_two_units(seconds, words):
    assert run_page.duration(seconds) == words
