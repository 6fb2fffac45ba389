"""Laws of the vision-language decoder alone: where patches go, who sees them, what is refused."""

import functools

import jax
import numpy as np
import pytest
from scipy import special

from bigmodel import config, recipe, trees
from bigmodel.layers import placing
from bigmodel.models import vision_language
from tests import runs
from tests.models.families import make, params, prefixed, shown

NAMES = ("llava", "paligemma")
BATCHES = {"llava": shown, "paligemma": prefixed}
over_names = pytest.mark.parametrize("name", NAMES)


@functools.cache
def program(name):
    return jax.jit(make(name).apply)


def logits(name, batch):
    return np.asarray(program(name)(params(name), batch)["logits"])


@over_names
def test_the_text_sees_the_image_of_its_own_row(name):
    batch = BATCHES[name](3, 0)
    others = dict(batch, images=batch["images"].copy())
    others["images"][1] += 1
    moved = np.abs(logits(name, others) - logits(name, batch))
    assert moved[[0, 2]].max() == 0
    after = batch["image_positions"][1, -1] + 1
    real = batch["segments"][1] > 0
    assert (moved[1, after:][real[after:]].max(-1) > 1e-4).all()


@pytest.mark.parametrize("name, sees", [("llava", False), ("paligemma", True)])
def test_in_a_prefix_patches_see_the_prompt_and_else_they_do_not(name, sees):
    batch = BATCHES[name](2, 0)
    prompt = batch["image_positions"][:, -1] + 1
    others = dict(batch, tokens=batch["tokens"].copy())
    others["tokens"][np.arange(2), prompt] += 1
    moved = np.abs(logits(name, others) - logits(name, batch)).max(-1)
    of_patches = np.take_along_axis(moved, batch["image_positions"], 1)
    assert (of_patches > 1e-4).all() if sees else (of_patches == 0).all()


@over_names
def test_the_token_where_a_patch_goes_is_not_read(name):
    batch = BATCHES[name](2, 0)
    others = dict(batch, tokens=batch["tokens"].copy())
    np.put_along_axis(others["tokens"], batch["image_positions"], 7, 1)
    np.testing.assert_array_equal(logits(name, others), logits(name, batch))


@over_names
def test_a_place_below_zero_is_nowhere_and_a_row_without_an_image_is_text(name):
    batch = BATCHES[name](2, 0)
    nowhere = batch | {"image_positions": np.full_like(batch["image_positions"], -1)}
    text = {key: x for key, x in batch.items() if key not in ("images", "image_positions")}
    np.testing.assert_allclose(logits(name, nowhere), logits(name, text), rtol=1e-5, atol=1e-5)


@over_names
@pytest.mark.parametrize("padding", [0, 3])
def test_cached_decoding_is_the_full_forward_and_asks_the_image_once(name, padding):
    batch = BATCHES[name](2, 0)
    whole = logits(name, batch)
    T, given = 9, 7  # image and prompt are among them
    prompt = {
        key: batch[key][:, :given] for key in ("tokens", "segments", "prefix") if key in batch
    }
    prompt["positions"] = np.arange(given)[None].repeat(2, 0)
    prompt = {key: np.pad(x, ((0, 0), (padding, 0))) for key, x in prompt.items()}
    prompt |= {"images": batch["images"], "image_positions": batch["image_positions"] + padding}
    model = make(name)
    cache = model.new_cache(params(name), prompt, padding + T + 1)
    outputs = program(name)(params(name), prompt, cache=cache)
    found = [outputs["logits"][:, padding:]]
    for t in range(given, T):
        token = {key: batch[key][:, t : t + 1] for key in ("tokens", "segments")}
        token["positions"] = np.full((2, 1), t)
        outputs = program(name)(params(name), token, cache=outputs["cache"])
        found.append(outputs["logits"])
    real = batch["segments"] > 0
    found = np.concatenate(found, 1)
    np.testing.assert_allclose(found[real], whole[real], rtol=1e-4, atol=1e-4)


@over_names
def test_each_patch_stands_at_its_own_place(name):
    """In a tower whose layers add nothing, and without a prefix, a patch moves what comes after."""
    image = params(name)["image"]
    still = dict(image, image_layers=jax.tree.map(np.zeros_like, image["image_layers"]))
    quiet, batch = dict(params(name), image=still), shown(1, 1)
    before = program(name)(quiet, batch)["logits"][0]
    for p, place in enumerate(batch["image_positions"][0]):
        others = dict(batch, images=batch["images"].copy())
        row, column = divmod(p, 2)
        # Not all alike: a norm would take that away.
        others["images"][0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 2] += 1
        moved = np.abs(program(name)(quiet, others)["logits"][0] - before).max(-1)
        assert (moved[:place] == 0).all()
        assert moved[place] > 1e-4


def test_patches_are_placed_as_they_are():
    draw = np.random.default_rng(0)
    x, patches = draw.normal(size=(2, 6, 3)), draw.normal(size=(2, 2, 3))
    where = np.array([[4, 1], [0, -1]])
    wanted = x.copy()
    wanted[0, [4, 1]], wanted[1, 0] = patches[0], patches[1, 0]
    with jax.enable_x64(True):
        np.testing.assert_array_equal(placing.placed(x, patches, where), wanted)


def product(x, leaf):
    return x @ leaf["kernel"] + leaf["bias"]


