r"""Predicted against published training steps: error of each row, mean, median, worst, a picture.

    python experiments/published_steps/run.py               # goes on where it was
    python experiments/published_steps/run.py --calibrate   # one constant per generation
    python experiments/published_steps/run.py --rows FILE --out FOLDER    # other rows, same form

Nothing is fitted per row: the constants are `efficiency` in bigmodel/costs/chips.py, one of a
generation, from the one row of it that says "calibrate".
"""

import argparse
import functools
import hashlib
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import picture
import rows

import bigmodel
from bigmodel import plan
from bigmodel.plan import answer, calibrate, compiling, requests

HERE = pathlib.Path(__file__).parent
BAR = {"mean": 0.10, "median": 0.08}  # of the rows to judge by
MARK = "<!-- results -->"
Row = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=pathlib.Path, default=HERE / "rows.json")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--only", nargs="*", default=[], help="rows whose names hold one of these")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--calibrate", action="store_true")
    arguments = parser.parse_args()
    listed = rows.read(arguments.rows)
    chosen = [r for r in listed if not arguments.only or any(o in r["id"] for o in arguments.only)]
    if arguments.calibrate:
        fit(chosen, arguments.workers)
        return
    path = arguments.out / "results.json"
    found = (
        {one["id"]: one for one in json.loads(path.read_text())["rows"]} if path.exists() else {}
    )
    todo = [row for row in chosen if found.get(row["id"], {}).get("key") != key_of(row)]
    failed = []
    for row, request, compiled in compile_rows(todo, arguments.workers):
        if isinstance(compiled, Exception):
            failed.append(f"{row['id']}: {compiled}")
            continue
        found[row["id"]] = result(row, request, compiled) | {"key": key_of(row)}
        print(line(found[row["id"]]), flush=True)
        write(path, [found[r["id"]] for r in listed if r["id"] in found])
    kept = [found[r["id"]] for r in listed if r["id"] in found]
    write(path, kept)
    picture.draw(kept, arguments.out / "steps.png")
    readme = arguments.out / "README.md"
    if readme.exists():
        head, _, rest = readme.read_text().partition(MARK)
        readme.write_text(f"{head}{MARK}\n{table(kept)}\n{MARK}{rest.partition(MARK)[2]}")
    print(table(kept))
    if failed:
        sys.exit("\n".join(["without a result:", *failed]))


def key_of(row: Row) -> str:
    """A result holds for a row, a library and the compilers' versions."""
    versions = [requests.version(package) for package in ("jax", "libtpu")]
    whole = json.dumps([row, sources(), versions], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


@functools.cache
def sources() -> str:
    """Hash of the library's text and of the rules for rows."""
    library = sorted(pathlib.Path(bigmodel.__file__).parent.rglob("*.py"))
    texts = [path.read_text() for path in [*library, HERE / "rows.py"]]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def compile_rows(todo: Sequence[Row], workers: int) -> Iterator[tuple[Row, Any, Any]]:
    """Each row with its request and what the compiler said, as they are through."""
    wanted = [
        plan.make_request(rows.config(row), row["topology"], slices=row["slices"]) for row in todo
    ]
    for number, compiled in compiling.compile_all(wanted, workers=workers):
        yield todo[number], wanted[number], compiled


def result(row: Row, request: Any, compiled: Any) -> dict[str, Any]:
    """What is kept of a row: numbers, versions and what the plan warns of."""
    told = answer.plan(request, compiled)
    measured = row["measured_step_seconds"]
    return {
        "id": row["id"],
        "use": row["use"],
        "generation": request.topology.kind,
        "measured_seconds": measured,
        "predicted_seconds": told["step_seconds"],
        "error": told["step_seconds"] / measured - 1,
        "time": told["time"],
        "hbm_bytes": told["hbm_bytes"],
        "hbm_limit_bytes": told["hbm_limit_bytes"],
        "fits": told["fits"],
        "flags": flags(told),
        "compile_seconds": round(told["compile_seconds"], 1),
        "versions": told["versions"],
    }


def flags(told: Mapping[str, Any]) -> list[str]:
    """Why a row's prediction promises less: by rules that look at the plan alone."""
    said = " ".join(told["warnings"])
    marks = {
        "over-full": told["fits"] is False,
        "recomputes": "recomputes by itself" in said,
        "memory's edge": told["fits"]
        and told["hbm_bytes"] > (1 - answer.EDGE) * told["hbm_limit_bytes"],
        "host offload": told["host_bytes"] > 0,
        "short": told["step_seconds"] < answer.SHORT_SECONDS,
    }
    return [mark for mark, yes in marks.items() if yes]


def fit(chosen: Sequence[Row], workers: int) -> None:
    """Prints the constant of each generation that makes its calibration row exact."""
    for row, request, compiled in compile_rows(
        [row for row in chosen if row["use"] == "calibrate"], workers
    ):
        if isinstance(compiled, Exception):
            raise compiled
        value = calibrate.fit(request, compiled, row["measured_step_seconds"])
        chip = request.topology.chip
        print(f"{chip.name:10} {value:.3f}  (the table has {chip.efficiency}; from {row['id']})")


def summary(found: Sequence[Row], use: str) -> dict[str, float]:
    errors = [abs(one["error"]) for one in found if one["use"] == use]
    if not errors:
        return {}
    middle = {"mean": statistics.mean(errors), "median": statistics.median(errors)}
    return {"rows": len(errors), **middle, "worst": max(errors)}


def write(path: pathlib.Path, found: Sequence[Row]) -> None:
    about = {
        "bigmodel": bigmodel.__version__,
        "bar": BAR,
        **{use: summary(found, use) for use in ("judge", "check")},
    }
    path.write_text(json.dumps({"about": about, "rows": list(found)}, indent=1) + "\n")


def line(one: Row) -> str:
    marks = ", ".join(one["flags"])
    return (
        f"{one['id']:27} {one['predicted_seconds']:9.3f} s predicted, "
        f"{one['measured_seconds']:9.3f} s measured, {one['error']:+7.1%}  {marks}"
    )


def table(found: Sequence[Row]) -> str:
    """The results as Markdown."""
    lines = [
        "| row | use | measured, s | predicted, s | error | flagged |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in found:
        numbers = f"{one['measured_seconds']:.4g} | {one['predicted_seconds']:.4g}"
        marks = ", ".join(one["flags"])
        lines.append(f"| {one['id']} | {one['use']} | {numbers} | {one['error']:+.1%} | {marks} |")
    for use in ("judge", "check"):
        if told := summary(found, use):
            numbers = ", ".join(f"{name} {told[name]:.1%}" for name in ("mean", "median", "worst"))
            lines += ["", f"{told['rows']} rows to {use}: {numbers}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
