"""Plans of every sort, one table of them: each view of a plan must be able to show them all."""

import copy

from tests.report.plan_samples import FITS, GIB, WHOLE, layout, sharded, timed


def but(plan, **changes):
    return copy.deepcopy(plan) | changes


def over():
    """2 slices of v6e, too full, with all that can be said of a plan."""
    memory = dict(zip(FITS["memory"], (x * GIB for x in (1.0, 2.1, 1.0, 29.4, 1.9)), strict=True))
    collectives = copy.deepcopy(FITS["collectives"])
    collectives.append(
        collectives[3] | {"axes": ["data"], "network": "DCN", "devices": 2, "synchronous": True}
    )
    plan = but(
        FITS,
        topology="v6e:16x16",
        slices=2,
        chips=512,
        devices=512,
        device="TPU v6e",
        mesh=WHOLE | {"data": 2, "fsdp": 256},
        slice_axis="data",
        layout=layout(remat_save=["out", "query"], remat_offload=["in"], accumulate=2),
        fits=False,
        hbm_limit_bytes=31.24 * GIB,
        memory=memory,
        host_bytes=12 * GIB,
        collectives=collectives,
        sharding=sharded(WHOLE | {"data": 2, "fsdp": 256}),
        flags_refused=["xla_tpu_enable_async_collective_fusion_fuse_all_gather", "xla_tpu_x"],
        warnings=[
            "the compiler recomputes by itself (12 operations): it ran out of room, and "
            "predictions are 19 to 29 % off there",
            "all-reduce over data (DCN) of layers/feedforward/gate is synchronous",
        ],
        changes=[
            {"change": c, "fits": f, "hbm_bytes": b * GIB, "step_seconds": s}
            for c, f, b, s in (
                ({"remat_save": []}, False, 33.1, 26.4),
                ({"accumulate": 4}, True, 27.7, 25.9),
                ({"mesh": {"data": 2, "fsdp": 64, "tensor": 4}}, True, 19.2, 29.8),
            )
        ],
    )
    plan["time"] |= {"host_exposed": 0.4, "bubble": 0.0}
    peak, bandwidth = 9.18e14, 1.64e12
    plan["roofline"] |= {"peak_flops": peak, "hbm_bandwidth": bandwidth}
    for row in plan["roofline"]["operations"]:
        row["seconds"] = max(row["flops"] / peak / 0.735, row["bytes"] / bandwidth)
    return timed(plan)


