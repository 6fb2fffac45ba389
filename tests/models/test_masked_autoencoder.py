"""Laws of the masked autoencoder: what it hides and sees, its loss, and whose encoder it is."""

import functools
import runpy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from bigmodel import config, trees
from bigmodel.models import masked_autoencoder, vit
from bigmodel.objectives import pixels
from bigmodel.train import step
from tests import runs
from tests.models import families

NAME = "masked_autoencoder"


def batch(rows=4):
    return families.FAMILIES[NAME].batch(rows, 0)


@functools.cache
def model():
    return jax.jit(families.make(NAME).apply)


def outputs(given, key=None):
    rngs = None if key is None else {"dropout": jax.random.key(key)}
    return jax.device_get(model()(families.params(NAME), given, rngs))


def test_so_many_patches_are_hidden_in_each_row_and_others_in_each():
    masked = outputs(batch(64), key=0)["masked"]
    np.testing.assert_array_equal(masked.sum(1), 8)
    assert len(np.unique(masked, axis=0)) > 60
    assert 0.2 < masked.mean(0).min() <= masked.mean(0).max() < 0.8  # no place is preferred
    assert (outputs(batch(64), key=1)["masked"] != masked).any(1).mean() > 0.9


def test_evaluation_hides_the_same_of_the_same_row():
    once, again = outputs(batch(4))["masked"], outputs(batch(8))["masked"]
    np.testing.assert_array_equal(again[:4], once)


def test_what_is_hidden_is_not_seen_and_what_is_seen_is():
    """Other pixels in a hidden patch change nothing; in a patch that is seen, everything."""
    given = batch(2)
    plain = outputs(given, key=0)
    noise = np.random.default_rng(5).normal(size=given["images"].shape).astype(np.float32)
    mask = np.repeat(plain["masked"][:, :, None], 2 * 2 * 3, axis=2)
    mask = np.asarray(vit.unpatchify(jnp.asarray(mask), 2, 8))
    hidden = given | {"images": np.where(mask == 1, noise, given["images"])}
    seen = given | {"images": np.where(mask == 0, noise, given["images"])}
    np.testing.assert_array_equal(outputs(hidden, key=0)["reconstructed"], plain["reconstructed"])
    assert np.abs(outputs(seen, key=0)["reconstructed"] - plain["reconstructed"]).max() > 1e-2
    np.testing.assert_array_equal(plain["patches"], vit.patches(jnp.asarray(given["images"]), 2))


def test_a_reconstruction_stands_at_its_patch():
    """An encoder and a decoder that pass on what they get: a patch that is seen comes out again."""
    fields = dict(width=12, decoder_width=12, heads=1, decoder_heads=1)
    made = families.make(NAME, **fields)
    shapes = meta.unbox(jax.eval_shape(made.init, jax.random.key(0), made.example))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for name in ("patches/product", "decoder_embedding", "pixels"):
        at = functools.reduce(lambda tree, key: tree[key], name.split("/"), params)
        at["kernel"] = np.eye(12, dtype=np.float32)
    for name in ("final_norm", "decoder_norm"):
        params[name]["scale"] = np.ones(12, np.float32)
    # Large, so that the decoder's positions are little beside them.
    given = batch(3)
    found = jax.jit(made.apply)(params, given | {"images": 1000 * given["images"]})

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True))

    from bigmodel.layers import positions

    places = np.asarray(positions.sinusoids_2d(4, 4, 12))
    seen = found["masked"] == 0
    wanted = norm(norm(np.asarray(found["patches"])) + places)
    np.testing.assert_allclose(found["reconstructed"][seen], wanted[seen], atol=1e-4)
    hidden = norm(np.broadcast_to(places, wanted.shape))
    np.testing.assert_allclose(found["reconstructed"][~seen], hidden[~seen], atol=1e-4)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_encoder_has_the_names_and_shapes_of_a_vit(pooling):
    made = families.make(NAME, pooling=pooling)
    own = trees.flatten(meta.unbox(jax.eval_shape(made.init, jax.random.key(0), made.example)))
    other = vit.make(image=8, patch=2, classes=0, pooling=pooling, **families.SMALL)
    for path, leaf in trees.flatten(
        meta.unbox(jax.eval_shape(other.init, jax.random.key(0), other.example))
    ).items():
        assert (own[path].shape, own[path].dtype) == (leaf.shape, leaf.dtype), path


