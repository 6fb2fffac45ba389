r"""How near the analytic memory of `bigmodel plan` comes to the compiler's.

    python experiments/memory_model/run.py               # compiles what is missing, then reports
    python experiments/memory_model/run.py --report      # of what is there

Compiles each row of cases.json (draw.py adds some) up to its schedule, keeps what its buffers add
up to in compiled.json (resumable), and holds bigmodel/plan/analytic.py against it: table.csv,
picture.png.
"""

import argparse
import csv
import json
import pathlib
import statistics

import bigmodel
from bigmodel.plan import answer, compiling, estimate, make_request, memory
from bigmodel.plan.program import Program
from bigmodel.plan.requests import Request

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
COMPILED = HERE / "compiled.json"
GIB = 2**30
HELD_OUT = 800  # cases from this number on were drawn when the model's form was found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="compile nothing")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    cases = json.loads((HERE / "cases.json").read_text())
    compiled = json.loads(COMPILED.read_text()) if COMPILED.exists() else {}
    missing = [] if given.report else [case for case in cases if case["id"] not in compiled]
    requests = [request_of(case) for case in missing]
    for number, found in compiling.compile_all(requests, workers=given.workers):
        compiled[missing[number]["id"]] = row = measured(requests[number], found)
        COMPILED.write_text(json.dumps(compiled, indent=0) + "\n")
        print(len(compiled), missing[number]["id"], row, flush=True)
    rows = [held(case, compiled[case["id"]]) for case in cases if case["id"] in compiled]
    report([row for row in rows if row["compiled_gib"]])


def request_of(case: dict) -> Request:
    loaded = bigmodel.load_config(f"{ROOT / case['config']}", case["overrides"])
    return make_request(loaded, case["topology"], slices=case["slices"])


def measured(request: Request, found: compiling.Found | Exception) -> dict:
    """What the compiler said: bytes of a device, or why there are none."""
    if isinstance(found, Exception):
        return {"error": str(found)}
    whole = memory.held(
        Program(found.program), found.allocations, found.live, found.meta, trains=True
    )
    return {
        "hbm_bytes": whole.total,
        "fits": not found.overfull and whole.total <= answer.limit_of(request.topology),
        "host_bytes": whole.host,
        "recomputes": found.program.count(".remat"),
        "seconds": round(found.seconds, 1),
    }


def held(case: dict, row: dict) -> dict:
    """A line of the table."""
    request = request_of(case)
    limit = answer.limit_of(request.topology) / GIB
    guess = estimate.of(request)
    true, said = row.get("hbm_bytes", 0) / GIB, guess.hbm_bytes / GIB
    return {
        "id": case["id"],
        "config": case["config"].removeprefix("configs/"),
        "topology": case["topology"],
        "slices": case["slices"],
        "overrides": " ".join(f"{k}={v}" for k, v in case["overrides"].items() if v != 1),
        "limit_gib": limit,
        "compiled_gib": round(true, 3),
        "analytic_gib": round(said, 3),
        "error": round(said / true - 1, 4) if true else None,
        "falsely_fits": said <= limit and true > 1.05 * limit,
    }


def report(rows: list[dict]) -> None:
    with open(HERE / "table.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    groups = {"all": rows}
    groups["held out"] = [row for row in rows if int(row["id"][:3]) >= HELD_OUT]
    for row in rows:
        groups.setdefault(row["topology"].partition(":")[0], []).append(row)
        groups.setdefault(f"{row['slices']} slices", []).append(row)
        groups.setdefault(row["config"].partition(".")[0], []).append(row)
    for name, group in groups.items():
        errors = [abs(row["error"]) for row in group]
        near = sum(error <= 0.1 for error in errors)
        falsely = sum(row["falsely_fits"] for row in group)
        print(
            f"{name:10} {len(group):4} cases  within 10 %: {near:4} ({near / len(group):4.0%})  "
            f"median {statistics.median(errors):5.1%}  mean {statistics.fmean(errors):5.1%}  "
            f"worst {max(errors):4.0%}  falsely fit: {falsely}"
        )
    picture(rows)


def picture(rows: list[dict]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    for kind in ("v4", "v5e", "v5p", "v6e", "tpu7x"):
        own = [row for row in rows if row["topology"].startswith(f"{kind}:")]
        x = [row["compiled_gib"] / row["limit_gib"] for row in own]
        y = [row["analytic_gib"] / row["limit_gib"] for row in own]
        left.plot(x, y, "o", markersize=4, alpha=0.7, label=f"{kind} ({len(own)})")
    ends = [0.1, 2.0]
    left.plot(ends, ends, color="grey", linewidth=1)
    for factor in (0.9, 1.1):
        left.plot(ends, [factor * end for end in ends], color="grey", linewidth=0.6, linestyle=":")
    left.axhline(1, color="grey", linewidth=0.6)
    left.axvline(1, color="grey", linewidth=0.6)
    left.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    ticks = [0.1, 0.2, 0.5, 1, 2]
    left.set(xticks=ticks, xticklabels=ticks, yticks=ticks, yticklabels=ticks)
    left.minorticks_off()
    left.set(xlabel="compiler: share of a device's memory", ylabel="analytic: share of it")
    left.legend()
    errors = [100 * row["error"] for row in rows]
    right.hist(errors, bins=[2 * n for n in range(-30, 31)])
    right.set(xlabel="analytic against compiler, %", ylabel="cases")
    figure.tight_layout()
    figure.savefig(HERE / "picture.png", dpi=110)


if __name__ == "__main__":
    main()
