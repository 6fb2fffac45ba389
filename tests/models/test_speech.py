"""Laws of models of speech: Whisper as its paper states it, what is heard, caches, refusals."""

import functools
import math
import pathlib

import jax
import numpy as np
import pytest
from flax.core import meta

from bigmodel import config, models, recipe, trees
from bigmodel.models import speech, speech_encoder
from tests.models.families import FAMILIES, make, params, sounds, spoken

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def assert_close(found, wanted, tolerance=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@functools.cache
def applied(name):
    return jax.jit(make(name).apply)


def outputs(batch, name="speech"):
    return applied(name)(params(name), batch)


# Whisper in float64, out of the paper (arXiv:2212.04356, section 2.2) and, where that leaves it
# open, github.com/openai/whisper, whisper/model.py. One row: no axis of the batch.


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def normed(x, p):
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / spread * p["scale"] + p["bias"]


def convolved(x, p, stride):
    """Kernel 3, padding 1, written out place by place."""
    found = []
    for centre in range(0, len(x), stride):
        total = p["bias"].copy()
        for tap in range(3):
            at = centre + tap - 1
            if 0 <= at < len(x):
                total += x[at] @ p["kernel"][tap]
        found.append(total)
    return np.stack(found)


def sines(length, width):
    step = math.log(10_000) / (width // 2 - 1)
    turns = np.arange(length)[:, None] * np.exp(-step * np.arange(width // 2))
    return np.concatenate([np.sin(turns), np.cos(turns)], axis=1)


def attended(x, memory, p, *, causal):
    assert "bias" not in p["key"]
    q = np.einsum("td,dhc->htc", x, p["query"]["kernel"]) + p["query"]["bias"][:, None]
    k = np.einsum("sd,dhc->hsc", memory, p["key"]["kernel"])
    v = np.einsum("sd,dhc->hsc", memory, p["value"]["kernel"]) + p["value"]["bias"][:, None]
    scores = np.einsum("htc,hsc->hts", q, k) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(len(x), len(memory), dtype=bool), scores, -np.inf)
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    seen = np.einsum("hts,hsc->thc", chances, v)
    return np.einsum("thc,hcd->td", seen, p["out"]["kernel"]) + p["out"]["bias"]


def through(x, p, memory=None):
    """A layer: pre-norm, with attention to a memory where there is one, and causal then."""
    normal = normed(x, p["attention_norm"])
    x = x + attended(normal, normal, p["attention"], causal=memory is not None)
    if memory is not None:
        x = x + attended(normed(x, p["cross_norm"]), memory, p["cross"], causal=False)
    hidden = normed(x, p["feedforward_norm"]) @ p["feedforward"]["up"]["kernel"]
    hidden = gelu(hidden + p["feedforward"]["up"]["bias"])
    return x + hidden @ p["feedforward"]["down"]["kernel"] + p["feedforward"]["down"]["bias"]


def layers(stack):
    count = len(jax.tree.leaves(stack)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(count)]


def heard(p, audio, stack, norm):
    x = gelu(convolved(audio, p["stem"]["first"], 1))
    x = gelu(convolved(x, p["stem"]["second"], 2))
    x = x + sines(*x.shape)
    for layer in layers(p[stack]):
        x = through(x, layer)
    return normed(x, p[norm])


def in_float64(name):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params(name))


@pytest.mark.parametrize("frames", [12, 7, 1])
def test_whisper_is_what_its_paper_states(frames):
    """Of fewer frames than the row has: the rest is not there, in either convolution."""
    batch, p = spoken(2, 0), in_float64("speech")
    batch["audio_segments"][:] = np.arange(12) < frames
    found = outputs(batch)
    for row in range(2):
        memory = heard(
            p, np.float64(batch["audio"][row, :frames]), "encoder_layers", "encoder_norm"
        )
        tokens = batch["tokens"][row]
        x = p["embed"]["table"][tokens] + p["positions"]["table"][: len(tokens)]
        for layer in layers(p["layers"]):
            x = through(x, layer, memory)
        x = normed(x, p["final_norm"])
        assert_close(found["memory"][row, : len(memory)], memory, 1e-4)
        assert_close(found["logits"][row], x @ p["embed"]["table"].T, 1e-4)


def test_an_encoder_of_speech_has_whispers_encoder_and_a_head():
    batch, p = sounds(2, 0), in_float64("speech_encoder")
    found = outputs(batch, "speech_encoder")
    assert np.array_equal(found["frame_segments"], batch["audio_segments"][:, ::2])
    for row in range(2):
        audio = batch["audio"][row, batch["audio_segments"][row] > 0]
        hidden = heard(p, np.float64(audio), "layers", "final_norm")
        logits = hidden @ p["head"]["kernel"] + p["head"]["bias"]
        assert_close(found["frame_logits"][row, : len(logits)], logits, 1e-4)


@pytest.mark.parametrize("name", ["speech", "speech_encoder"])
def test_without_segments_all_is_sound(name):
    batch = FAMILIES[name].batch(2, 0)
    whole = outputs(batch | {"audio_segments": np.ones_like(batch["audio_segments"])}, name)
    del batch["audio_segments"]
    found = outputs(batch, name)
    for key in FAMILIES[name].outputs:
        assert_close(found[key], whole[key])
    if name == "speech":
        ones = np.ones_like(batch["tokens"])
        assert_close(outputs(batch | {"segments": ones})["logits"], whole["logits"])
    else:
        assert (np.asarray(found["frame_segments"]) == 1).all()


def test_a_token_sees_no_later_one_and_all_of_its_sound():
    batch = spoken(1, 0)
    batch["audio_segments"][:] = 1
    whole = outputs(batch)["hidden"]
    for place in range(6):
        other = batch["tokens"].copy()
        other[0, place] = (other[0, place] + 1) % 17
        moved = np.abs(outputs(batch | {"tokens": other})["hidden"] - whole).max(-1)[0]
        assert (moved[:place] == 0).all()
        assert (moved[place:] > 1e-4).all()
    for place in range(12):
        other = batch["audio"].copy()
        other[0, place] += 1
        moved = np.abs(outputs(batch | {"audio": other})["hidden"] - whole).max(-1)[0]
        assert (moved > 1e-5).all()


def test_what_stands_in_the_padding_of_the_tokens_changes_nothing():
    segments = np.broadcast_to(np.int32([1, 1, 1, 1, 0, 0]), (2, 6))
    batch = spoken(2, 0) | {"segments": segments}
    other = batch["tokens"].copy()
    other[:, 4:] = (other[:, 4:] + 1) % 17
    found = outputs(batch | {"tokens": other})["hidden"]
    assert_close(found[:, :4], outputs(batch)["hidden"][:, :4], 1e-6)


@pytest.mark.parametrize("at_once", [1, 4])
def test_cached_decoding_is_the_full_forward(at_once):
    """Prompts that are padded on the left, some tokens at a time, after an encoder's one run."""
    model, batch = make("speech"), spoken(3, 1)
    T, before = 8, np.array([0, 2, 3])
    tokens = np.random.default_rng(2).integers(0, 17, (3, T)).astype(np.int32)
    places = np.arange(T)[None] - before[:, None]
    padded = {
        "tokens": tokens,
        "segments": (places >= 0).astype(np.int32),
        "positions": np.maximum(places, 0).astype(np.int32),
    }
    sound = {name: batch[name] for name in ("audio", "audio_segments")}
    cache = jax.jit(model.new_cache, static_argnums=2)(params("speech"), sound | padded, 11)
    step = jax.jit(model.apply)
    found = []
    for start in range(0, T, at_once):
        some = {key: array[:, start : start + at_once] for key, array in padded.items()}
        of_some = step(params("speech"), some, cache=cache)
        cache = of_some["cache"]
        found.append(of_some["logits"])
    found = np.concatenate(found, axis=1)
    assert int(cache["index"]) == T
    for row in range(3):
        alone = {key: array[row : row + 1] for key, array in sound.items()}
        alone["tokens"] = tokens[row : row + 1, before[row] :]
        assert_close(found[row, before[row] :], outputs(alone)["logits"][0])


@pytest.mark.parametrize("name", ["speech", "speech_encoder"])
def test_rows_of_zeros_are_finite(name):
    """As the last batch of an evaluation is filled up: nothing is real, nothing is heard."""
    batch = {key: np.zeros_like(array) for key, array in FAMILIES[name].batch(2, 0).items()}
    if name == "speech":
        batch["segments"] = np.zeros_like(batch["tokens"])
    assert np.isfinite(outputs(batch, name)["hidden"]).all()


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        (speech, dict(frames=11), "model.frames = 11"),
        (speech_encoder, dict(frames=0), "model.frames = 0"),
        (speech, dict(width=19, heads=1), "model.width = 19"),
        (speech_encoder, dict(width=2, heads=1), "model.width = 2"),
        (speech, dict(encoder_layers=-1), "model.encoder_layers = -1"),
    ],
)
def test_fields_that_cannot_be_are_refused(family, fields, named):
    with pytest.raises(config.InputError) as refused:
        family.make(**fields)
    assert named in str(refused.value)


