"""Laws of generation, on a small model of tables: each token depends on all before it."""

import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigmodel.config import InputError
from bigmodel.decode import generate as generation
from bigmodel.decode import prompting
from bigmodel.decode.generate import generate
from bigmodel.decode.sampling import Sampling, next_tokens

V, D, LONGEST = 13, 8, 128
FADE = 0.8


@dataclasses.dataclass(frozen=True)
class Tables:
    """Hidden state: the embeddings of the tokens so far, fading with distance, plus the place's."""

    apply: Callable
    new_cache: Callable
    head: Callable = lambda params: params["head"]
    unembed: Callable = lambda head, hidden: (hidden @ head).astype(jnp.float32)


def apply(params, batch, rngs=None, cache=None):
    at = (0, cache["index"])
    cache = {name: jax.lax.dynamic_update_slice(cache[name], batch[name], at) for name in batch} | {
        "index": cache["index"] + batch["tokens"].shape[1]
    }
    distance = batch["positions"][:, :, None] - cache["positions"][:, None, :]
    seen = (cache["segments"] > 0)[:, None, :] & (distance >= 0)
    weights = jnp.where(seen, FADE**distance, 0.0)
    hidden = jnp.einsum("BTS,BSD->BTD", weights, params["embed"][cache["tokens"]])
    hidden += params["places"][batch["positions"]]
    return {"hidden": hidden, "cache": cache}


def new_cache(params, batch, length):
    shape = (batch["tokens"].shape[0], length)
    names = ("tokens", "segments", "positions")
    return {name: jnp.zeros(shape, jnp.int32) for name in names} | {"index": jnp.int32(0)}


MODEL = Tables(apply=apply, new_cache=new_cache)


def make_params():
    rng = np.random.default_rng(0)
    shapes = {"embed": (V, D), "places": (LONGEST, D), "head": (D, V)}
    return {name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}


PARAMS = make_params()
PROMPTS = [np.array([1, 2, 3]), np.array([4]), np.arange(20) % V, np.array([5, 6, 7, 8, 9])]
GREEDY = Sampling(temperature=0.0)
run = functools.partial(generate, MODEL, PARAMS, multiple=8)  # so that all tests share programs
draw = jax.jit(next_tokens, static_argnums=3)


def full_logits(text):
    """Logits after the text, all of it at once, without cache or padding."""
    distance = np.arange(len(text))[::-1]
    hidden = (FADE ** distance[:, None] * PARAMS["embed"][text]).sum(axis=0)
    return (hidden + PARAMS["places"][len(text) - 1]) @ PARAMS["head"]


def by_hand(prompt, count, how=GREEDY, address=(0, 0, 0), eos=()):
    """One sample, token by token, from the full pass."""
    seed, *rest = address
    key = functools.reduce(jax.random.fold_in, rest, jax.random.key(seed))
    text = list(prompt)
    while len(text) < len(prompt) + count and not (text[len(prompt) :] and text[-1] in eos):
        logits = full_logits(text)[None]
        if how == GREEDY:
            text.append(int(logits.argmax()))
        else:
            seen = np.isin(np.arange(V), text)[None]
            text.append(int(draw(logits, seen, jax.random.fold_in(key, len(text))[None], how)[0]))
    return text[len(prompt) :]


def lists(samples):
    return [sample.tolist() for sample in samples]


def test_cached_and_padded_generation_is_the_full_pass_token_by_token():
    expected = [by_hand(prompt, 10) for prompt in PROMPTS]
    assert lists(run(PROMPTS, max_new_tokens=10, sampling=GREEDY)) == expected


def test_samples_are_those_of_their_address_and_penalty_counts_prompt_and_output():
    how = Sampling(temperature=1.3, top_k=9, repetition_penalty=1.7)
    found = run(PROMPTS[:2], max_new_tokens=8, sampling=how, seed=5, num_return_sequences=2)
    expected = [by_hand(PROMPTS[i], 8, how, (5, i, j)) for i in (0, 1) for j in (0, 1)]
    assert lists(found) == expected


@pytest.mark.parametrize("options", [{"block": 3}, {"rows": 4, "multiple": 1}], ids=str)
def test_a_sample_does_not_depend_on_blocks_batch_or_padding(options):
    together = run(PROMPTS, max_new_tokens=12, num_return_sequences=2)
    assert lists(run(PROMPTS, max_new_tokens=12, num_return_sequences=2, **options)) == lists(
        together
    )


def test_a_sample_does_not_depend_on_its_neighbours():
    together = run(PROMPTS, max_new_tokens=12, num_return_sequences=2)
    alone = run(PROMPTS[:1], max_new_tokens=12)
    assert lists(together[:1]) == lists(alone)
    other = run([np.arange(30) % V, PROMPTS[1]], max_new_tokens=12)
    assert lists(together[2:3]) == lists(other[1:])