def searched(objective="time", rows=16):
    """A search, its best layout planned, a few compiled, the last one too large."""
    remats = (("full", []), ("selective", ["out"]), ("none", []))
    layouts = []
    for i in range(rows):
        tensor = (4, 8, 2, 1, 16)[i % 5]
        remat, saved = remats[i % 3]
        grow = 1 + 0.06 * i
        memory = {k: b * (1.16 if i == rows - 1 else 0.55 + i % 7 / 15) for k, b in MEMORY.items()}
        memory["activations"] *= 1.6 if i == rows - 1 else 1
        time = {k: s * (grow if k == "collectives_exposed" else grow**0.8) for k, s in TIME.items()}
        step = sum(time.values()) - time["collectives_hidden"]
        layouts.append(
            {
                "mesh": WHOLE | {"fsdp": 256 // tensor, "tensor": tensor},
                "layout": layout(remat=remat, remat_save=saved, accumulate=1 + i % 2),
                "compiled": "schedule" if i < 6 else "analytic",
                "fits": i < rows - 1,
                "hbm_bytes": sum(memory.values()),
                "hbm_limit_bytes": FITS["hbm_limit_bytes"],
                "memory": memory,
                "step_seconds": step,
                "time": time,
                "mfu": FITS["mfu"] * FITS["step_seconds"] / step,
                "tokens_per_second_per_chip": 512 * 8192 / step / 256,
                "dollars_per_million_tokens": 1.4 * grow if objective == "cost" else None,
                "chips": 256 if objective != "chips" else 64 + 64 * (i // 2),
            }
        )
    search = {
        "objective": objective,
        "admissible": 1384,
        "considered": 1210,
        "analytic_seconds": 4.1,
        "complete": rows != 3,
        "layouts": layouts,
    }
    return but(FITS, search=search)


MEMORY, TIME = FITS["memory"], FITS["time"]
UNKNOWN = but(
    FITS,
    topology="cpu:8",
    chips=8,
    devices=8,
    device="cpu",
    mesh=WHOLE | {"fsdp": 8},
    compiled="full",
    fits=None,
    hbm_limit_bytes=None,
    step_seconds=None,
    time=None,
    mfu=None,
    mfu_full_attention=None,
    tokens_per_second=None,
    tokens_per_second_per_chip=None,
    roofline=FITS["roofline"] | {"peak_flops": None, "hbm_bandwidth": None, "operations": []},
    collectives=[row | {"seconds": None, "exposed_seconds": None} for row in FITS["collectives"]],
    scaling=[],
)
GPU = but(
    FITS,
    topology="gpu:h200:32x8",
    device="NVIDIA H200",
    hbm_limit_bytes=141e9,
    versions={"jax": "0.10.2", "jax-cuda12-plugin": "0.10.2", "bigmodel": "0.1.0"},
    dollars_per_million_tokens=1.87,
)
DECODE = timed(
    but(
        FITS,
        task="decode",
        topology="v5e:2x4",
        chips=8,
        devices=8,
        device="TPU v5e",
        mesh=WHOLE | {"tensor": 8},
        layout=layout(batch=8, length=8192, remat="none"),
        hbm_limit_bytes=15.75 * GIB,
        time=dict.fromkeys(FITS["time"], 0.0) | {"matrix": 0.0112, "other": 0.0021},
        memory=dict.fromkeys(FITS["memory"], 0.0) | {"parameters": 8.2 * GIB, "other": 1.1 * GIB},
        flops={"causal": 1.1e12, "full": 1.1e12, "compiled_per_device": 1.4e11},
        flops_per_step=1.1e12,
        collectives=[
            row | {"seconds": 2e-4, "exposed_seconds": 1e-4} for row in FITS["collectives"][4:6]
        ],
        roofline={
            "peak_flops": 1.97e14,
            "hbm_bandwidth": 8.2e11,
            "flops": 1.4e11,
            "hbm_bytes": 9.1e9,
            "operations": [
                {"name": name, "flops": 15.0 * b, "bytes": b, "seconds": b / 8.2e11, "times": 80}
                for name, b in (("layers/feedforward/up", 2.9e9), ("head", 2.6e8))
            ],
        },
        scaling=[],
    )
)
ALONE = but(
    FITS,
    topology="v5p:1x1x1",
    chips=1,
    devices=1,
    mesh=WHOLE,
    sharding=sharded(WHOLE),
    collectives=[],
    largest_buffers=[],
    compiled="analytic",
    compile_seconds=None,
    scaling=FITS["scaling"][:1],
)
HOSTILE = but(
    FITS,
    config={"path": "<b>&\"'", "argument": "", "overrides": ["model.x=<script>"]},
    warnings=["a <i>warning</i> & more " * 40] * 12,
    flags_refused=["xla_<flag>"] * 40,
    largest_buffers=[row | {"name": "<u>" + "layer/" * 60} for row in FITS["largest_buffers"]],
    collectives=[row | {"layer": "<u>" + "layer/" * 60} for row in FITS["collectives"]],
    sharding={"params/<u>&/" + k: v for k, v in FITS["sharding"].items()},
)
HOSTILE["roofline"]["operations"][0]["name"] = "<u>&gate"

PLANS = {
    "fits": FITS,
    "over": over(),
    "search": searched(),
    "search_cost": searched("cost"),
    "search_chips_cut_short": searched("chips", rows=3),
    "unknown_chip": UNKNOWN,
    "gpu": GPU,
    "decode": DECODE,
    "alone": ALONE,
    "hostile": HOSTILE,
}