def test_keys_have_no_bias_and_the_other_products_have():
    for name in ("speech", "speech_encoder"):
        model = make(name)
        made = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
        biased = {path for path in trees.flatten(made) if path.endswith("/bias")}
        products = ("query", "key", "value", "out")
        found = {word for word in products if any(f"/{word}/bias" in path for path in biased)}
        assert found == {"query", "value", "out"}


# As huggingface.co/openai/whisper-* count them, with the encoder's 1,500 positions. Those of .en,
# which have a token less, and of large-v3 (128 bands, a token more) are worked out.
PUBLISHED_PARAMETERS = {
    "whisper-tiny": 37_760_640,
    "whisper-base": 72_593_920,
    "whisper-small": 241_734_912,
    "whisper-medium": 763_857_920,
    "whisper-large": 1_543_304_960,
    "whisper-large-v2": 1_543_304_960,
    "whisper-large-v3": 1_543_304_960 + 48 * 3 * 1280 + 1280,
    "whisper-tiny.en": 37_760_640 - 384,
    "whisper-base.en": 72_593_920 - 512,
    "whisper-small.en": 241_734_912 - 768,
    "whisper-medium.en": 763_857_920 - 1024,
}


@functools.cache
def of_config(name):
    """The fields of a config's model, and shapes of its parameters by path."""
    section = recipe.resolve(config.load(f"{CONFIGS}/{name}")).config.model
    module, make = models.FAMILIES[section.name]
    model = make(**config.resolve(section, module, "model"))
    made = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), model.example))
    return section, trees.flatten(made)


@pytest.mark.parametrize("size", PUBLISHED_PARAMETERS)
def test_a_whisper_has_the_published_parameters_less_its_fixed_positions(size):
    section, made = of_config(f"whisper.py:{size}")
    fixed = section.frames // 2 * section.width
    assert trees.count(made) == PUBLISHED_PARAMETERS[size] - fixed
    stacks = {path.partition("/")[0]: leaf.shape[0] for path, leaf in made.items()}
    assert stacks["layers"] == stacks["encoder_layers"] == section.layers


@pytest.mark.parametrize("size", ["base", "small", "medium"])
def test_an_encoder_with_ctc_has_the_parameters_of_whispers_and_a_head(size):
    """Sizes "base", "small" and "medium" of configs/ctc.py."""
    section, made = of_config(f"ctc.py:{size}")
    _, whisper = of_config(f"whisper.py:whisper-{size}")
    encoder = ("stem/", "encoder_layers/", "encoder_norm/")
    wanted = trees.count({path: x for path, x in whisper.items() if path.startswith(encoder)})
    head = (section.width + 1) * section.vocab
    assert trees.count(made) == wanted + head
