"""A run that begins from weights that exist: which are taken, which are drawn, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bigmodel
from bigmodel import config, convert, trees
from bigmodel import recipe as recipes
from bigmodel.adapt import resize
from bigmodel.checkpoint import Checkpoints
from bigmodel.config import load_text
from bigmodel.models.decoder import Decoder
from bigmodel.sharding import mesh as meshes
from bigmodel.train import origins, start, workdir
from bigmodel.train import state as states
from tests import runs
from tests.convert import published, test_published

SHORT = dict(steps=2, evals={}, checkpoint=dict(every=1), schedule=dict(warmup=0))
TINY = dict(tied=False, width=16, heads=2, kv_heads=2, hidden=16, layers=4, scan=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run with two checkpoints and a moving average."""
    return written(tmp_path_factory.mktemp("source"), made(ema=0.5))


def written(folder, values):
    """A workdir as a run leaves it, but for the time that steps take."""
    recipe = recipes.make(values)
    state = states.create(recipe)
    leaves, tree = jax.tree.flatten(state.replace(rng=None, step=None))
    facts = workdir.facts(recipe.loaded, recipes.tokenizer_fingerprint(recipe))
    workdir.write(workdir.place(folder), recipe.loaded, {})
    with Checkpoints(workdir.place(folder) / "checkpoints") as checkpoints:
        for step in (1, 2):
            moved = [x + step * (1 + i) / 64 if x.ndim else x for i, x in enumerate(leaves)]
            now = jax.tree.unflatten(tree, moved).replace(rng=state.rng, step=jnp.int32(step))
            checkpoints.save(step, states.whole(now), facts)
    return folder


@pytest.fixture(scope="module")
def expected(source):
    """What that run is evaluated with, by path."""
    return trees.flatten(bigmodel.load(source).params)


def made(model=(), **overrides):
    return runs.config(model=dict(TINY, **dict(model)), **{**SHORT, **overrides})


def begun(folder, **overrides):
    """The recipe of a run that begins from a folder, and its state at step 0."""
    recipe = recipes.make(made(init_from=str(folder), **overrides))
    abstract = states.abstract(recipe)
    said = []
    with meshes.use(recipe.mesh, recipe.rules):
        facts = {"tokenizer": recipes.tokenizer_fingerprint(recipe)}
        found = start.find(recipe, abstract, facts, said.append)
        given = start.read(recipe, abstract, found)
        return recipe, states.create(recipe, abstract, given), said


def stored(folder, part, step=2):
    """A part of a checkpoint's arrays by path, as they are on disk."""
    with Checkpoints(workdir.place(folder) / "checkpoints") as checkpoints:
        known = checkpoints.leaves(step)
        asked = {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"])
            for name, leaf in known.items()
            if name.startswith(f"{part}/")
        }
        found = checkpoints.restore(asked, step=step).tree
    return {name.removeprefix(f"{part}/"): np.asarray(x) for name, x in found.items()}


def assert_same(one, other):
    one, other = (trees.flatten(tree) for tree in (one, other))
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def test_a_run_begins_with_what_the_other_is_evaluated_with_and_a_fresh_optimizer(source, expected):
    recipe, state, said = begun(source)
    assert_same(state.params, expected)
    assert_same(state.opt_state, recipe.optimizer.init(state.params))
    assert int(state.step) == 0
    assert said == []


def test_a_step_is_chosen_by_its_number(source):
    _, state, _ = begun(f"{source}@1")
    for path, value in stored(source, "ema", step=1).items():
        np.testing.assert_array_equal(trees.flatten(state.params)[path], value)


def test_what_is_fresh_is_a_new_models_and_may_have_another_shape(source, expected):
    wider = dict(model=dict(vocab=300), fresh=("^head/", "^embed/"), ema=0.9)
    recipe, state, said = begun(source, **wider)
    assert recipe.tuning.fresh == {"head/kernel", "embed/table"}
    for path, value in trees.flatten(state.params).items():
        if path not in recipe.tuning.fresh:
            np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert state.params["head"]["kernel"].shape == (16, 300)
    assert float(jnp.std(state.params["head"]["kernel"])) > 0.01
    assert_same(state.ema, state.params)
    assert any("model.vocab is 264, here 300" in line for line in said)


