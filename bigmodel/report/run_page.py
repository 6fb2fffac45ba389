"""A run as one HTML page that needs nothing but itself: its curves, its time, its config."""

import datetime
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bigmodel.report import curve, line_chart, markup, plan_charts, units
from bigmodel.report.line_chart import Line, Point
from bigmodel.report.markup import Inside, Markup, element, table
from bigmodel.report.plan_page import MARKS, section

STYLES = [pathlib.Path(__file__).with_name(f"{name}_page.css") for name in ("plan", "run")]
WIDE, NARROW = (960.0, 300.0), (470.0, 190.0)
KEYS = ("b", "c", "d", "e")  # colours of evaluations' lines
APART = ("seconds", "targets")  # of an evaluation's figures, those that are no scores
SHOWN = 20  # of a list of faults, or of attempts
Run = Mapping[str, Any]


def page(run: Run) -> str:
    """The whole page.

    Args:
        run: "name"; "now", seconds of the epoch; "step" of "steps"; "rows" of the metrics, finite
            or None; "evals", their names; "goodput" (see `goodput`) or None; "faults" as (step,
            sentence); "checkpoints", steps; "samples", texts or None; "config" as (field, value,
            default or None) with values as text; "provenance" by name; "notes", sentences.
    """
    parts = (opening, curves, goodput, faults, samples, settings, provenance)
    return markup.page(f"Run: {run['name']}", STYLES, [part(run) for part in parts])


def opening(run: Run) -> Markup:
    """How it stands, and the figures that people ask for."""
    mark, sentence = verdict(run)
    return element(
        "header",
        element("p", "bigmodel report", class_="eyebrow"),
        element("h1", run["name"]),
        element("ul", [element("li", words) for words in run["pills"]], class_="pills"),
        element(
            "p", element("span", MARKS[mark], class_="mark"), sentence, class_=f"verdict {mark}"
        ),
        tiles(run),
        element("p", f"As of {moment(run['now'])}.", class_="promise"),
        element("ul", [element("li", note) for note in run["notes"]], class_="warnings"),
    )


def verdict(run: Run) -> tuple[str, str]:
    """A mark of MARKS and a sentence: whether the run is over, goes on, or was cut off."""
    at = f"step {run['step']:,} of {run['steps']:,}"
    attempts = run["goodput"]["attempts"] if run["goodput"] else []
    last = attempts[-1] if attempts else None
    if run["step"] >= run["steps"]:
        return "fits", f"Finished: {at}."
    if last is None:
        return "unknown", f"At {at}."
    if last["ended"] == "":
        ago = run["now"] - last["seen"]
        if ago < 60:
            return "fits", f"Running: {at}."
        return "over", f"Silent for {duration(ago)}: at {at}; it was killed, or its host is gone."
    if last["ended"] in ("Stopped", "finished"):
        return "unknown", f"Stopped at {at}; the same command goes on from there."
    return "over", f"Ended by {last['ended']} at {at}."


def tiles(run: Run) -> Markup:
    """Name, figure and note of the last that is known."""
    last: dict[str, Any] = {}
    for row in run["rows"]:
        last |= {name: value for name, value in row.items() if value is not None}
    rows = [("loss", number(last.get("train/loss")), "of the last step that was logged")]
    rows += [
        (f"{name} loss", number(last[f"{name}/loss"]), "last evaluation")
        for name in run["evals"]
        if f"{name}/loss" in last
    ]
    speed = next((name for name in reversed(last) if name.endswith("_per_second")), None)
    if speed:
        unit = speed.removeprefix("train/").removesuffix("_per_second")
        rows.append((f"{unit}/s", units.count(last[speed]), note_of(last)))
    if run["goodput"]:
        found = run["goodput"]
        wall = f"of {duration(found['wall'])}"
        rows.append(("goodput", units.percent(found["share"]), wall))
    figures = [
        element(
            "div",
            element("span", name, class_="what"),
            element("strong", figure),
            element("span", note, class_="note"),
        )
        for name, figure, note in rows
    ]
    return element("div", figures, class_="tiles")


