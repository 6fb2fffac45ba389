"""Compiles attention, forward and backward, for TPUs that are not here: one JSON line a case.

python -m tests.sharding.compile_for_tpu '{"topology": "v5e:2x4", "mesh": {"fsdp": -1}, ...}'
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_PLATFORMS": "cpu"}
os.environ["XLA_FLAGS"] = ""  # libtpu ends where it finds one that is for CPU alone

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from bigmodel.layers import stack
from bigmodel.sharding import kernels, rules
from bigmodel.sharding import mesh as meshes


def compiled(
    topology: str,
    mesh: Mapping[str, int],
    shape: tuple[int, int, int, int],
    kv_heads: int,
    *,
    segments: bool = True,
    blocks: Mapping[str, Any] | None = None,
    remat: str = "none",
    dtype: str = "bfloat16",
    **options: Any,
) -> jax.stages.Compiled:
    """The gradient of attention, queries of a shape [B, T, H, C], on a mesh of a topology."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    made = meshes.make(mesh, devices=devices)
    table = rules.table("fsdp_tensor", (), made.axis_names)
    attend = kernels.make_attention("auto", made, table, {"attention_dropout": 0.0}, blocks)
    cut, (B, T, _, C) = dict(table), shape

    def array(shape, dtype, *axes):
        sharding = NamedSharding(made, PartitionSpec(*(cut[axis] for axis in axes)))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = array(shape, dtype, "batch", "length", "act_heads")
    k = array((B, T, kv_heads, C), dtype, "batch")
    ids = array((B, T), "int32", "batch") if segments else None

    def layer(kind, factor, number, q, kv, cache):
        return attend(q * factor, *kv[:2], kv[2], **options), cache, {}

    def loss(q, k, v, ids):
        run = stack.remat(layer, remat, save=("attention",))
        factors = jnp.ones((2,), dtype)  # of two layers
        out, _, _ = stack.scanned(run, factors, q, (k, v, ids), None, ("global",))
        return out.astype(jnp.float32).sum()

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    return gradient.lower(q, k, k, ids).compile()


if __name__ == "__main__":
    for case in map(json.loads, sys.argv[1:]):
        text = compiled(**case).as_text() or ""
        calls = (line for line in text.splitlines() if "tpu_custom_call" in line)
        names = (re.search(r"splash_\w+?_(fwd|dq|dkv)", call) for call in calls)
        print(json.dumps(sorted(name[1] for name in names if name)))