def test_a_vit_with_the_encoders_parameters_sees_what_it_sees():
    """Where nothing is hidden the encoder is a ViT, its patches in another order."""
    params, given = families.params(NAME), batch(2)
    fields = families.SMALL | families.FAMILIES[NAME].fields | dict(mask_ratio=0.0)
    mae = masked_autoencoder.MaskedAutoencoder(**fields)
    order = np.asarray(mae.apply({}, given["rows"], None, method="order"))
    is_last = lambda module, _: module.name == "final_norm"  # noqa: E731
    kept = mae.apply({"params": params}, given, capture_intermediates=is_last)[1]
    found = kept["intermediates"]["final_norm"]["__call__"][0]

    other = vit.make(image=8, patch=2, classes=0, pooling="class", **families.SMALL)
    own = jax.eval_shape(other.init, jax.random.key(0), other.example)
    wanted = other.apply({name: params[name] for name in own}, given)["hidden"]
    np.testing.assert_allclose(found[:, 0], wanted[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found[:, 1:], wanted[np.arange(2)[:, None], 1 + order], rtol=1e-4, atol=1e-4
    )


def test_a_trained_start_is_sines_and_cosines_and_zero_for_the_class():
    from bigmodel.layers import positions

    made = families.make(NAME)
    table = meta.unbox(jax.jit(made.init)(jax.random.key(0), made.example))["positions"]
    assert not table[0].any()
    np.testing.assert_array_equal(table[1:], positions.sinusoids_2d(4, 4, 16))


def telling(found):
    return types.SimpleNamespace(apply=lambda params, batch, rngs=None: found)


def example():
    draw = np.random.default_rng(0)
    masked = np.zeros((3, 8), np.float32)
    masked[[0, 0, 1, 1, 2, 2], [0, 3, 1, 7, 4, 5]] = 1
    return {
        "patches": draw.normal(2.0, 3.0, (3, 8, 12)).astype(np.float32),
        "reconstructed": draw.normal(size=(3, 8, 12)).astype(np.float32),
        "masked": masked,
    }


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_is_that_of_hidden_patches(normalize):
    found, weights = example(), np.array([1.0, 0.0, 2.0], np.float32)
    loss, sums = pixels.masked_image(telling(found), normalize=normalize)(
        {}, {"weights": weights}, None
    )
    target = found["patches"].astype(np.float64)
    if normalize:
        target = (target - target.mean(-1, keepdims=True)) / target.std(-1, keepdims=True)
    error = ((found["reconstructed"] - target) ** 2).mean(-1)
    error = (error * found["masked"]).sum(-1) / 2
    np.testing.assert_allclose(loss, (error * weights).sum(), rtol=1e-5)
    assert sums["weight"] == 3


def test_a_patch_of_one_shade_has_a_finite_target():
    found = example() | {"patches": np.full((3, 8, 12), -1.0, np.float32)}
    loss, _ = pixels.masked_image(telling(found))({}, {}, None)
    wanted = (np.square(found["reconstructed"]).mean(-1) * found["masked"]).sum() / 2
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_parts_and_order_hide_the_same():
    objective = pixels.masked_image(families.make(NAME))
    gradient = jax.value_and_grad(objective, has_aux=True)

    def of_parts(times):
        split = step.accumulated(lambda p, _, *rest: gradient(p, *rest), times)
        return jax.jit(lambda b: split(families.params(NAME), {}, b, jax.random.key(2))[0])

    whole, sums = of_parts(1)(batch(4))
    turned = {name: array[::-1] for name, array in batch(4).items()}
    for times, given in ((2, batch(4)), (1, turned)):
        found, again = of_parts(times)(given)
        np.testing.assert_allclose(found, whole, rtol=1e-5)
        assert again["weight"] == sums["weight"] == 4


# The vision transformers of Dosovitskiy et al. 2021 without a head, as timm counts them, and the
# decoder of He et al. 2022 without its fixed positions.
PUBLISHED = {"base": 85_798_656, "large": 303_301_632, "huge": 630_764_800}


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_size_has_the_published_parameters(size):
    fields = runpy.run_path(str(runs.ROOT / "configs" / "mae.py"))["SIZES"][size]
    made = masked_autoencoder.make(**fields)
    shapes = meta.unbox(jax.eval_shape(made.init, jax.random.key(0), made.example))
    decoder = {name: tree for name, tree in shapes.items() if name in DECODER}
    assert trees.count(shapes) - trees.count(decoder) == PUBLISHED[size]
    if size == "base":  # facebook/vit-mae-base, with 197 fixed positions of width 512
        assert trees.count(shapes) + 197 * 512 == 111_907_840


DECODER = ("decoder_embedding", "mask_token", "decoder_layers", "decoder_norm", "pixels")


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(patch=3), "model.patch = 3 does not divide model.image = 8"),
        (dict(mask_ratio=0.99), "model.mask_ratio = 0.99: of 16 patches"),
        (dict(mask_ratio=0.0), "model.mask_ratio = 0.0: of 16 patches"),
        (dict(pooling="attention"), "model.pooling = 'attention'.*class, mean"),
        (dict(decoder_width=18), "model.decoder_width = 18.*multiples of 4"),
        (dict(decoder_heads=3), "model.decoder_heads = 3.*divide model.decoder_width = 8"),
    ],
)
def test_fields_that_make_no_model_are_refused(fields, words):
    with pytest.raises(config.InputError, match=words):
        families.make(NAME, **fields)
