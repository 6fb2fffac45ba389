r"""How should Llama 3.1 70B be laid on 256 chips of v5p, and of v6e?

    python experiments/sharding_study/run.py             # searches, resumes, writes results.json
    python experiments/sharding_study/run.py --pages     # the report pages, from what is there

For each chip and batch the layouts are searched and the best few compiled; the published layout of
v6e (AI-Hypercomputer/tpu-recipes, training/trillium) is compiled beside them.
"""

import argparse
import json
import pathlib
import sys

import bigmodel
from bigmodel import plan as planner
from bigmodel.plan import answer, compiling, search
from bigmodel.report import plan_page

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.json"
CONFIG = HERE.parents[1] / "configs" / "llama.py"
CHIPS = {"v5p": "v5p:4x8x8", "v6e": "v6e:16x16"}
BATCHES = (1280, 512, 2048, 256)  # rows of 8,192 tokens; 1,280 is the published run's
COMPILED = 12
PUBLISHED = {
    "mesh.fsdp": 256,
    "model.remat": "names",
    "model.remat_offload": ("input", "query", "key", "value"),
}
# Of both: blocks of 2,048 in attention, and the room for fusions that the published run gives.
COMPILER = dict.fromkeys(
    (
        *("block_q", "block_kv", "block_kv_compute"),
        *("backward_block_q", "backward_block_kv", "backward_block_kv_compute"),
    ),
    2048,
) | {"xla_tpu_scoped_vmem_limit_kib": 98304}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true")
    pages = parser.parse_args().pages
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for chip, topology in CHIPS.items():
        for batch in BATCHES:
            key = f"{chip}-{batch}"
            if key not in results and not pages:
                results[key] = study(topology, batch)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            if pages and batch == 1280 and key in results:
                (HERE / f"{chip}.html").write_text(plan_page.page(results[key]["best"]))
            if key in results:
                print(line(key, results[key]), flush=True)


def request_of(topology: str, batch: int, **more):
    loaded = bigmodel.load_config(f"{CONFIG}:70b")
    fields = {"batch": batch, "mesh.fsdp": -1, **more}
    loaded = planner.changed(loaded, [*fields.items(), ("compiler", COMPILER)])
    return planner.make_request(loaded, topology)


def study(topology: str, batch: int) -> dict:
    """The search's answer, and the published layout's."""
    request = request_of(topology, batch)
    best = search.plan(request, objective="time", compiled=COMPILED, say=say)
    best["config"]["path"] = "configs/llama.py"  # not where it lay on this machine
    published = request_of(topology, batch, **PUBLISHED)
    try:
        known = answer.plan(published, compiling.compile_one(published))
    except compiling.CompileError as error:
        known = {"fits": False, "error": str(error), "step_seconds": None, "mfu": None}
    kept = ("fits", "step_seconds", "mfu", "hbm_bytes", "time", "memory")
    return {"best": best, "published": {name: known.get(name) for name in kept}}


def line(key: str, found: dict) -> str:
    rows = [r for r in found["best"]["search"]["layouts"] if r["compiled"] != "analytic"]
    known = found["published"]
    text = f"{key:10}" + " | ".join(words(row) for row in rows[:3])
    if known["step_seconds"]:
        text += f" | published layout {known['step_seconds']:.2f} s"
        text += f", best found {rows[0]['step_seconds'] / known['step_seconds']:.2f} times that"
    return text


def words(row: dict) -> str:
    mesh = " x ".join(f"{axis} {n}" for axis, n in row["mesh"].items() if n > 1)
    layout = row["layout"]
    kept = "+".join(layout["remat_save"]) + (
        " host:" + "+".join(layout["remat_offload"]) if layout["remat_offload"] else ""
    )
    return (
        f"{row['step_seconds']:.2f} s (MFU {row['mfu']:.1%}, {row['hbm_bytes'] / 2**30:.0f} GiB) "
        f"{mesh}, {layout['rules']}, {layout['remat']} {kept}, x{layout['accumulate']}"
    )


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