def test_schedule_free_runs_give_their_average_and_a_balance_as_it_is(tmp_path):
    free = dict(optimizer=dict(name="schedule_free_adamw"), schedule=dict(name="constant"))
    experts = dict(experts=2, router="sigmoid", router_balance=True)
    written(tmp_path, made(**free, model=experts))
    _, state, _ = begun(tmp_path, mesh=dict(fsdp=2), model=experts)
    expected, raw = trees.flatten(bigmodel.load(tmp_path).params), stored(tmp_path, "params")
    for path, value in trees.flatten(state.params).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-6, atol=1e-7, err_msg=path)
    assert any(not np.array_equal(expected[path], raw[path]) for path in raw)


@pytest.mark.parametrize(
    "layout",
    [
        dict(mesh=dict(fsdp=2, tensor=2), model=dict(param_dtype="bfloat16")),
        dict(mesh=dict(stage=2), pipeline=dict(microbatches=2, repeats=2)),
    ],
    ids=["mesh", "pipeline"],
)
def test_parameters_come_onto_the_runs_own_mesh_in_its_order_and_dtype(source, expected, layout):
    recipe, state, _ = begun(source, **layout)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, states.abstract(recipe).params)
    order = recipe.layer_order
    for path, value in trees.flatten(state.params).items():
        known = expected[path].astype(value.dtype)
        if order is not None and trees.is_stacked(path, value, len(order)):
            known = known[order]
        np.testing.assert_array_equal(*np.float32(jax.device_get((value, known))), err_msg=path)
        assert value.sharding == trees.flatten(shardings)[path]
        assert value.dtype == jnp.dtype(recipe.config.model.param_dtype)


