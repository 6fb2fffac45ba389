"""Layouts that cannot be: each says which number fails and which would do."""

import pytest

from bigmodel import config
from bigmodel import recipe as recipes
from tests import runs

MIXTURE = dict(experts=6, expert_hidden=32)

# what of the config it changes -> what is said
REFUSED = {
    "devices": (dict(mesh=dict(fsdp=16)), "fsdp 16 needs 16 devices and there are 8"),
    "rest": (dict(mesh=dict(fsdp=-1, tensor=3)), "tensor 3 = 3. must divide the 8 devices"),
    "batch": (
        dict(batch=12, mesh=dict(fsdp=8)),
        r"batch = 12 does not divide over 8 parts.*such as 8 or 16",
    ),
    "microbatches": (
        dict(mesh=dict(stage=2, data=2), pipeline=dict(microbatches=3)),
        r"batch = 8 .*pipeline.microbatches = 3; allowed are multiples of 6, such as 6 or 12",
    ),
    "heads": (
        dict(mesh=dict(tensor=8)),
        r"attention/key/kernel: axis 'kv_heads' of length 2 is cut 8 ways over mesh tensor.*1, 2",
    ),
    "width": (
        dict(model=dict(width=36, heads=2), mesh=dict(fsdp=8)),
        r"axis 'embed' of length 36 is cut 8 ways over mesh .*: 1, 2, 3, 4",
    ),
    "experts": (
        dict(model=MIXTURE, mesh=dict(expert=4)),
        r"axis 'experts' of length 6 is cut 4 ways over mesh expert.*: 1, 2, 3, 6",
    ),
    "layers": (
        dict(model=dict(layers=3), mesh=dict(stage=2)),
        r"model.layers = 3: the 3 .* mesh.stage x pipeline.repeats = 2 x 1; 2 or 4",
    ),
    "repeats": (
        dict(model=dict(layers=4), mesh=dict(stage=2), pipeline=dict(repeats=4)),
        r"model.layers = 4.*= 2 x 4; 8 would",
    ),
    "length": (
        dict(data=dict(length=36), mesh=dict(context=4)),
        r"data.length = 36 does not divide over the mesh \(context\); .*multiples of 8, such as 32",
    ),
    "heads_of_all_to_all": (
        dict(mesh=dict(context=8), model=dict(context_attention="all_to_all")),
        r"model.heads = 4 does not divide over mesh.context x tensor = 8 x 1.*'ring'",
    ),
    "experts_on_another_axis": (
        dict(
            model=dict(experts=4, expert_hidden=32),
            mesh=dict(fsdp=2),
            extra_rules=(("experts", "fsdp"), ("expert_embed", None)),
        ),
        "'experts' lies on 'fsdp'; .*'expert' alone, or None",
    ),
    "slices": (dict(mesh=dict(fsdp=8), mesh_slices=3), "mesh_slices = 3 divides no axis"),
    "table": (dict(rules="sequences"), r"rules = 'sequences'.*Did you mean \"sequence\""),
    "unknown_mesh_axis": (
        dict(extra_rules=(("mlp", "tensors"),)),
        r"logical axis 'mlp' lies on mesh axis 'tensors'.*tensor",
    ),
    "colliding_axes": (
        dict(extra_rules=(("mlp", "fsdp"),), mesh=dict(fsdp=2)),
        r"feedforward/\w+/kernel: logical axes .* both lie on mesh axis 'fsdp'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_cannot_be_is_refused(name):
    overrides, said = REFUSED[name]
    with pytest.raises(config.InputError, match=said):
        recipes.make(runs.config(**overrides))
