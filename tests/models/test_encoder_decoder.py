"""Laws of encoder-decoders: what each side sees, caches of a source, and the published models."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel import config, recipe, trees
from bigmodel.data import paired
from bigmodel.models import encoder_decoder
from tests.models.families import PAIRS, SMALL, make, pairs, params

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

over_kinds = pytest.mark.parametrize("name", PAIRS)


def assert_close(found, wanted, tolerance=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@functools.cache
def applied(name):
    return jax.jit(make(name).apply)


def hidden(name, batch):
    return applied(name)(params(name), batch)["hidden"]


def with_segments(batch, segments):
    segments = np.broadcast_to(np.asarray(segments, np.int32), batch["tokens"].shape)
    return batch | {"segments": segments}


@over_kinds
def test_a_token_sees_no_later_one_and_all_of_its_source(name):
    batch = pairs(1, 0)
    batch["source_segments"] = np.ones_like(batch["source"])
    whole = hidden(name, batch)
    for place in range(6):
        other = batch["tokens"].copy()
        other[0, place] = (other[0, place] + 1) % 17
        moved = np.abs(hidden(name, batch | {"tokens": other}) - whole).max(-1)[0]
        assert (moved[:place] == 0).all()
        assert (moved[place:] > 1e-4).all()
    for place in range(8):
        other = batch["source"].copy()
        other[0, place] = (other[0, place] + 1) % 17
        moved = np.abs(hidden(name, batch | {"source": other}) - whole).max(-1)[0]
        assert (moved > 1e-5).all()


@over_kinds
@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.families), 4])
def test_cached_decoding_is_the_full_forward(name, at_once):
    """Prompts that are padded on the left, some tokens at a time, after an encoder's one run."""
    model, batch = make(name), pairs(3, 1)
    T, before = 8, np.array([0, 2, 3])
    draw = np.random.default_rng(2)
    tokens = draw.integers(0, 17, (3, T)).astype(np.int32)
    places = np.arange(T)[None] - before[:, None]
    padded = {
        "tokens": tokens,
        "segments": (places >= 0).astype(np.int32),
        "positions": np.maximum(places, 0).astype(np.int32),
    }
    source = {name: batch[name] for name in ("source", "source_segments")}
    cache = jax.jit(model.new_cache, static_argnums=2)(params(name), source | padded, 11)
    step = jax.jit(model.apply)
    found = []
    for start in range(0, T, at_once):
        some = {key: array[:, start : start + at_once] for key, array in padded.items()}
        outputs = step(params(name), some, cache=cache)
        cache = outputs["cache"]
        found.append(outputs["logits"])
    found = np.concatenate(found, axis=1)
    assert int(cache["index"]) == T
    for row in range(3):
        alone = {key: array[row : row + 1] for key, array in source.items()}
        alone["tokens"] = tokens[row : row + 1, before[row] :]
        assert_close(found[row, before[row] :], model.apply(params(name), alone)["logits"][0])


@over_kinds
def test_without_segments_a_source_and_its_tokens_are_whole(name):
    batch = pairs(2, 0)
    ones = np.ones_like(batch["source"])
    whole = hidden(name, batch | {"source_segments": ones})
    plain = {key: batch[key] for key in ("source", "tokens")}
    assert_close(hidden(name, plain), whole)
    assert_close(hidden(name, with_segments(plain, 1)), whole)


@over_kinds
def test_what_stands_in_the_padding_of_the_tokens_changes_nothing(name):
    batch = with_segments(pairs(2, 0), [1, 1, 1, 1, 0, 0])
    other = batch["tokens"].copy()
    other[:, 4:] = (other[:, 4:] + 1) % 17
    assert_close(hidden(name, batch | {"tokens": other})[:, :4], hidden(name, batch)[:, :4], 1e-6)


@over_kinds
def test_rows_of_zeros_are_finite(name):
    """As the last batch of an evaluation is filled up: nothing is real, nothing is seen."""
    batch = {key: np.zeros_like(array) for key, array in with_segments(pairs(2, 0), 0).items()}
    assert np.isfinite(hidden(name, batch)).all()


def test_the_first_scores_of_unscaled_attention_are_those_of_scaled():
    found = []
    for scale in (0.0, 1.0):
        fields = SMALL | PAIRS["t5"] | dict(attention_scale=scale)
        model = encoder_decoder.make(**fields)
        made = meta.unbox(jax.jit(model.init)(jax.random.key(0), model.example))
        found.append(jax.jit(model.apply)(made, pairs(2, 0))["hidden"])
    assert_close(*found)


PUBLISHED_PARAMETERS = {
    "small": 60_506_624,
    "base": 222_903_552,
    "large": 737_668_096,
    "3b": 2_851_598_336,
    "11b": 11_307_321_344,
    "1.1-small": 76_961_152,
    "1.1-base": 247_577_856,
    "1.1-large": 783_150_080,
    "1.1-xl": 2_849_757_184,
    "1.1-xxl": 11_135_332_352,
}


def parameters(file, size):
    values = recipe.resolve(config.load(f"{CONFIGS}/{file}:{size}")).config
    fields = config.resolve(values.model, encoder_decoder.EncoderDecoder, "model")
    model = encoder_decoder.make(**fields)
    return trees.count(meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example)))


@pytest.mark.parametrize("size", PUBLISHED_PARAMETERS)
def test_a_t5_has_the_published_parameters(size):
    """Of small, base, large, 1.1-small and 1.1-base as given out; the others worked out, to be held
    against the weights of t5-3b, -11b, t5-v1_1-large, -xl and -xxl."""
    assert parameters("t5.py", size) == PUBLISHED_PARAMETERS[size]


@pytest.mark.parametrize(("size", "millions"), [("base", 65), ("big", 213)])
def test_a_transformer_has_the_parameters_of_table_3(size, millions):
    """Vaswani et al. 2017 say them in millions, of a vocabulary of "about" 37,000."""
    assert parameters("transformer.py", size) / 1e6 == pytest.approx(millions, rel=0.04)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(position="rope"), "model.position = 'rope': allowed are sinusoidal, none"),
        (dict(encoder_layers=-1), "model.encoder_layers = -1"),
        (dict(relative_buckets=6), "model.relative_buckets = 6"),
        (dict(relative_buckets=32, relative_distance=16), "model.relative_distance = 16"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, named):
    with pytest.raises(config.InputError) as refused:
        encoder_decoder.make(**fields)
    assert named in str(refused.value)


@over_kinds
def test_packed_pairs_are_those_pairs_alone(name):
    """Two pairs beside each other in a row, and each in a row of its own."""
    ids = np.random.default_rng(5).integers(1, 17, 18).tolist()
    two = [(ids[:3], ids[3:7]), (ids[7:12], ids[12:15])]
    alone = hidden(name, paired.batch_of([[pair] for pair in two], 8, 8, 0))
    (beside,) = hidden(name, paired.batch_of([two], 8, 8, 0))
    assert_close(beside[:4], alone[0, :4])
    assert_close(beside[4:7], alone[1, :3])