def note_of(last: Mapping[str, Any]) -> str:
    if "train/mfu" in last:
        return f"MFU {units.percent(last['train/mfu'])}"
    return f"step {units.seconds(last.get('train/step_seconds'))}"


def curves(run: Run) -> Markup:
    rows = run["rows"]
    losses = [
        Line("each step", "faint", points(rows, "train/loss")),
        Line("train", "a", curve.smoothed(line_chart.means(points(rows, "train/loss")))),
        *evaluated(run, "loss"),
    ]
    speed = sorted({name for row in rows for name in row if name.endswith("_per_second")})
    narrow = [
        figure("Gradient norm", [Line("", "a", points(rows, "train/grad_norm"))], log=True),
        figure("Learning rate", [Line("", "a", points(rows, "train/learning_rate"))]),
    ]
    for name in speed:
        unit = name.removeprefix("train/").removesuffix("_per_second")
        narrow.append(figure(f"{unit.capitalize()}/s", [Line("", "a", points(rows, name))]))
    narrow.append(figure("MFU", [Line("", "a", points(rows, "train/mfu"))]))
    for score in scores(run):
        lines = evaluated(run, score)
        words = "evaluation" if len(lines) > 1 else f"evaluation {lines[0].words}"
        narrow.append(figure(score.replace("_", " "), lines, words))
    return section(
        "Curves",
        "Over steps; rows that a resume made void are left out.",
        figure("Loss", losses, size=WIDE, settled=True),
        element("div", narrow, class_="curves"),
    )


def evaluated(run: Run, score: str) -> list[Line]:
    """A line for each evaluation that has a score."""
    found = [(name, points(run["rows"], f"{name}/{score}")) for name in run["evals"]]
    drawn = [(name, line) for name, line in found if line]
    return [Line(name, KEYS[i % len(KEYS)], line) for i, (name, line) in enumerate(drawn)]


def scores(run: Run) -> list[str]:
    """Names of the scores of evaluations, without the loss."""
    names = dict.fromkeys(name for row in run["rows"] for name in row)
    pairs = (name.partition("/") for name in names)
    found = dict.fromkeys(score for name, _, score in pairs if name in run["evals"])
    return [score for score in found if score not in ("loss", *APART) and evaluated(run, score)]


def points(rows: Iterable[Mapping[str, Any]], name: str) -> list[Point]:
    return curve.points(list(rows), name, 1.0)


def figure(
    title: str,
    lines: Sequence[Line],
    words: str = "",
    *,
    size: tuple[float, float] = NARROW,
    log: bool = False,
    settled: bool = False,
) -> Markup | None:
    """A chart with its title and what its lines are, each with its last value."""
    kind: dict[str, Any] = dict(size=size, logarithmic=log, settled=settled)
    drawn = line_chart.chart(lines, words=f"{title} over steps", write=number, **kind)
    if drawn is None:
        return None
    named = [line for line in lines if line.points and line.key != "faint"]
    key = [
        element(
            "li",
            element("span", class_=f"swatch line-{line.key}"),
            f"{line.words} {number(line.points[-1][1])}".strip(),
        )
        for line in named
    ]
    head = element("h3", title, " ", element("small", words) if words else None)
    return element("figure", head, element("ul", key, class_="key"), drawn, class_="curve")


def goodput(run: Run) -> Markup | None:
    """Where the time went.

    `run["goodput"]` has "seconds" by kind, "words" on each kind, "wall" seconds, "share", "notes",
    and "attempts": dicts of "began", "seen", "first", "last", "ended", "host", "seconds",
    "to_first".
    """
    found = run["goodput"]
    if not found:
        return None
    seconds = {kind: value for kind, value in found["seconds"].items() if value > 0}
    whole = sum(seconds.values())
    segments = [(kind, kind, value, duration(value)) for kind, value in seconds.items()]
    words = [
        element("li", element("b", kind), f": {found['words'][kind]}") for kind, _, _, _ in segments
    ]
    lead = (
        f"{units.percent(found['share'])} of {duration(found['wall'])} went to steps that count, "
        f"in {units.times(len(found['attempts']), 'attempt')}."
    )
    return section(
        "Goodput",
        lead,
        plan_charts.stacked(segments, whole, group="goodput"),
        plan_charts.legend(segments, whole, "goodput"),
        element("ul", [element("li", note) for note in found["notes"]], class_="warnings"),
        element("h3", "By attempt"),
        element("div", *attempts(found, list(seconds)), class_="attempts"),
        element("details", element("summary", "What the kinds are"), element("ul", words)),
    )


