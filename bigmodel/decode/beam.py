"""Beam search: the likeliest texts after a prompt or of a source, one jitted program for a batch.

For any model with a cache. An axis of the cache is that of rows if it grows with the batch, so no
model is known here.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel import trees
from bigmodel.config import InputError
from bigmodel.decode import prompting
from bigmodel.decode.prompting import CACHE_STEP, Cache, Functions, Params

LIMIT_STEP = 16  # tokens: limits are rounded up to it, so that near ones share a program
MEMORY = "memory_"  # leaves of a cache that were made of the source, alike for all beams of a row


class Hypothesis(NamedTuple):
    """A text that was found.

    Attributes:
        tokens: int32 [n], the end token with them where there is one.
        score: log probability / `length_factor`.
    """

    tokens: np.ndarray
    score: float


class Beams(NamedTuple):
    """The state of a search: N texts that go on and N that have ended, of each row.

    Attributes:
        length: how many tokens those that go on have.
        cache: of rows times beams.
        token: [B, N] the last one, not in the cache yet.
        alive: [B, N] log probability; -inf: there is none.
        tokens: [B, N, L].
        done: [B, N] scores of those that have ended, best first; -inf: there is none.
        done_tokens: [B, N, L].
        done_lengths: [B, N].
    """

    length: jax.Array
    cache: Cache
    token: jax.Array
    alive: jax.Array
    tokens: jax.Array
    done: jax.Array
    done_tokens: jax.Array
    done_lengths: jax.Array


def search(
    model: Functions,
    params: Params,
    prompts: Sequence[np.ndarray],
    *,
    num_beams: int = 4,
    length_penalty: float = 0.6,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    eos: int | tuple[int, ...] = (),
    vocab: int | None = None,
    num_return_sequences: int = 1,
    rows: int = 64,
    multiple: int = 1,
    inputs: Mapping[str, np.ndarray] | None = None,
    prefix: bool = False,
    shortest: int = prompting.SHORTEST,
) -> list[list[Hypothesis]]:
    """The best hypotheses of each prompt, best first: nothing is drawn.

    Wu et al. 2016 (GNMT, arXiv:1609.08144), section 7, without its coverage penalty: a text is
    scored log P / ((5 + n) / 6)^a, n its new tokens and its end, once it has ended or met a limit.

    Args:
        model: the model's functions.
        params: its parameters, on any mesh.
        prompts: token ids, at least one each.
        num_beams: N, texts that are followed at a time.
        length_penalty: a; 0 prefers short texts, more of it longer ones. 0.6 is that of
            Vaswani et al. 2017, section 6.1.
        max_new_tokens, max_length: see `generate.generate`.
        eos, vocab, multiple, inputs, prefix, shortest: see `generate.generate`.
        num_return_sequences: hypotheses of each prompt, at most N; fewer where there are not as
            many texts within the limit.
        rows: most rows at a time, beams counted.
    """
    prompting.check(prompts, max_new_tokens, max_length, num_return_sequences, 0)
    if num_beams < 1:
        raise InputError(f"num_beams={num_beams}: must be 1 or more.")
    if num_return_sequences > num_beams:
        raise InputError(
            f"num_return_sequences={num_return_sequences}: a search with num_beams={num_beams} "
            f"finds at most {num_beams}."
        )
    ends = (eos,) if isinstance(eos, int) else tuple(eos)
    how: dict[str, Any] = dict(model=model, vocab=vocab, num_beams=num_beams, eos=ends)
    asked: dict[str, Any] = dict(max_new_tokens=max_new_tokens, max_length=max_length)
    asked |= dict(multiple=multiple, inputs=inputs, prefix=prefix, shortest=shortest)
    at_a_time = max(1, rows // num_beams)
    addresses = [(0, prompt, 0) for prompt in range(len(prompts))]
    found: list[list[Hypothesis]] = []
    for start in range(0, len(prompts), at_a_time):
        some = addresses[start : start + at_a_time]
        batch, _, left = prompting.begun(prompts, some, **asked)
        longest = prompting.round_up(max(1, *left), LIMIT_STEP)
        limits = np.array(left, np.int32)
        ended = of_rows(params, batch, limits, length_penalty, longest=longest, **how)
        scores, tokens, lengths = map(trees.on_host, ended)
        for row in range(len(some)):
            best = zip(scores[row], tokens[row], lengths[row], strict=True)
            kept = [Hypothesis(t[:n], float(score)) for score, t, n in best if np.isfinite(score)]
            # A row that may draw nothing has one text: the empty one.
            kept = kept or [Hypothesis(np.zeros(0, np.int32), 0.0)]
            found.append(kept[:num_return_sequences])
    return found


def length_factor(length: jax.Array, penalty: jax.Array | float) -> jax.Array:
    """What the log probability of a text of that length is divided by (GNMT, eq. 14)."""
    return ((5.0 + length) / 6.0) ** penalty


@functools.partial(jax.jit, static_argnames=("model", "eos", "vocab", "num_beams", "longest"))
def of_rows(
    params: Params,
    batch: dict[str, jax.Array],
    limits: jax.Array,
    penalty: jax.Array,
    *,
    model: Functions,
    eos: tuple[int, ...],
    vocab: int | None,
    num_beams: int,
    longest: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores [B, N], tokens [B, N, L] and lengths [B, N] of what was found, best first.

    Args:
        params: the model's parameters.
        batch: prompts, padded on the left, and what the model reads besides.
        limits: int32 [B], most new tokens of a row.
        penalty: of the length.
        model: the model's functions.
        eos: tokens that end a text.
        vocab: tokens from here on only pad the vocabulary.
        num_beams: N.
        longest: L, the largest limit or more.
    """
    (B, T), N = batch["tokens"].shape, num_beams
    length = prompting.round_up(T + longest, CACHE_STEP)
    axes = row_axes(model, params, batch, length)
    outputs = model.apply(params, batch, cache=model.new_cache(params, batch, length))
    head = model.head(params)
    last = batch["positions"][:, -1:]

    def logits_of(hidden: jax.Array) -> jax.Array:
        """Log probabilities after the last token.  [B N, T, D] -> [B, N, V]"""
        logits = model.unembed(head, hidden[:, -1]).astype(jnp.float32)
        V = logits.shape[-1]
        if vocab is not None and vocab < V:
            logits = jnp.where(jnp.arange(V) < vocab, logits, -jnp.inf)
        return jax.nn.log_softmax(logits).reshape(B, -1, V)

    def step(beams: Beams) -> Beams:
        tokens = beams.token.reshape(B * N, 1)
        of_token = {
            "tokens": tokens,
            "segments": jnp.ones_like(tokens),
            "positions": jnp.broadcast_to(last + beams.length, (B, N)).reshape(B * N, 1),
        }
        outputs = model.apply(params, of_token, cache=beams.cache)
        beams = beams._replace(cache=outputs["cache"])
        beams, origin = extend(beams, logits_of(outputs["hidden"]), limits, penalty, eos)
        return beams._replace(cache=reordered(beams.cache, axes, origin))

    cache = jax.tree.map(lambda x, axis: repeated(x, axis, N), outputs["cache"], axes)
    log_p = jnp.repeat(logits_of(outputs["hidden"]), N, axis=1)
    beams, _ = extend(started(cache, limits, N, longest), log_p, limits, penalty, eos)
    beams = jax.lax.while_loop(lambda beams: jnp.isfinite(beams.alive).any(), step, beams)
    return beams.done, beams.done_tokens, beams.done_lengths


