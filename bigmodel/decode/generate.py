"""Text from prompts with a key-value cache: one jitted pass over them, then blocks of tokens.

How prompts become a batch: decode/prompting.py.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import trees
from bigmodel.decode import prompting
from bigmodel.decode.prompting import CACHE_STEP, Cache, Functions, Params
from bigmodel.decode.sampling import Sampling, next_tokens


class Rules(NamedTuple):
    """What a token is drawn by; compiled into the program."""

    sampling: Sampling
    eos: tuple[int, ...]  # tokens that end a text
    vocab: int | None  # tokens from here on only pad the vocabulary


class State(NamedTuple):
    """Between two tokens."""

    cache: Cache
    token: jax.Array  # [B] the last token drawn, not in the cache yet
    position: jax.Array  # [B] its place in its text, counted from the prompt's first token
    left: jax.Array  # [B] tokens that the row may still draw; 0 once it has ended
    seen: jax.Array  # [B, V] tokens in prompt or output; V = 0 where there is no penalty


def generate(
    model: Functions,
    params: Params,
    prompts: Sequence[np.ndarray],
    *,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    eos: int | tuple[int, ...] = (),
    vocab: int | None = None,
    seed: int = 0,
    num_return_sequences: int = 1,
    on_tokens: Callable[[int, np.ndarray], None] | None = None,
    block: int = 16,
    rows: int = 64,
    multiple: int = 1,
    inputs: Mapping[str, np.ndarray] | None = None,
    prefix: bool = False,
    shortest: int = prompting.SHORTEST,
) -> list[np.ndarray]:
    """Samples that go on where the prompts end.

    The random numbers of a token are addressed by (seed, prompt, sample, place in the text): the
    other rows of the batch, padding and blocks do not change them.

    Args:
        model: the model's functions.
        params: its parameters, on any mesh; they stay where they are.
        prompts: token ids, at least one each (a document's first token is the tokenizer's bos).
        max_new_tokens: longest sample, without the prompt.
        max_length: longest text, prompt and sample. One of the two limits at least is needed.
        sampling: how a token is drawn.
        eos: the token, or tokens, that end a text.
        vocab: tokens from this id on are never drawn: those that pad the vocabulary.
        seed: other seed, other samples.
        num_return_sequences: samples per prompt.
        on_tokens: called with (index in the result, new tokens) whenever some are there.
        block: most tokens a row between two calls of `on_tokens`.
        rows: most rows at a time.
        multiple: the number of rows is rounded up to it: devices that a mesh cuts the batch over.
        inputs: what the model reads besides, [prompts, ...] each: a source, and its segments.
        prefix: whether the tokens of a prompt all see each other.
        shortest: prompts are padded to so many tokens, where one program is to do for many calls.

    Returns:
        One int32 array of new tokens per sample, those of the first prompt first. It ends with the
        token of `eos` that ended it, or is cut by a limit.
    """
    prompting.check(prompts, max_new_tokens, max_length, num_return_sequences, seed)
    rules = Rules(sampling, (eos,) if isinstance(eos, int) else tuple(eos), vocab)
    samples = [(i, j) for i in range(len(prompts)) for j in range(num_return_sequences)]
    pieces: list[list[np.ndarray]] = [[] for _ in samples]
    limits = dict(max_new_tokens=max_new_tokens, max_length=max_length)
    how: dict[str, Any] = limits | dict(
        multiple=multiple, inputs=inputs, prefix=prefix, shortest=shortest
    )
    for start in range(0, len(samples), rows):
        addresses = [(seed, i, j) for i, j in samples[start : start + rows]]
        begun = prompting.begun(prompts, addresses, **how)
        for tokens in _stream(model, params, rules, *begun, block):
            for index, drawn in enumerate(tokens, start):
                drawn = drawn[drawn >= 0]
                if len(drawn):
                    pieces[index].append(drawn)
                    if on_tokens is not None:
                        on_tokens(index, drawn)
    return [np.concatenate([np.zeros(0, np.int32), *parts]) for parts in pieces]


def _stream(
    model: Functions,
    params: Params,
    rules: Rules,
    batch: dict[str, np.ndarray],
    addresses: list[tuple[int, int, int]],
    left: list[int],
    block: int,
) -> Iterator[np.ndarray]:
    """Tokens [B, n], -1 where a row drew none, until all rows have ended."""
    if not any(left):
        return
    length = prompting.round_up(batch["tokens"].shape[1] + max(left), CACHE_STEP)
    who = np.array(addresses, np.uint32)
    state, tokens = prefill(
        params, batch, who, np.array(left, np.int32), model=model, rules=rules, length=length
    )
    while True:
        yield trees.on_host(tokens)
        if not trees.on_host(state.left).any():
            return
        state, tokens = decode(params, state, who, model=model, rules=rules, block=block)


@functools.partial(jax.jit, static_argnames=("model", "rules", "length"))
def prefill(
    params: Params,
    batch: dict[str, jax.Array],
    addresses: jax.Array,
    left: jax.Array,
    *,
    model: Functions,
    rules: Rules,
    length: int,
) -> tuple[State, jax.Array]:
    """Reads the prompts into a new cache and draws each row's first token, [B, 1].

    Args:
        params: the model's parameters.
        batch: tokens, segments and positions [B, T], padded on the left.
        addresses: [B, 3] uint32, what the random numbers of a row depend on.
        left: [B] int32, how many tokens a row may draw.
        model: the model's functions.
        rules: how to draw.
        length: tokens a row that the cache has room for.
    """
    cache = model.new_cache(params, batch, length)
    outputs = model.apply(params, batch, cache=cache)
    logits = model.unembed(model.head(params), outputs["hidden"][:, -1])
    B, V = logits.shape
    seen = jnp.zeros((B, V if rules.sampling.repetition_penalty != 1 else 0), bool)
    seen = seen.at[jnp.arange(B)[:, None], batch["tokens"]].max(batch["segments"] > 0, mode="drop")
    last = State(
        outputs["cache"], batch["tokens"][:, -1], batch["positions"][:, -1], jnp.asarray(left), seen
    )
    state, drawn = _draw(last, logits, _keys(addresses), rules)
    return state, drawn[:, None]


@functools.partial(jax.jit, static_argnames=("model", "rules", "block"), donate_argnames=("state",))
def decode(
    params: Params,
    state: State,
    addresses: jax.Array,
    *,
    model: Functions,
    rules: Rules,
    block: int,
) -> tuple[State, jax.Array]:
    """Up to `block` more tokens a row, [B, block]; stops early once all rows have ended."""
    head, keys = model.head(params), _keys(addresses)  # once, outside the loop
    B = state.token.shape[0]

    def going(carry):
        count, state, _ = carry
        return (count < block) & jnp.any(state.left > 0)

    def step(carry):
        count, state, tokens = carry
        batch = {
            "tokens": state.token[:, None],
            "segments": jnp.ones((B, 1), jnp.int32),
            "positions": state.position[:, None],
        }
        outputs = model.apply(params, batch, cache=state.cache)
        logits = model.unembed(head, outputs["hidden"][:, -1])
        state, drawn = _draw(state._replace(cache=outputs["cache"]), logits, keys, rules)
        return count + 1, state, tokens.at[:, count].set(drawn)

    tokens = jnp.full((B, block), -1, jnp.int32)
    _, state, tokens = jax.lax.while_loop(going, step, (0, state, tokens))
    return state, tokens


def _draw(
    state: State, logits: jax.Array, keys: jax.Array, rules: Rules
) -> tuple[State, jax.Array]:
    """The next token of each row that has not ended, -1 for the others.  [B, V] -> [B]"""
    B, V = logits.shape
    if rules.vocab is not None and rules.vocab < V:
        logits = jnp.where(jnp.arange(V) < rules.vocab, logits, -jnp.inf)
    going = state.left > 0
    # A row that has ended stays where it is: the next position might be past the model's last.
    position = jnp.where(going, state.position + 1, state.position)
    own_keys = jax.vmap(jax.random.fold_in)(keys, position)
    token = next_tokens(logits, state.seen, own_keys, rules.sampling)
    ended = jnp.isin(token, np.array(rules.eos, np.int32))
    left = jnp.where(going & ~ended, state.left - 1, 0)
    seen = state.seen.at[jnp.arange(B), token].set(True, mode="drop")
    return State(state.cache, token, position, left, seen), jnp.where(going, token, -1)


def _keys(addresses: jax.Array) -> jax.Array:
    """A random key for each (seed, prompt, sample).  [B, 3] -> [B]"""

    def key(address):
        seed, prompt, sample = address
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt), sample)

    return jax.vmap(key)(addresses)