def attempts(found: Mapping[str, Any], kinds: Sequence[str]) -> list[Markup]:
    """The last of them, and the earlier ones folded away; without kinds that took no time."""
    every = found["attempts"]
    kinds = [kind for kind in kinds if any(one["seconds"][kind] >= 0.05 for one in every)]
    heads = ["", "began", "steps", "ended", "first step after", *kinds]
    rows = []
    for i, one in enumerate(every, start=1):
        first = sum(one["to_first"].values())
        rows.append(
            [
                str(i),
                moment(one["began"]),
                f"{one['first']:,} to {one['last']:,}" if first else "none",
                one["ended"] or "no word of it",
                duration(first) if first else "none",
                *(duration(one["seconds"][kind]) for kind in kinds),
            ]
        )
    right = range(4, len(heads))
    shown = table(heads, rows[-SHOWN:], numbers=right)
    if len(rows) <= SHOWN:
        return [shown]
    title = element("summary", f"{units.times(len(rows) - SHOWN, 'earlier attempt')}")
    return [shown, element("details", title, table(heads, rows[:-SHOWN], numbers=right))]


def faults(run: Run) -> Markup | None:
    """What went wrong, as far as the workdir tells; nothing where nothing did."""
    if not run["faults"]:
        return None
    shown = run["faults"][:SHOWN]
    more = len(run["faults"]) - len(shown)
    items = [element("li", f"Step {step:,}: " if step else None, said) for step, said in shown]
    items += [element("li", f"{more:,} more")] if more else []
    return section("Stops and faults", None, element("ul", items, class_="warnings"))


def samples(run: Run) -> Markup | None:
    if run["samples"] is None:
        return None
    texts = [element("div", text, class_="text sample") for text in run["samples"]]
    lead = f"Drawn from the newest checkpoint, step {max(run['checkpoints'], default=0):,}."
    return section("Samples", lead, texts)


def settings(run: Run) -> Markup:
    changed = [row for row in run["config"] if row[2] is not None and row[1] != row[2]]
    lead = f"{units.times(len(changed), 'field')} of {len(run['config']):,} changed from defaults."
    if all(default is None for _, _, default in run["config"]):
        lead = "Its defaults are not known here: the config brings builders of its own."
    code: Callable[[Inside], Markup] = lambda text: element("code", text)  # noqa: E731
    first = [[code(name), code(value), code(default)] for name, value, default in changed]
    rest = [[code(name), code(value)] for name, value, _ in run["config"]]
    return section(
        "Config",
        lead,
        table(["field", "value", "default"], first, numbers=()) if first else None,
        element(
            "details",
            element("summary", "All fields"),
            table(["field", "value"], rest, numbers=()),
        ),
    )


def provenance(run: Run) -> Markup | None:
    if not run["provenance"]:
        return None
    pairs = [
        element("div", element("dt", name), element("dd", text))
        for name, text in run["provenance"].items()
    ]
    return section("Provenance", None, element("dl", pairs))


def number(value: float | None) -> str:
    """Three or four digits of any number."""
    if value is None:
        return units.UNKNOWN
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """ "3 d 4 h", "2 h 5 min", "3 min 7 s", "4.2 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} {int(seconds % length // part)} {smaller}"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def moment(seconds: float) -> str:
    """A time of `time.time`, as the clock here shows it."""
    try:
        return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return units.UNKNOWN
