"""Laws of widths: under mup an update moves what a model says as far at any width."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bigmodel
from bigmodel import recipe, trees
from bigmodel.config import InputError
from bigmodel.optimizers import mup

BASE, WIDTHS, STEPS = 128, (128, 512), 4


def decoder():
    made = bigmodel.default_config("decoder", objective="next_token")
    made.model.update(vocab=64, layers=1, tied=False, dtype="float32", length=16)
    made.data.update(source="python_stdlib", tokenizer="bytes", length=16)
    return made


def vit():
    made = bigmodel.default_config("vit", objective="classify", data="images")
    made.model.update(image=8, channels=1, patch=2, classes=10, layers=1, dtype="float32")
    made.data.update(source="digits", size=8, channels=1)
    return made


FAMILIES = {"decoder": decoder, "vit": vit}


def sizes(width):
    return dict(width=width, heads=width // 16, hidden=4 * width)


def run_of(family, width, optimizer, with_mup):
    made = FAMILIES[family]()
    made.batch = 8
    made.model.update(**sizes(width))
    made.optimizer.update(name=optimizer, weight_decay=0.0)
    made.schedule.update(name="constant", peak=5e-3)
    made.mesh.update(data=-1)
    if with_mup:
        made.mup.update(**sizes(BASE))
    return recipe.make(made, jax.devices()[:1])


def batch_of(family, rows=8):
    draw = np.random.default_rng(0)
    if family == "vit":
        pixels = draw.normal(size=(rows, 8, 8, 1)).astype(np.float32)
        classes = draw.integers(10, size=rows).astype(np.int32)
        return {"images": pixels, "labels": classes, "weights": np.ones(rows, np.float32)}
    tokens = draw.integers(64, size=(rows, 17)).astype(np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((rows, 16), np.float32),
    }


@functools.cache
def moved(family, width, optimizer, with_mup):
    """How far hidden vectors and logits move in some steps, as root mean squares."""
    run = run_of(family, width, optimizer, with_mup)
    batch = batch_of(family) | {"rows": np.arange(8, dtype=np.int32)}

    def says(params):
        outputs = run.model.apply(params, batch)
        logits = outputs["class_logits" if family == "vit" else "logits"]
        return {"hidden": outputs["hidden"], "logits": logits}

    @jax.jit
    def trained(rng):
        params = first = nn.unbox(run.model.init(rng, run.example))

        def step(carry, _):
            params, state = carry
            gradient = jax.grad(lambda p: run.objective(p, batch, rng)[0] / 8)(params)
            updates, state = run.optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = params, run.optimizer.init(params)
        (params, _), _ = jax.lax.scan(step, carry, length=STEPS)
        return jax.tree.map(lambda a, b: mup.rms(a - b), says(params), says(first))

    return {name: float(x) for name, x in trained(jax.random.key(0)).items()}


def slope(family, optimizer, name, with_mup):
    """Of the movement over the width, both as logarithms."""
    found = [moved(family, width, optimizer, with_mup)[name] for width in WIDTHS]
    return np.polyfit(np.log(WIDTHS), np.log(found), 1)[0]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.families)])
@pytest.mark.parametrize("family", ["decoder", pytest.param("vit", marks=pytest.mark.families)])
def test_what_a_model_says_moves_alike_at_any_width(family, optimizer):
    for name in ("hidden", "logits"):
        assert abs(slope(family, optimizer, name, True)) < 0.15, name


def test_without_it_wider_models_move_further():
    assert slope("decoder", "adamw", "logits", False) > 0.3


def kernels(run):
    params = trees.flatten(nn.unbox(jax.jit(run.model.init)(jax.random.key(0), run.example)))
    return {path: leaf for path, leaf in params.items() if path.endswith("kernel")}


def test_first_weights_are_those_of_table_3():
    base, plain, wide = (
        kernels(run_of("decoder", width, "adamw", with_mup))
        for width, with_mup in ((BASE, False), (512, False), (512, True))
    )
    for path, leaf in wide.items():
        expected = 1 / 4 if path == "head/kernel" else 1 / 2  # a fan-in of four times
        np.testing.assert_allclose(mup.rms(leaf) / mup.rms(base[path]), expected, rtol=1e-3)
        direction = np.asarray(leaf / mup.rms(leaf)), np.asarray(plain[path] / mup.rms(plain[path]))
        np.testing.assert_allclose(*direction, atol=1e-5)


def test_the_base_itself_is_as_without():
    with_mup, without = (kernels(run_of("decoder", BASE, "adamw", one)) for one in (True, False))
    jax.tree.map(np.testing.assert_array_equal, with_mup, without)
    assert run_of("decoder", BASE, "adamw", True).tuning.widths == {}


def test_muons_rate_is_what_lets_a_norm_grow_as_the_root_of_out_over_in():
    of_keys = (2, 64, 1, 8), (2, 16, 1, 8)  # one head, whatever the width
    grown = {
        "square": mup.growth("x/kernel", ("layers", "embed", "mlp"), (2, 64, 256), (2, 16, 64)),
        "narrow": mup.growth("x/kernel", ("layers", "embed", "kv_heads", "head_dim"), *of_keys),
        "head": mup.growth("head/kernel", ("embed", "vocab"), (64, 9), (16, 9)),
    }
    found = {name: one.rate(mup.MUON) for name, one in grown.items()}
    assert found == {"square": 1 / 2, "narrow": 1 / 4, "head": 1 / 4}


def test_rates_fall_and_decay_stays():
    params = {"kernel": jnp.full((2, 2), 3.0)}
    made = optax.adamw(0.1, weight_decay=0.5)
    scaled = mup.with_rates(made, {"kernel": 0.25})
    gradient = {"kernel": jnp.ones((2, 2))}
    still = {"kernel": jnp.zeros((2, 2))}
    for given, expected in ((gradient, -0.1 * (0.25 + 0.5 * 3.0)), (still, -0.1 * 0.5 * 3.0)):
        step, _ = scaled.update(given, scaled.init(params), params)
        np.testing.assert_allclose(step["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model.tied": True}, "embed/table, an embedding"),
        ({"model.layers": 3}, "not in layers"),
        ({"mup.vocab": 32}, "not in vocab"),
        ({"mup.hidden": 2048}, "as by mup.hidden"),
        ({"mup.heads": 0}, "model.heads"),
        ({"model.embed_scale": True}, "model.embed_scale = False"),
        ({"model.heads": 8, "model.attention_scale": 0.125}, "model.attention_scale = 0.0625"),
        ({"model.heads": 8}, "model.attention_scale = 0.0625"),
        ({"model.position": "none"}, "only one of the model and its base has"),
        ({"optimizer.name": "sgd", "optimizer.weight_decay": None}, "allowed are adam, adamw"),
        ({"lora.rank": 2}, "lora.rank = 0"),
        ({"mup.breadth": 3}, "'breadth'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_no_width_carries_over_to_is_refused(fields, told):
    made = decoder()
    made.model.update(**sizes(512))
    made.mup.update(**sizes(BASE), layers=1, position="learned")
    for name, value in fields.items():
        *sections, last = name.split(".")
        section = functools.reduce(getattr, sections, made)
        section[last] = value
    with pytest.raises(InputError, match=re.escape(told)):
        recipe.make(made, jax.devices()[:1])
