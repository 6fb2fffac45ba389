"""Laws of the pipeline: each layer at each microbatch once, in order, and nothing of the bubble."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel import recipe as recipes
from bigmodel.config import InputError
from bigmodel.layers import stack
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import pipeline, rules
from bigmodel.sharding.pipeline import Pipeline
from tests import runs

LAYERS, T, D = 8, 3, 2
SHAPES = {  # stages, microbatches, repeats
    "as_many_as_stages": (2, 2, 1),
    "more": (2, 4, 1),
    "fewer": (4, 2, 1),
    "one": (2, 1, 1),
    "a_layer_each": (8, 8, 1),
    "repeats": (2, 4, 2),
    "repeats_at_once": (2, 2, 2),
    "repeats_of_a_layer": (2, 3, 4),
}
over_shapes = pytest.mark.parametrize("name", SHAPES)


def numbers():
    """What each layer adds, and weighs by: whole numbers, so that every sum is exact."""
    draw = np.random.default_rng(0)
    return {"add": draw.integers(1, 4, (LAYERS, D)).astype(np.float32)}


def body(kind, params, layer, x, side, cache):
    """2 x + what layer, its number and row say: to leave out, repeat or swap a layer shows."""
    kinds = {"global": 1.0, "local": 2.0}
    said = side["rows"][:, None, None] + side["places"][..., None] + kinds[kind]
    x = 2 * x + params["add"] * said + layer
    sums = {
        "runs": jax.nn.one_hot(layer, LAYERS) * len(x),
        "rows": jax.nn.one_hot(layer, LAYERS) * side["rows"].sum(),
        "inverse": (1 / (x * x)).sum(),  # no number where x is zero, as it is in the bubble
        "x": x.sum(),
    }
    return x, cache, sums


def batch_of(microbatches):
    rows = np.arange(2 * microbatches, dtype=np.float32)
    x = np.broadcast_to(rows[:, None, None], (len(rows), T, D)) * 3
    return x, {"rows": rows, "places": np.arange(T, dtype=np.float32)[None]}


@functools.cache
def found(name):
    """(x, sums, gradient) through the pipeline, and through the layers one after another."""
    runner = Pipeline(*SHAPES[name])
    x, side = batch_of(runner.microbatches)
    order = runner.order(LAYERS)
    kinds = (
        ("local", "global") if LAYERS // (runner.stages * runner.repeats) % 2 == 0 else ("local",)
    )
    weights = np.random.default_rng(1).integers(1, 4, x.shape)

    def loss(params, run):
        x_after, _, sums = run(body, params, x, side, None, kinds)
        return (x_after * weights).sum() + sums["x"], (x_after, sums)

    def through(run, params):
        grads, (x_after, sums) = jax.jit(jax.grad(functools.partial(loss, run=run), has_aux=True))(
            params
        )
        return x_after, sums, grads["add"]

    x_after, sums, grads = through(runner, {"add": numbers()["add"][order]})
    return (x_after, sums, grads[np.argsort(order)]), through(stack.scanned, numbers())


@over_shapes
def test_rows_come_back_in_order_through_every_layer_once(name):
    (x, _, _), (wanted, _, _) = found(name)
    np.testing.assert_array_equal(x, wanted)
    assert len(np.unique(np.asarray(x)[:, 0, 0])) == len(x)


@over_shapes
def test_each_layer_has_the_gradient_that_it_has_alone(name):
    (_, _, grads), (_, _, wanted) = found(name)
    np.testing.assert_array_equal(grads, wanted)


@over_shapes
def test_sums_are_of_each_layer_and_microbatch_and_not_of_the_bubble(name):
    (_, sums, _), (_, wanted, _) = found(name)
    M = SHAPES[name][1]
    np.testing.assert_array_equal(sums["runs"], [2 * M] * LAYERS)
    np.testing.assert_array_equal(sums["rows"], [sum(range(2 * M))] * LAYERS)
    np.testing.assert_allclose(sums["inverse"], wanted["inverse"], rtol=1e-6)
    assert sums["x"] == wanted["x"]


def test_layers_lie_in_the_runs_of_their_stage():
    assert Pipeline(2, 2, 1).order(8).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert Pipeline(2, 2, 2).order(8).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert Pipeline(4, 4, 2).order(8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert Pipeline(2, 2, 4).order(8).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_the_bubble_is_what_the_docstring_draws():
    lines = [line for line in str(pipeline.__doc__).splitlines() if re.search(r" device \d ", line)]
    # After the device's number one mark a tick; beside two of the rows there is a remark.
    drawn = [line.split("device ")[1].split()[1:8] for line in lines]
    made = Pipeline(4, 4)
    assert [len(row) for row in drawn] == [made.ticks] * 4
    assert made.bubble == sum(row.count(".") for row in drawn) / (4 * made.ticks)


@over_shapes
def test_a_stage_is_idle_for_the_bubble_alone(name):
    S, M, R = SHAPES[name]
    runner = Pipeline(S, M, R)
    assert runner.ticks * (1 - runner.bubble) == pytest.approx(M * R)
    x, side = batch_of(M)
    traced = jax.make_jaxpr(lambda p: runner(body, p, x, side, None, ("local",)))(numbers())
    loops = [e.params["length"] for e in traced.eqns if e.primitive.name == "scan"]
    assert loops == [runner.ticks]


def test_the_bubble_shrinks_with_microbatches_and_repeats():
    assert Pipeline(4, 4).bubble > Pipeline(4, 8).bubble > Pipeline(4, 8, 2).bubble > 0
    assert Pipeline(4, 8, 2).bubble == Pipeline(4, 16).bubble


def test_a_microbatch_has_rows_of_every_part_of_the_batch():
    """So that each device of "data" has some of each."""
    runner = Pipeline(2, 4)
    parts = runner.cut(jnp.arange(8))
    assert parts.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert runner.joined(parts).tolist() == list(range(8))


EXPERTS = dict(experts=4, dense_layers=1)
REFUSED = {
    "layers": (
        dict(model=dict(layers=3)),
        ["model.layers = 3", "mesh.stage x pipeline.repeats = 2 x 1", "2 or 4 would"],
    ),
    "repeats": (
        dict(model=dict(layers=6), pipeline=dict(repeats=2)),
        ["model.layers = 6", "= 2 x 2", "4 or 8 would"],
    ),
    "too_few_layers": (
        dict(model=dict(layers=2), mesh=dict(stage=4), pipeline=dict(microbatches=4)),
        ["model.layers = 2", "= 4 x 1", "; 4 would"],
    ),
    "pattern": (
        dict(model=dict(layers=4, window=4, pattern=("local", "global", "global"))),
        ["model.layers = 4", "patterns of 3 (model.pattern)", "; 6 would"],
    ),
    "dense_layers": (
        dict(model=dict(layers=4, **EXPERTS)),
        ["model.layers = 4", "the 3 that go through", "3 or 5 would"],
    ),
    "microbatches": (
        dict(
            **dict(model=dict(layers=8), mesh=dict(stage=4)),
            pipeline=dict(microbatches=2, repeats=2),
        ),
        ["pipeline.microbatches = 2", "pipeline.repeats = 2", "allowed are 4 and more"],
    ),
    "batch": (
        dict(pipeline=dict(microbatches=3)),
        ["batch = 8", "pipeline.microbatches = 3", "multiples of 3, such as 6 or 9"],
    ),
    "batch_over_data": (
        dict(mesh=dict(stage=2, data=2), pipeline=dict(microbatches=8)),
        ["batch = 8", "2 parts", "pipeline.microbatches = 8", "multiples of 16, such as 16"],
    ),
    "no_repeats": (dict(pipeline=dict(repeats=0)), ["pipeline.repeats = 0", "at least 1"]),
    "negative": (
        dict(pipeline=dict(microbatches=-1)),
        ["pipeline.microbatches = -1", "not be negative"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_come_apart_is_refused_with_what_would(name):
    changes, told = REFUSED[name]
    with pytest.raises(InputError) as caught:
        recipes.make(runs.config(**{"mesh": dict(stage=2), **changes}))
    for words in told:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_as_many_microbatches_as_stages_unless_the_config_says_otherwise():
    made = recipes.make(runs.config(mesh=dict(stage=2), model=dict(layers=4)))
    assert made.pipeline == Pipeline(2, 2, 1)
    assert made.layer_order is None
    changed = dict(mesh=dict(stage=2), pipeline=dict(microbatches=4, repeats=2))
    made = recipes.make(runs.config(model=dict(layers=8), **changed))
    assert made.pipeline == Pipeline(2, 4, 2)
    np.testing.assert_array_equal(made.layer_order, [0, 1, 4, 5, 2, 3, 6, 7])
    assert recipes.make(runs.config()).pipeline is None


def test_what_a_stage_keeps_for_its_gradient_is_what_remat_says():
    """Of all ticks and layers: with "full" what goes into a layer, and nothing as wide as F."""
    ticks, layers = 3, 2

    def kept(**model):
        config = runs.config(
            model={"layers": 4, "hidden": 96, "dropout": 0.0, **model},
            mesh=dict(stage=2),
            pipeline=dict(microbatches=2),
        )
        recipe = recipes.make(config)
        params = jax.eval_shape(recipe.model.init, jax.random.key(0), recipe.example)
        params = jax.tree.map(lambda box: box.value, params, is_leaf=rules.is_box)
        row = jax.ShapeDtypeStruct((recipe.batch, config.data.length), jnp.int32)
        with meshes.use(recipe.mesh, recipe.rules):
            gradient = jax.grad(lambda p, b: recipe.objective(p, b, None)[0])
            text = str(jax.make_jaxpr(gradient)(params, {"tokens": row, "targets": row}))
        shapes = {
            tuple(map(int, shape.split(",")))
            for shape in re.findall(r"[a-z]+\d+\[([\d,]+)\]", text)
        }
        return {
            shape[-1] for shape in shapes if shape[:3] in ((ticks, 2, layers), (ticks, layers, 2))
        }

    assert 96 in kept(remat="none")
    assert kept(remat="full") == {32}  # the width
    assert 96 in kept(remat="names", remat_save=("gate",))
    assert 96 not in kept(remat="names", remat_save=("attention",))
