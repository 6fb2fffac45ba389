r"""Draws cases that nothing was chosen by, for run.py to compile.

python experiments/memory_model/draw.py --first 800 --count 40 --seed 1    # adds to cases.json
"""

import argparse
import json
import math
import random

import run

import bigmodel
from bigmodel import plan as planner
from bigmodel.plan import answer, estimate, search

MODELS = {
    "llama.py:8b": (2048, 4096, 8192, 32768),
    "llama.py:70b": (4096, 8192),
    "llama.py:1b": (2048, 8192),
    "llama.py:2-13b": (4096,),
    "qwen.py:3-8b": (4096, 16384),
    "qwen.py:3-32b": (4096,),
    "qwen.py:2.5-7b": (4096,),
    "qwen.py:3-0.6b": (1024, 4096),
    "qwen.py:3-30b-a3b": (4096,),
    "gemma.py:2-9b": (4096, 8192),
    "gemma.py:3-4b": (8192,),
    "mixtral.py:8x7b": (4096,),
    "gpt.py:1.5b": (1024,),
}
CHIPS = {
    "v4": ("2x2x4", "4x4x4", "4x4x8"),
    "v5e": ("4x4", "8x8", "16x16"),
    "v5p": ("2x2x4", "4x4x4", "4x4x8", "8x8x8"),
    "v6e": ("4x4", "8x8", "16x16"),
    "tpu7x": ("2x2x4", "4x4x4"),
}
SHARE = (0.25, 1.35)  # of a device's memory by the analytic model: where it matters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=800)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    path, rng = run.HERE / "cases.json", random.Random(given.seed)
    cases = json.loads(path.read_text())
    drawn: list[dict] = []
    while len(drawn) < given.count:
        if case := draw(rng, given.first + len(drawn)):
            drawn.append(case)
            print(case["id"], flush=True)
    path.write_text("[\n" + ",\n".join(map(json.dumps, cases + drawn)) + "\n]\n")


def draw(rng: random.Random, number: int) -> dict | None:
    """A case, or None where none of this model, chip and batch is of the size that matters."""
    model = rng.choice(list(MODELS))
    chip = rng.choice(list(CHIPS))
    shape, slices = rng.choice(CHIPS[chip]), rng.choice((1, 1, 1, 2, 4))
    chips = math.prod(map(int, shape.split("x"))) * slices
    fields = {
        "batch": chips * rng.choice((1, 2, 4, 8, 16)),
        "data.length": rng.choice(MODELS[model]),
        "optimizer.name": rng.choice(("adamw", "adamw", "adamw", "lion", "adafactor")),
    }
    if "mixtral" in model or "a3b" in model:
        fields["model.expert_capacity"] = rng.choice((0.0, 1.25))
    loaded = bigmodel.load_config(str(run.ROOT / "configs" / model), {**fields, "mesh.fsdp": -1})
    request = planner.make_request(loaded, f"{chip}:{shape}", slices=slices)
    limit, found = answer.limit_of(request.topology), []
    for mesh, change, setup in search.layouts(request.loaded.config, request.topology):
        if mesh["stage"] > 1 or rng.random() < 0.5:  # pipelines are few, and have their own numbers
            continue
        share = estimate.estimate(setup, request.topology).hbm_bytes / limit
        if SHARE[0] <= share <= SHARE[1]:
            found.append((mesh, dict(change)))
    if not found:
        return None
    mesh, change = rng.choice(found)
    change.pop("pipeline.microbatches")
    if mesh["context"] > 1 and rng.random() < 0.5 and "gemma" not in model:
        change["model.context_attention"] = "all_to_all"
    more = {"mesh_slices": slices} if slices > 1 else {}
    widest = max(mesh, key=lambda axis: mesh[axis])
    name = model.partition(".py:")[0] + "-" + model.partition(":")[2]
    return {
        "id": f"{number}-{name}-{chip}-{widest}-{change['model.remat']}",
        "config": f"configs/{model}",
        "topology": f"{chip}:{shape}",
        "slices": slices,
        "overrides": {k: listed(v) for k, v in {**fields, **change, **more}.items()},
    }


def listed(value):
    """A tuple as a flag gives it."""
    return str(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    main()
