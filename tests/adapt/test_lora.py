"""LoRA: a kernel and what two thin ones add to it, stated in float64; runs that train them."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bigmodel
from bigmodel import config, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import lora
from bigmodel.data import pipeline
from bigmodel.sharding import mesh as meshes
from bigmodel.sharding import rules
from bigmodel.train import compiled, start
from bigmodel.train import state as states
from tests import runs

SGD = dict(optimizer=dict(name="sgd", clip=0.0, momentum=0.0), schedule=dict(warmup=0, peak=1.0))
TINY = dict(width=16, heads=2, kv_heads=2, hidden=16, layers=4, scan=True, tied=False)
SHORT = dict(steps=2, evals={}, checkpoint=dict(every=1, keep=3))
ALL = ("layers/.*kernel$",)
LORA = dict(rank=2, alpha=6.0, targets=ALL)


def made(model=(), **overrides):
    given = {**SHORT, "lora": LORA, **overrides}
    return recipes.make(runs.config(model=dict(TINY, **dict(model)), **given))


@functools.cache
def batches():
    return recipes.train_batches(made())


def after(recipe, steps):
    """The states before and after some steps, and the last metrics."""
    with meshes.use(recipe.mesh, recipe.rules):
        first = state = states.create(recipe)
        step = jax.jit(compiled.train_step(recipe))
        metrics = {}
        for at in range(steps):
            batch = pipeline.place(batches(), at, lambda *_: recipe.batch_sharding)
            state, metrics = step(state, batch)
    return jax.device_get((first, state, metrics))


@functools.cache
def trained():
    return after(made(**SGD), 2)


# (logical axes, shape, equation of the update) of kernels of all forms.
KERNELS = [
    (("embed", "vocab"), (4, 6), "ir,ro->io"),
    (("layers", "embed", "heads", "head_dim"), (2, 4, 3, 2), "lir,lrhc->lihc"),
    (("layers", "heads", "head_dim", "embed"), (2, 3, 2, 4), "lhcr,lro->lhco"),
    (("layers", "experts", "expert_embed", "mlp"), (2, 3, 4, 5), "leir,lero->leio"),
]


@pytest.mark.parametrize(("axes", "shape", "equation"), KERNELS, ids=str)
def test_a_merged_kernel_and_its_gradients_are_the_formula_in_float64(axes, shape, equation):
    boxed = {"x": {"kernel": box(axes, shape)}}
    boxed = lora.boxes(boxed, ["x/kernel"], 2, rules.is_box)
    drawn = np.random.default_rng(0)
    w, a, b = (
        drawn.normal(size=boxed["x"][name].value.shape) for name in ("kernel", lora.A, lora.B)
    )
    g = drawn.normal(size=shape)
    given = [jnp.asarray(x, jnp.float32) for x in (w, a, b)]
    found, back = jax.vjp(lambda *x: lora.merged_kernel(*x, scale=1.5), *given)
    np.testing.assert_allclose(found, w + 1.5 * np.einsum(equation, a, b), rtol=1e-5, atol=1e-5)
    inputs, update = equation.split("->")
    of_a, of_b = inputs.split(",")
    _, in_a, in_b = back(jnp.asarray(g, jnp.float32))
    by_hand = 1.5 * np.einsum(f"{update},{of_b}->{of_a}", g, b)
    np.testing.assert_allclose(in_a, by_hand, rtol=1e-4, atol=1e-4)
    by_hand = 1.5 * np.einsum(f"{update},{of_a}->{of_b}", g, a)
    np.testing.assert_allclose(in_b, by_hand, rtol=1e-4, atol=1e-4)


def box(axes, shape):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)


@pytest.mark.parametrize(("axes", "shape", "equation"), KERNELS, ids=str)
def test_a_full_rank_can_be_any_change(axes, shape, equation):
    rank = min(lora.sizes(axes, shape))
    boxed = lora.boxes({"x": {"kernel": box(axes, shape)}}, ["x/kernel"], rank, rules.is_box)["x"]
    change = np.random.default_rng(1).normal(size=shape)
    one, other = lora.sizes(axes, shape)
    u, s, v = np.linalg.svd(change.reshape(-1, one, other), full_matrices=False)
    a, b = (u * s[:, None]).reshape(boxed[lora.A].value.shape), v.reshape(boxed[lora.B].value.shape)
    found = lora.merged_kernel(*(jnp.asarray(x, jnp.float32) for x in (0 * change, a, b)), scale=1)
    np.testing.assert_allclose(found, change, atol=1e-5)


def test_at_the_start_a_model_with_adapters_is_the_model_bit_for_bit():
    state = states.create(made())
    base = states.create(made(lora=dict(rank=0))).params
    found = lora.merged(states.whole(state).params, 3.0)
    assert trees.flatten(found).keys() == trees.flatten(base).keys()
    jax.tree.map(np.testing.assert_array_equal, found, base)
    drawn = [x for path, x in trees.flatten(state.params).items() if path.endswith(lora.A)]
    for a in drawn:
        fan_in = np.prod(a.shape[1:-1])
        assert 0.5 < float(jnp.std(a)) * np.sqrt(fan_in) < 1.5
        assert not np.array_equal(a[0], a[1])


def test_adapters_train_and_the_base_does_not_move_by_a_bit():
    first, last, _ = trained()
    assert {path.split("/")[-1] for path in trees.flatten(last.params)} == {lora.A, lora.B}
    jax.tree.map(np.testing.assert_array_equal, first.frozen, last.frozen)
    for path, value in trees.flatten(last.params).items():
        assert not np.array_equal(value, trees.flatten(first.params)[path]), path


def test_merged_parameters_give_the_loss_of_adapters_beside_them():
    recipe, (_, last, _) = made(**SGD), trained()
    params = states.whole(last).params
    batch = pipeline.place(batches(), 0, lambda *_: recipe.batch_sharding)
    objective = jax.jit(lambda p, b: recipe.objective(p, b, None)[0])
    merged = recipe.tuning.merged(jax.device_put(params))
    assert not any(map(lora.is_adapter, trees.flatten(merged)))
    np.testing.assert_allclose(objective(merged, batch), objective(params, batch), rtol=1e-6)
    base = {path: x for path, x in trees.flatten(params).items() if not lora.is_adapter(path)}
    plain = trees.pick(params, base)
    assert abs(float(objective(plain, batch) / objective(merged, batch)) - 1) > 1e-3


def test_the_state_is_the_base_and_three_times_the_adapters():
    recipe = made(frozen_dtype="bfloat16")
    state = states.abstract(recipe)
    thin = 0
    for path, box in trees.flatten(recipe.boxed_params, is_leaf=rules.is_box).items():
        if path.startswith("layers/") and path.endswith("kernel"):
            one, other = lora.sizes(box.names, box.value.shape)
            thin += 4 * 2 * (one + other)  # layers, rank
    assert trees.count(state.params) == thin
    moments = trees.count(state.opt_state) - sum(x.size for x in scalars(state.opt_state))
    assert moments == 2 * thin
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype("bfloat16")}
    full = states.abstract(made(lora=dict(rank=0)))
    assert trees.count(state.frozen) == trees.count(full.params)


def scalars(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 0]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            dict(mesh=dict(fsdp=2, tensor=2), accumulate=2),
            marks=pytest.mark.families,  # for its time
        ),
        dict(mesh=dict(stage=2), pipeline=dict(microbatches=2, repeats=2)),
    ],
    ids=["mesh", "pipeline"],
)
def test_a_layout_changes_no_number_of_a_step_with_adapters(layout):
    recipe = made(**SGD, **layout)
    if layout["mesh"].get("fsdp"):
        for path, leaf in trees.flatten(states.abstract(recipe).params).items():
            assert not leaf.sharding.is_fully_replicated, path
    _, expected, metrics = trained()
    _, last, found = after(recipe, 2)
    order = recipe.layer_order
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)
    for path, value in trees.flatten(last.params).items():
        known = trees.flatten(expected.params)[path]
        known = known if order is None else known[order]
        np.testing.assert_allclose(value, known, rtol=1e-3, atol=2e-5, err_msg=path)


def test_a_run_goes_on_bit_for_bit_is_loaded_merged_and_begun_from_merged(tmp_path):
    values = runs.config(model=TINY, **SHORT, lora=LORA, ema=0.5, schedule=dict(warmup=0))
    bigmodel.train(values, tmp_path / "run")
    kept = runs.checksums(tmp_path / "run", 2)
    (tmp_path / "run/checkpoints/2").rename(tmp_path / "2")
    bigmodel.train(values, tmp_path / "run")
    assert runs.checksums(tmp_path / "run", 2) == kept

    loaded = bigmodel.load(tmp_path / "run")
    params = trees.flatten(loaded.params)
    base = made(lora=dict(rank=0), init_from=str(tmp_path / "run"))
    assert params.keys() == trees.flatten(base.boxed_params, is_leaf=rules.is_box).keys()
    abstract = states.abstract(base)
    facts = {"tokenizer": recipes.tokenizer_fingerprint(base)}
    source = start.find(base, abstract, facts, pytest.fail)
    for path, value in start.read(base, abstract, source).items():
        np.testing.assert_array_equal(value, params[path], err_msg=path)

    for field, value in (("lora", LORA | dict(rank=4)), ("fresh", ("^head/",))):
        other = runs.config(model=TINY, **{**SHORT, "lora": LORA, "ema": 0.5, field: value})
        with pytest.raises(bigmodel.InputError, match=f"{field}.* = .*, but the checkpoints"):
            bigmodel.train(other, tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (dict(lora=LORA | dict(targets=("atention/",))), ["finds no parameter", "attention/"]),
        (dict(lora=LORA | dict(targets=())), ["lora.targets: is empty"]),
        (dict(lora=LORA | dict(rank=17)), ["lora.rank = 17", "16 x 16", "up to 16"]),
        (dict(lora=LORA | dict(alpha=0.0)), ["lora.alpha = 0.0", "above 0"]),
        (dict(lora=LORA | dict(rank=-1)), ["lora.rank = -1", "not be negative"]),
        (dict(frozen=("embed",)), ["frozen = ('embed',)", "allowed is ()"]),
        (dict(fresh=("query",)), ["layers/attention/query/kernel is in `fresh`"]),
    ],
)
def test_what_no_adapter_can_be_is_refused(overrides, words):
    with pytest.raises(config.InputError) as caught:
        made(**overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_fresh_head_trains_beside_the_adapters():
    state = states.abstract(made(fresh=("^head/",)))
    rest = {path for path in trees.flatten(state.params) if not lora.is_adapter(path)}
    assert rest == {"head/kernel"}
