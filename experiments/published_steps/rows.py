"""Published steps as configs of bigmodel: the very step that would train.

A row of rows.json says what was published in its own words; here each word is given its meaning,
by rules that hold for every row.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import bigmodel
from bigmodel import costs

HERE = pathlib.Path(__file__).parent

# What the published models have beside the sizes that a row names, by how their names begin.
DECODER = dict(norm="rms", position="rope", feedforward="swiglu", bias=False, tied=False)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama3": dict(rope_theta=5e5),
    "qwen3": dict(rope_theta=1e6, qk_norm="rms", tied=True),
    "mixtral": dict(rope_theta=1e6),
}
# Names of activations: the publications' and bigmodel's.
ACTIVATIONS = {
    "layer input": "input",
    "q": "query",
    "k": "key",
    "v": "value",
    "attention output": "attention",
    "attention output projection": "out",
    "gate": "gate",
    "up": "up",
    "mlp output": "down",
}
# The publications save the attention's projection; the sum that it goes into serves as well.
ALL_PROJECTIONS = ("query", "key", "value", "gate", "up", "residual")

# What the recipes give the compiler where activations go to the host's memory: HOST_OFFLOAD_FLAGS
# and DENSE_VMEM_LIMIT_FLAG of MaxText's benchmarks/xla_flags_library.py.
OFFLOAD_FLAGS = {
    "xla_tpu_scoped_vmem_limit_kib": "98304",
    "xla_tpu_enable_all_experimental_scheduler_features": "true",
    "xla_tpu_enable_scheduler_memory_pressure_tracking": "true",
    "xla_tpu_host_transfer_overlap_limit": "24",
    "xla_tpu_aggressive_opt_barrier_removal": "ENABLED",
    "xla_lhs_prioritize_async_depth_over_stall": "ENABLED",
    "xla_tpu_enable_ag_backward_pipelining": "true",
    "xla_should_allow_loop_variant_parameter_in_chain": "ENABLED",
    "xla_should_add_loop_invariant_op_in_chain": "ENABLED",
    "xla_max_concurrent_host_send_recv": "100",
    "xla_tpu_scheduler_percent_shared_memory_limit": "100",
    "xla_latency_hiding_scheduler_rerun": "2",
}
# The published steps make all logits at once, or (num_vocab_tiling=4) in four pieces; those of
# bigmodel by itself are smaller and read the head once for each: 12 % of a step of Llama 3.1 8B
# on v6e.
LOGITS_IN = 4
BLOCKS = ("block_q", "block_kv", "block_kv_compute")


def read(path: pathlib.Path = HERE / "rows.json") -> list[dict[str, Any]]:
    """The rows of a file of the form of rows.json."""
    return json.loads(path.read_text())["rows"]


def config(row: Mapping[str, Any]) -> ConfigDict:
    """A row as the config whose step is predicted."""
    made = bigmodel.default_config().copy_and_resolve_references().unlock()
    model = dict(row["model"])
    name = model.pop("name")
    for begin, fields in FAMILIES.items():
        made.model.update(**(fields if name.startswith(begin) else {}))
    remat, save, offload = remat_of(row["remat"])
    made.model.update(
        **{field: value for field, value in DECODER.items() if field != "tied"},
        **model,
        tied=made.model.tied if name.startswith("qwen3") else False,
        length=row["seq"],
        dropout=0.0,
        dtype=row.get("compute_dtype", "bfloat16"),
        param_dtype=row.get("weight_dtype", "float32"),
        remat=remat,
        remat_save=save,
        remat_offload=offload,
    )
    made.data.update(length=row["seq"])
    made.objective.chunk = row["seq"] // LOGITS_IN
    made.batch = round(row["batch_per_device"] * devices(row))
    made.mesh_slices = row["slices"]
    made.mesh.update(row["mesh"])
    if row["mesh"].get("tensor", 1) > 1:  # so the published runs cut the residual stream
        made.extra_rules = (("act_embed", "tensor"),)
    made.optimizer.update(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, clip=1.0)
    made.optimizer.mu_dtype = row.get("weight_dtype", "float32")  # MaxText's default
    made.compiler = ConfigDict(compiler(row, bool(offload)))
    return made.lock()


def devices(row: Mapping[str, Any]) -> int:
    kind, _, shape = row["topology"].partition(":")
    chips = math.prod(int(n) for n in shape.split("x")) * row["slices"]
    return chips * costs.GENERATIONS[kind].devices


def remat_of(words: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """What is recomputed, as a policy and the activations that are saved and that go to the host.

    "full", "none", "save all projections", or lists such as "save: q, k, v" and "offload: layer
    input", two of them with a semicolon between.
    """
    if words in ("full", "none"):
        return words, (), ()
    if words == "save all projections":
        return "names", ALL_PROJECTIONS, ()
    lists: dict[str, tuple[str, ...]] = {"save": (), "offload": ()}
    for part in words.split(";"):
        what, _, of = part.strip().partition(":")
        lists[what] = tuple(ACTIVATIONS[one.strip()] for one in of.split(","))
    return "names", lists["save"], lists["offload"]


def compiler(row: Mapping[str, Any], offloads: bool) -> dict[str, Any]:
    """XLA options and sizes of the attention kernel's blocks."""
    found: dict[str, Any] = dict(OFFLOAD_FLAGS) if offloads else {}
    found |= dict(flag.split("=") for flag in row.get("flags", "").split())
    if block := row.get("splash_block"):
        for name in BLOCKS:
            found |= {name: block, f"backward_{name}": block}
        found["fused_backward"] = row.get("splash_fused", True)
    return found