def test_a_seed_reproduces_and_another_seed_or_sample_differs():
    first, again, other = (
        lists(run(PROMPTS[:1], max_new_tokens=12, num_return_sequences=2, seed=seed))
        for seed in (2**32 - 1, 2**32 - 1, 4)
    )
    assert first == again
    assert len({tuple(sample) for sample in first + other}) == 4


def test_a_text_ends_with_its_end_token_and_the_others_go_on():
    free = [by_hand(prompt, 12) for prompt in PROMPTS]
    eos = free[0][4]
    found = run(PROMPTS, max_new_tokens=12, sampling=GREEDY, eos=eos)
    assert lists(found) == [by_hand(prompt, 12, eos=(eos,)) for prompt in PROMPTS]
    assert len({len(sample) for sample in found}) > 1
    several = run(PROMPTS, max_new_tokens=12, sampling=GREEDY, eos=(eos, free[1][1]))
    assert lists(several) == [by_hand(prompt, 12, eos=(eos, free[1][1])) for prompt in PROMPTS]


def test_decoding_stops_when_all_rows_have_ended():
    batch = prompting.left_padded(PROMPTS[:1])
    rules = generation.Rules(GREEDY, (), None)
    who = np.zeros((1, 3), np.uint32)
    static = {"model": MODEL, "rules": rules}
    state, _ = generation.prefill(PARAMS, batch, who, np.array([4]), length=128, **static)
    start = int(state.cache["index"])
    state, tokens = generation.decode(PARAMS, state, who, block=16, **static)
    assert int(state.cache["index"]) == start + 3
    assert np.sum(np.asarray(tokens) >= 0) == 3


def test_max_length_counts_the_prompt_and_max_new_tokens_does_not():
    lengths = functools.partial(map, len)
    assert list(lengths(run(PROMPTS, max_new_tokens=6))) == [6, 6, 6, 6]
    assert list(lengths(run(PROMPTS, max_length=6))) == [3, 5, 0, 1]
    assert list(lengths(run(PROMPTS, max_length=6, max_new_tokens=2))) == [2, 2, 0, 1]
    assert list(lengths(run(PROMPTS, max_new_tokens=0))) == [0, 0, 0, 0]


def test_a_shorter_limit_gives_the_start_of_the_same_sample():
    long, short = (run(PROMPTS, max_new_tokens=count) for count in (20, 7))
    assert [sample[:7].tolist() for sample in long] == lists(short)


def test_tokens_are_streamed_in_the_order_in_which_they_are_returned():
    pieces = []
    found = run(
        PROMPTS,
        max_new_tokens=12,
        block=3,
        num_return_sequences=2,
        on_tokens=lambda index, tokens: pieces.append((index, tokens.tolist())),
    )
    for index, sample in enumerate(found):
        own = [tokens for of, tokens in pieces if of == index]
        assert list(map(len, own)) == [1, 3, 3, 3, 2]
        assert [token for tokens in own for token in tokens] == sample.tolist()
    assert [of for of, _ in pieces[:8]] == list(range(8))


def test_tokens_that_pad_the_vocabulary_are_never_drawn():
    free, bound = (np.concatenate(run(PROMPTS, max_new_tokens=30, vocab=v)) for v in (None, 7))
    assert free.max() >= 7
    assert bound.max() < 7


def test_prompts_and_limits_of_one_bucket_share_their_programs():
    def programs():
        return [program._cache_size() for program in (generation.prefill, generation.decode)]  # type: ignore[attr-defined]

    before = programs()
    how = Sampling(temperature=0.123)  # seen by no other test
    for length, count in ((1, 3), (9, 50), (16, 90)):
        run([np.ones(length, int)], max_new_tokens=count, sampling=how)
    assert programs() == [count + 1 for count in before]


def test_generation_on_a_mesh_draws_the_same_tokens_and_fetches_no_parameters():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"embed": (None, "data"), "places": ("data", None), "head": ("data", None)}
    params = {
        name: jax.device_put(
            PARAMS[name], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        )
        for name, spec in specs.items()
    }
    with jax.transfer_guard_device_to_host("disallow"):
        found = generate(MODEL, params, PROMPTS, max_new_tokens=12, multiple=8)
    assert lists(found) == lists(run(PROMPTS, max_new_tokens=12))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "max_new_tokens, max_length"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"max_new_tokens": 1, "num_return_sequences": 0}, "num_return_sequences=0"),
        ({"max_new_tokens": 1, "seed": -1}, "seed=-1"),
        ({"max_new_tokens": 1, "prompts": [np.ones(1, int), np.ones(0, int)]}, "prompt 1"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_value(options, named):
    with pytest.raises(InputError, match=re.escape(named)):
        run(**{"prompts": PROMPTS, **options})
