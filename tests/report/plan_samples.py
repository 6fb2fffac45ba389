"""A plan as `bigmodel plan --json` prints it: 70B on 256 chips, with numbers of a likely size."""

GIB = 2.0**30
WHOLE = {"data": 1, "stage": 1, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
L, D, F, V = 80, 8192, 28672, 128256


def layout(**changes):
    return {
        "rules": "fsdp_tensor",
        "extra_rules": [],
        "remat": "full",
        "remat_save": [],
        "remat_offload": [],
        "batch": 512,
        "length": 8192,
        "accumulate": 1,
        "microbatches": 0,
        "repeats": 1,
        "offload": False,
    } | changes


def sharded(mesh):
    """Where the parameters of a 70B decoder lie on a mesh."""
    cut = {axis: ["tensor"] for axis in ("mlp", "heads", "kv_heads", "vocab")}
    cut |= {"embed": ["fsdp", "expert", "context"], "layers": ["stage"]}
    rows = {
        "embedding/embedding": ((V, D), ("vocab", "embed")),
        "layers/attention/query/kernel": ((L, D, 64, 128), ("layers", "embed", "heads", None)),
        "layers/attention/key/kernel": ((L, D, 8, 128), ("layers", "embed", "kv_heads", None)),
        "layers/attention/value/kernel": ((L, D, 8, 128), ("layers", "embed", "kv_heads", None)),
        "layers/attention/out/kernel": ((L, 64, 128, D), ("layers", "heads", None, "embed")),
        "layers/feedforward/gate/kernel": ((L, D, F), ("layers", "embed", "mlp")),
        "layers/feedforward/up/kernel": ((L, D, F), ("layers", "embed", "mlp")),
        "layers/feedforward/down/kernel": ((L, F, D), ("layers", "mlp", "embed")),
        "layers/attention_norm/scale": ((L, D), ("layers", "norm")),
        "layers/feedforward_norm/scale": ((L, D), ("layers", "norm")),
        "norm/scale": ((D,), ("norm",)),
        "head/kernel": ((D, V), ("embed", "vocab")),
    }
    found = {}
    for path, (shape, logical) in rows.items():
        whole, parts = 4, 1
        axes = [cut.get(axis, []) for axis in logical]
        for length in shape:
            whole *= length
        for axis in (axis for dim in axes for axis in dim):
            parts *= mesh[axis]
        found[f"params/{path}"] = {
            "shape": list(shape),
            "dtype": "float32",
            "logical": list(logical),
            "axes": axes,
            "bytes": whole,
            "bytes_per_device": whole // parts,
        }
    return found


def timed(plan):
    """The same plan, its totals as its parts say."""
    plan["step_seconds"] = sum(s for k, s in plan["time"].items() if k != "collectives_hidden")
    plan["hbm_bytes"] = sum(plan["memory"].values())
    device = plan["step_seconds"] * plan["devices"] * plan["roofline"]["peak_flops"]
    plan["mfu"] = plan["flops"]["causal"] / device
    plan["mfu_full_attention"] = plan["flops"]["full"] / device
    plan["tokens_per_second"] = 512 * 8192 / plan["step_seconds"]
    plan["tokens_per_second_per_chip"] = plan["tokens_per_second"] / plan["chips"]
    return plan


OPERATIONS = (  # name, FLOPs, bytes, seconds, of a device and step; times
    ("layers/feedforward/gate", 1.97e15, 5.2e12, 4.35, 240),
    ("layers/feedforward/up", 1.97e15, 5.2e12, 4.35, 240),
    ("layers/feedforward/down", 1.97e15, 5.6e12, 4.38, 240),
    ("layers/attention/query", 5.6e14, 2.2e12, 1.26, 240),
    ("layers/attention/out", 5.6e14, 2.3e12, 1.27, 240),
    ("layers/attention/key", 7.0e13, 1.5e12, 0.58, 240),
    ("layers/attention/value", 7.0e13, 1.5e12, 0.58, 240),
    ("layers/attention/splash", 3.9e14, 0.6e12, 1.62, 320),
    ("head", 1.1e14, 0.41e12, 0.26, 3),
    ("layers/attention_norm", 6.0e11, 2.1e12, 0.77, 240),
    ("layers/feedforward_norm", 6.0e11, 2.1e12, 0.77, 240),
    ("optimizer", 9.0e9, 1.6e10, 0.0062, 14),
    ("loss", 4.0e11, 8.0e11, 0.29, 4),
    ("layers/copy", 0.0, 1.2e12, 0.43, 160),
)
# fmt: off
KEYS = (
    "kind", "axes", "devices", "bytes", "times", "layer", "synchronous", "seconds",
    "exposed_seconds",
)
COLLECTIVES = (
    ("all-gather", "fsdp", 64, 1.835e6, 80, "layers/feedforward/gate", False, 0.41, 0.0),
    ("all-gather", "fsdp", 64, 1.835e6, 80, "layers/feedforward/up", False, 0.41, 0.02),
    ("all-gather", "fsdp", 64, 1.835e6, 160, "layers/feedforward/down", False, 0.82, 0.11),
    ("reduce-scatter", "fsdp", 64, 2.35e8, 80, "layers/feedforward/gate", False, 0.44, 0.2),
    ("all-reduce", "tensor", 4, 1.34e8, 160, "layers/feedforward/down", True, 1.31, 1.31),
    ("all-reduce", "tensor", 4, 1.34e8, 160, "layers/attention/out", True, 1.31, 1.31),
    ("all-gather", "fsdp", 64, 5.2e5, 240, "layers/attention/query", False, 0.35, 0.0),
    ("all-gather", "fsdp", 64, 5.2e5, 240, "layers/attention/out", False, 0.35, 0.0),
    ("all-gather", "fsdp", 64, 6.6e4, 240, "layers/attention/key", False, 0.06, 0.0),
    ("all-gather", "fsdp", 64, 6.6e4, 240, "layers/attention/value", False, 0.06, 0.0),
    ("collective-permute", "tensor", 4, 3.3e7, 12, "head", False, 0.02, 0.01),
    ("all-reduce", "fsdp tensor", 256, 4.0, 1, "metrics", True, 0.0001, 0.0001),
)
# fmt: on
MESH = WHOLE | {"fsdp": 64, "tensor": 4}
FITS = timed(
    {
        "schema": 1,
        "config": {"path": "configs/llama.py", "argument": "70b", "overrides": ["batch=512"]},
        "task": "train",
        "topology": "v5p:4x8x8",
        "slices": 1,
        "chips": 256,
        "devices": 256,
        "device": "TPU v5p",
        "mesh": MESH,
        "slice_axis": None,
        "layout": layout(),
        "compiled": "schedule",
        "compile_seconds": 7.2,
        "versions": {"jax": "0.10.2", "libtpu": "0.0.52", "bigmodel": "0.1.0"},
        "parameters": 70_553_706_496,
        "fits": True,
        "hbm_limit_bytes": 95.7 * GIB,
        "memory": {
            "parameters": 1.03 * GIB,
            "optimizer": 2.05 * GIB,
            "gradients": 1.03 * GIB,
            "activations": 48.61 * GIB,
            "other": 3.4 * GIB,
        },
        "host_bytes": 0,
        "largest_buffers": [
            {"bytes": b * GIB, "name": name, "shape": shape, "kind": kind}
            for b, name, shape, kind in (
                (20.0, "layers/in (saved for the gradient)", "bf16[80,8,8192,2048]", "activations"),
                (7.83, "head (logits of a block)", "f32[8,8192,32064]", "activations"),
                (3.5, "layers/feedforward/gate (recomputed)", "bf16[8,8192,7168]", "activations"),
                (0.27, "layers/feedforward/gate/kernel", "f32[80,128,7168]", "parameters"),
                (0.27, "opt_state/mu/layers/feedforward/up", "f32[80,128,7168]", "optimizer"),
            )
        ],
        "flops_per_step": 1.907e18,
        "flops": {"causal": 1.907e18, "full": 2.042e18, "compiled_per_device": 9.86e15},
        "time": {
            "matrix": 17.42,
            "attention": 1.62,
            "other": 2.33,
            "collectives_exposed": 2.96,
            "host_exposed": 0.0,
            "bubble": 0.0,
            "collectives_hidden": 2.58,
        },
        "dollars_per_million_tokens": None,
        "roofline": {
            "peak_flops": 4.59e14,
            "hbm_bandwidth": 2.77e12,
            "flops": 9.86e15,
            "hbm_bytes": 3.1e13,
            "operations": [
                dict(zip(("name", "flops", "bytes", "seconds", "times"), row, strict=True))
                for row in OPERATIONS
            ],
        },
        "collectives": [
            dict(zip(KEYS, row, strict=True))
            | {"network": "ICI", "axes": row[1].split(), "pass": "forward"}
            for row in COLLECTIVES
        ],
        "sharding": sharded(MESH),
        "flags_refused": [],
        "warnings": [],
        "changes": [],
        "scaling": [
            {"chips": n, "tokens_per_second_per_chip": t, "step_seconds": s, "mfu": m}
            for n, t, s, m in (
                (64, 704.1, 23.3, 0.698),
                (128, 695.0, 23.6, 0.689),
                (256, 672.8, 24.33, 0.667),
                (512, 640.2, 25.6, 0.635),
                (1024, 571.9, 28.6, 0.567),
            )
        ],
        "search": None,
    }
)