def test_a_run_that_goes_on_never_reads_its_source_again(source, tmp_path):
    again = made(init_from=str(source), checkpoint=dict(every=1, keep=3))
    bigmodel.train(again, tmp_path / "run")
    kept = runs.checksums(tmp_path / "run", 2)
    (tmp_path / "run/checkpoints/2").rename(tmp_path / "2")
    gone = made(init_from=str(tmp_path / "gone"), checkpoint=dict(every=1, keep=3))
    bigmodel.train(gone, tmp_path / "run")
    assert runs.checksums(tmp_path / "run", 2) == kept


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            dict(model=dict(vocab=300)),
            [
                "embed/table: found [264, 16], wanted [300, 16]",
                "fresh = ('^embed(/|$)', '^head(/|$)')",
                "set model.vocab as there",
            ],
        ),
        (
            dict(model=dict(qk_norm="rms")),
            ["attention/key_norm/scale: found nothing, wanted [4, 8]"],
        ),
    ],
)
def test_parameters_that_are_not_the_models_are_refused_with_the_cure(source, overrides, words):
    with pytest.raises(config.InputError) as caught:
        begun(source, **overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_place_without_weights_is_refused_before_any_data_is_read(source, tmp_path):
    text = runs.CONFIG.replace(f"jsonl:{runs.TEXT}", "jsonl:no_such_file")
    for place, words in {
        str(tmp_path / "none"): "is no workdir with checkpoints",
        f"{source}@7": r"no such checkpoint; there are \[1, 2\]",
    }.items():
        with pytest.raises(config.InputError, match=words):
            bigmodel.train(load_text(text, None, {"init_from": place}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_hugging_face_in_a_bucket_is_refused_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("bigmodel.config.place", lambda *_, **__: tmp_path)
    with pytest.raises(config.InputError, match=r"'gs://a/model': a Hugging .* from a local path"):
        origins.open_source(recipes.make(made()), "gs://a/model", print)


def test_layers_that_the_run_lacks_and_what_else_differs_are_told(source):
    _, _, said = begun(source, model=dict(tied=True, rope_theta=500.0))
    assert [line.partition(": ")[2] for line in said] == [
        "nothing of this run reads its head",
        "its model.rope_theta is 10000.0, here 500.0",
        "its model.tied is False, here True",
    ]
    recipe = recipes.make(made(init_from=str(source)))
    start.find(recipe, states.abstract(recipe), {"tokenizer": "other"}, said.append)
    assert "another tokenizer than data.tokenizer" in said[-1]


def test_a_folder_of_hugging_face_is_read_onto_the_runs_mesh_in_its_order(tmp_path):
    fields = dict(TINY, dropout=0.0, length=64)
    recipe = recipes.make(made(model=fields))
    params = states.create(recipe).params
    kind = convert.ARCHITECTURES["LlamaForCausalLM"]
    complete = {name: default for name, (_, default) in config.schema(Decoder).items()} | fields
    complete |= dict(recipe.fields)
    how = dict(dtype="float32", ids={})
    flat = trees.flatten(params)
    convert.export(tmp_path / "hf", "LlamaForCausalLM", kind, complete, flat, **how)
    layout = dict(mesh=dict(stage=2, fsdp=2), pipeline=dict(microbatches=2, repeats=2))
    recipe, state, said = begun(tmp_path / "hf", **layout)
    order = recipe.layer_order
    for path, value in trees.flatten(state.params).items():
        known = flat[path]
        if trees.is_stacked(path, value, len(order)):
            known = known[order]
        np.testing.assert_array_equal(value, known, err_msg=path)
    assert said == []
    with pytest.raises(config.InputError, match="embed/table: found .264, 16., wanted .300, 16."):
        begun(tmp_path / "hf", model=dict(vocab=300))


def test_weights_of_a_folder_that_have_no_place_are_told(tmp_path):
    said = []
    test_published.write("t5", tmp_path, test_published.ODD["t5"].told)
    origins.open_source(recipes.make(made()), str(tmp_path), said.append)
    assert said == [f"{tmp_path} (T5ForConditionalGeneration): no place for {published.CROSS_BIAS}"]


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_a_vision_transformer_goes_on_at_another_size_of_images_and_patches(tmp_path, pooling):
    def vision(**overrides):
        values = load_text(VISION).config.copy_and_resolve_references().unlock()
        values.model.update(overrides.pop("model", {}))
        values.data.size = values.model.image
        values.update(overrides)
        return recipes.make(values.lock())

    before = vision()
    born = states.create(before)
    workdir.write(workdir.place(tmp_path), before.loaded, {})
    with Checkpoints(workdir.place(tmp_path) / "checkpoints") as checkpoints:
        checkpoints.save(1, states.whole(born), {})
    model = dict(image=12, patch=4, pooling=pooling)
    fresh = dict(fresh=("^head/",)) if pooling == "mean" else {}
    recipe = vision(model=model, init_from=str(tmp_path), **fresh)
    abstract, said = states.abstract(recipe), []
    source = start.find(recipe, abstract, {"tokenizer": ""}, said.append)
    state = states.create(recipe, abstract, start.read(recipe, abstract, source))
    old, new = (trees.flatten(s.params) for s in (born, state))
    rows = 9 + (pooling == "class")
    np.testing.assert_array_equal(
        new["positions"], resize.positions(np.asarray(old["positions"]), rows)
    )
    np.testing.assert_array_equal(
        new["patches/product/kernel"],
        resize.patch_kernel(np.asarray(old["patches/product/kernel"]), 16, 1),
    )
    assert any("patches/product/kernel, positions resized" in line for line in said)
    np.testing.assert_array_equal(
        new["layers/attention/out/kernel"], old["layers/attention/out/kernel"]
    )


VISION = """
import bigmodel


def get_config():
    config = bigmodel.default_config("vit", objective="classify", data="images")
    config.model.update(
        image=8, channels=1, patch=2, classes=3, layers=1, width=16, heads=2, dtype="float32"
    )
    config.data.update(source="digits", size=8, channels=1)
    return config
"""