def started(cache: Cache, limits: jax.Array, N: int, L: int) -> Beams:
    """Of each row one text without a token, where it may have some."""
    (B,) = limits.shape
    none = jnp.full((B, N), -jnp.inf)
    blank = jnp.zeros((B, N, L), jnp.int32)
    return Beams(
        length=jnp.int32(0),
        cache=cache,
        token=jnp.zeros((B, N), jnp.int32),
        alive=none.at[:, 0].set(jnp.where(limits > 0, 0.0, -jnp.inf)),
        tokens=blank,
        done=none,
        done_tokens=blank,
        done_lengths=jnp.zeros((B, N), jnp.int32),
    )


def extend(
    beams: Beams, log_p: jax.Array, limits: jax.Array, penalty: jax.Array, eos: tuple[int, ...]
) -> tuple[Beams, jax.Array]:
    """One token more, given its log probabilities [B, N, V]; and whose each beam goes on [B, N]."""
    B, N, V = log_p.shape
    count = beams.length + 1
    # So many that N go on whatever ends.
    most = min(N * (1 + len(eos)), N * V)
    scores, flat = jax.lax.top_k((beams.alive[..., None] + log_p).reshape(B, N * V), most)
    origin, token = flat // V, (flat % V).astype(jnp.int32)
    tokens = jnp.take_along_axis(beams.tokens, origin[..., None], axis=1)
    tokens = tokens.at[:, :, count - 1].set(token)
    complete = jnp.isin(token, np.array(eos, np.int32)) | (count >= limits)[:, None]

    ended = jnp.where(complete, scores / length_factor(count, penalty), -jnp.inf)
    lengths = jnp.full((B, most), count, jnp.int32)
    done, best = jax.lax.top_k(jnp.concatenate([beams.done, ended], axis=1), N)
    of_both = jnp.concatenate([beams.done_tokens, tokens], axis=1)
    done_tokens = jnp.take_along_axis(of_both, best[..., None], axis=1)
    of_both = jnp.concatenate([beams.done_lengths, lengths], axis=1)
    done_lengths = jnp.take_along_axis(of_both, best, axis=1)

    alive, best = jax.lax.top_k(jnp.where(complete, -jnp.inf, scores), N)
    # A log probability only falls: what goes on can at best keep its own, at the kindest length.
    lengths = jnp.stack([jnp.full((B,), count + 1), limits])
    kindest = (alive[:, :1] / length_factor(lengths.astype(jnp.float32), penalty).T).max(-1)
    alive = jnp.where((kindest > done[:, -1])[:, None], alive, -jnp.inf)
    chosen = jnp.take_along_axis(origin, best, axis=1)
    beams = Beams(
        length=count,
        cache=beams.cache,
        token=jnp.take_along_axis(token, best, axis=1),
        alive=alive,
        tokens=jnp.take_along_axis(tokens, best[..., None], axis=1),
        done=done,
        done_tokens=done_tokens,
        done_lengths=done_lengths,
    )
    return beams, chosen