@pytest.mark.parametrize("kind", vision_language.CONNECTORS)
def test_a_connector_is_the_products_that_papers_say(kind):
    draw = np.random.default_rng(0)
    connector = vision_language.Connector(kind, 5, np.float64, np.float64)
    x = draw.normal(size=(2, 4, 3))
    with jax.enable_x64(True):
        made = connector.init(jax.random.key(0), x)["params"]
        made = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), trees_of(made))
        found = connector.apply({"params": made}, x)
    if kind == "linear":
        wanted = product(x, made["product"])
    else:
        up = product(x, made["up"])
        wanted = product(up * special.ndtr(up), made["down"])  # GELU, exactly
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def trees_of(boxed):
    return jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda leaf: hasattr(leaf, "names"))


def test_image_features_are_not_scaled_as_embeddings_are():
    """Token embeddings are multiplied by D^1/2 before patches take their places."""
    name = "paligemma"
    plain, scaled = make(name, embed_scale=False), make(name)
    batch = prefixed(2, 0)
    table = {"decoder": {"embed": {"table": params(name)["decoder"]["embed"]["table"] * 4}}}
    times = dict(params(name), decoder=params(name)["decoder"] | table["decoder"])  # D = 16
    found = jax.jit(plain.apply)(times, batch)["hidden"]
    np.testing.assert_allclose(
        found, jax.jit(scaled.apply)(params(name), batch)["hidden"], atol=1e-5
    )


def test_parts_have_names_of_their_own():
    """What freezes a tower, or reads its weights from elsewhere, names it by one word."""
    paths = trees.flatten(params("paligemma"))
    assert {path.partition("/")[0] for path in paths} == {"image", "connector", "decoder"}
    of_text = {path.removeprefix("decoder/") for path in paths if path.startswith("decoder/")}
    assert of_text > {"layers/attention/query/kernel", "embed/table"}
    found, rest = trees.split(params("paligemma"), "^image/")
    assert (set(found), set(rest)) == ({"image"}, {"connector", "decoder"})


CLIP_LAYER = 12 * 1024**2 + 13 * 1024  # four products of attention, two of 4,096; biases; norms
UNREAD = CLIP_LAYER + 2 * 1024  # the last of CLIP's 24 layers, and the norm after it


def test_unread_parameters_of_llava_are_a_layer_and_a_norm():
    made = vision_language.make(
        **dict(image=336, image_width=1024, image_layers=24, image_heads=16, image_hidden=0),
        **dict(vocab=32_064, width=4096, layers=32, heads=32, hidden=11_008, position="rope"),
        **dict(norm="rms", feedforward="swiglu", bias=False, tied=False, connector="mlp"),
        **dict(patch_bias=False, class_token=True, first_norm=True, last_norm=True),
    )
    shapes = jax.eval_shape(made.init, jax.random.key(0), made.example)
    assert trees.count(trees_of(shapes)) == 7_063_427_072  # llava-hf/llava-1.5-7b-hf
    loaded = recipe.resolve(config.load(f"{runs.ROOT}/configs/llava.py:1.5-7b"))
    fields = config.resolve(loaded.config.model, vision_language.FIELDS, "model")
    made = vision_language.make(**fields)
    shapes = jax.eval_shape(made.init, jax.random.key(0), made.example)
    assert trees.count(trees_of(shapes)) == 7_063_427_072 - UNREAD


REFUSED = [
    ("paligemma", {"model.connector": "mpl"}, "allowed are linear, mlp. Did you mean"),
    ("paligemma", {"model.patch": 3}, "model.patch = 3 does not divide model.image = 8"),
    ("paligemma", {"model.image_heads": 5}, "does not divide model.image_width = 48"),
    ("paligemma", {"model.image_layers": 0}, "model.image_layers = 0"),
    ("paligemma", {"model.heads": 5}, "model.heads = 5 does not divide"),
    ("paligemma", {"model.rope_theta": 0.0}, "model.rope_theta = 0.0"),
    ("paligemma", {"data.size": 16}, "the two must be equal"),
    ("paligemma", {"data.patches": 9}, "the model makes 16 of an image"),
    ("paligemma", {"data.channels": 3}, "data.channels = 3"),
    ("paligemma", {"mesh.context": 2}, "mesh.context = 2"),
    ("llava", {"mesh.context": 2}, "mesh.context = 2"),
]


@pytest.mark.parametrize("name, changes, words", REFUSED)
def test_what_it_cannot_be_is_refused_before_anything_runs(name, changes, words):
    loaded = config.load(f"{runs.ROOT}/configs/{name}.py:tiny", changes)
    with pytest.raises(config.InputError) as error:
        recipe.make(loaded, devices=jax.devices()[: changes.get("mesh.context", 1)])
    assert words in str(error.value)


@pytest.mark.parametrize(
    "family, kind", [("decoder", "prompted_images"), ("vision_language", "prompted_text")]
)
def test_a_model_and_rows_of_which_one_alone_knows_images_are_refused(family, kind):
    import bigmodel

    values = bigmodel.default_config(family, data=kind)
    with pytest.raises(config.InputError, match="goes with the kind 'prompted_images'"):
        recipe.make(values, devices=jax.devices()[:1])


def test_images_of_another_size_are_refused():
    batch = shown(2, 0)
    batch["images"] = batch["images"][:, :4, :4]
    with pytest.raises(config.InputError, match="they must be alike"):
        make("llava").apply(params("llava"), batch)
