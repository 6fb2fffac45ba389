"""The steps that are compiled: their products are those of the traced step, on a TPU as well."""

import importlib.util
import math
import re

import pytest

import bigmodel
from bigmodel import plan as planning
from bigmodel.plan import answer, compiling, steps
from tests import tables
from tests.plan import programs

NEEDS_LIBTPU = pytest.mark.skipif(
    not importlib.util.find_spec("libtpu"), reason="needs libtpu (extra: plan)"
)
SIZE = {
    "model.dtype": "bfloat16",
    "model.width": 256,
    "model.vocab": 512,
    "model.length": 512,
    "data.length": 512,
    "batch": 8,
    "mesh.fsdp": -1,
}
DENSE = {"model.hidden": 768, "model.head_dim": 128}
KERNEL = "compiler.xla_tpu_enable_ragged_dot_kernel"
MIXTURE = {
    "model.expert_hidden": 512,
    "model.experts": 4,
    "model.experts_per_token": 2,
    # Else this compiler multiplies each row by all experts of a device (v5e, v6e and tpu7x).
    KERNEL: True,
}


STEPS = {  # config, changes of it
    "dense": ("llama", DENSE),
    "dense, recomputed": ("llama", DENSE | {"model.remat": "full"}),
    "tensor": ("llama", DENSE | {"mesh.fsdp": 2, "mesh.tensor": 2}),
    "windowed": ("llama", DENSE | {"model.window": 128, "model.pattern": ("local",)}),
    "experts": ("mixtral", MIXTURE),
    "experts in their places": ("mixtral", MIXTURE | {"mesh.expert": 2}),
    "experts with room": ("mixtral", MIXTURE | {"mesh.expert": 2, "model.expert_capacity": 1.25}),
}
FIRST = ("dense",)  # in `make test`
WITHOUT = ("mixtral", MIXTURE | {KERNEL: False})


def compiled(name, task="train"):
    config, changes = STEPS.get(name, WITHOUT)
    loaded = bigmodel.load_config(f"configs/{config}.py:tiny")
    loaded = planning.changed(loaded, list((SIZE | changes).items()))
    request = planning.make_request(loaded, "v5e:2x2", task=task)
    return request, compiling.compile_one(request)


def matrix_flops(found):
    return programs.facts(found)["matrix_flops"] * math.prod(found.meta["mesh"].values())


@NEEDS_LIBTPU
@pytest.mark.parametrize("name", tables.rows(STEPS, FIRST, pytest.mark.tpu))
def test_a_compiled_step_does_the_products_of_the_traced_one(name):
    request, found = compiled(name)
    # The trace counts all room for rows of experts, and nothing inside of attention's kernel.
    whole = found.__class__(
        **{**found.__dict__, "program": re.sub(r"rows_\d+/", "", found.program)}
    )
    assert matrix_flops(whole) == pytest.approx(found.meta["traced_flops"], rel=0.01)
    plan = answer.plan(request, found)
    assert plan["time"]["attention"] > 0
    assert plan["fits"] is True
    assert sum(plan["memory"].values()) == plan["hbm_bytes"]
    assert not [said for said in plan["warnings"] if "times as much" in said]
    if name == "experts in their places":  # rows of two devices have room on each
        assert 1.2 < matrix_flops(whole) / matrix_flops(found) < 2


@pytest.mark.tpu
@NEEDS_LIBTPU
@pytest.mark.parametrize("task", [task for task in steps.TASKS if task != "train"])
def test_other_tasks_compile_as_well(task):
    request, found = compiled("dense", task)
    plan = answer.plan(request, found)
    assert plan["task"] == task
    assert plan["step_seconds"] > 0
    assert plan["memory"]["optimizer"] == plan["memory"]["gradients"] == 0
    assert matrix_flops(found) == pytest.approx(found.meta["traced_flops"], rel=0.02)


@pytest.mark.tpu
@NEEDS_LIBTPU
def test_a_program_that_runs_all_experts_for_each_row_is_told():
    request, found = compiled("experts without the kernel")
    plan = answer.plan(request, found)
    (said,) = (said for said in plan["warnings"] if "times as much" in said)
    assert "xla_tpu_enable_ragged_dot_kernel" in said