def row_axes(model: Functions, params: Params, batch: dict[str, jax.Array], length: int) -> Any:
    """Which axis of each leaf of a cache is that of rows; -1: none."""

    def shapes(times: int) -> Cache:
        rows = jax.tree.map(lambda x: jnp.concatenate([x] * times), batch)
        return model.new_cache(params, rows, length)

    def axis(one: jax.Array, two: jax.Array) -> int:
        pairs = zip(one.shape, two.shape, strict=True)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), -1)

    one, two = (jax.eval_shape(functools.partial(shapes, times)) for times in (1, 2))
    return jax.tree.map(axis, one, two)


def repeated(x: jax.Array, axis: int, times: int) -> jax.Array:
    return x if axis < 0 else jnp.repeat(x, times, axis=axis)


def reordered(cache: Cache, axes: Any, origin: jax.Array) -> Cache:
    """Each beam with the cache of the beam that it goes on from: origin [B, N] within the row."""
    B, N = origin.shape
    rows = (origin + N * jnp.arange(B)[:, None]).reshape(-1)

    def one(path: str, leaf: jax.Array, axis: int) -> jax.Array:
        if axis < 0 or path.rpartition("/")[2].startswith(MEMORY):
            return leaf
        return jnp.take(leaf, rows, axis=axis)

    return trees.map_with_path(one, cache, axes)
