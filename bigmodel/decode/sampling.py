"""From logits to the next token: [B, V] -> [B], pure and jit-able, in float32.

The filters come in the order in which Hugging Face's `generate` applies them: repetition penalty,
temperature, top-k, top-p, min-p. A filtered token has the logit -inf.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bigmodel.config import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a next token is drawn; the defaults draw from the model as it is.

    Attributes:
        temperature: divides the logits; 0 is greedy, and then the filters after it do not matter.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens that hold this share of the probability; 1 keeps all.
        min_p: keep tokens at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: makes tokens seen in prompt and output less likely; 1 does nothing.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        laws = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, up to 1 (all tokens)"),
            "min_p": (0 <= self.min_p <= 1, "from 0 (all tokens) to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 is no penalty"),
        }
        for name, (holds, law) in laws.items():
            if not holds:
                raise InputError(f"{name}={getattr(self, name)!r}: must be {law}.")


def said(sampling: Sampling) -> dict[str, float]:
    """The fields that are not at their defaults, for what draws nothing to refuse."""
    plain, given = dataclasses.asdict(Sampling()), dataclasses.asdict(sampling)
    return {field: value for field, value in given.items() if value != plain[field]}


def next_tokens(
    logits: jax.Array, seen: jax.Array, keys: jax.Array, sampling: Sampling
) -> jax.Array:
    """One token a row, each drawn with its own key.  [B, V], [B, V] bool, [B] keys -> [B] int32"""
    logits = penalise(logits.astype(jnp.float32), seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = filtered(logits, sampling)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def filtered(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Temperature, top-k, top-p and min-p, each only where it does anything.  [B, V] -> [B, V]"""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p > 0:
        logits = min_p(logits, sampling.min_p)
    return logits


def penalise(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Positive logits of seen tokens are divided by the penalty, negative ones multiplied.

    Keskar et al. 2019, "CTRL" (arXiv:1909.05858), section 4.1, whose formula divides all, in the
    form for logits of either sign that Hugging Face gave it.
    """
    if penalty == 1:
        return logits
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Keeps the k largest logits of a row, and those equal to the last of them.

    Fan et al. 2018, "Hierarchical Neural Story Generation" (arXiv:1805.04833).
    """
    smallest = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits < smallest, -jnp.inf, logits)


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps the fewest likeliest tokens whose probabilities sum to p or more, and their equals.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration" (arXiv:1904.09751), eq. 2.
    The likeliest token always stays.
    """
    descending = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.maximum(jnp.sum(before < p, axis=-1, keepdims=True), 1)
    smallest = jnp.take_along_axis(descending, kept - 1, axis=-1)
    return jnp.where(logits < smallest, -jnp.inf, logits)


def min_p(logits: jax.Array, p: float) -> jax.Array:
    """Keeps tokens whose probability is at least p times the largest.

    Nguyen et al. 2024, "Turning Up the Heat" (arXiv:2407.01082), section 3.
    """
    smallest = jnp.max(logits, axis=-1, keepdims=True) + math.log(p)
    return jnp.where(logits < smallest, -jnp.inf, logits)


def check_search(drawing: Sampling) -> None:
    """A search draws nothing: what says how to draw would be passed over."""
    for field, value in said(drawing).items():
        raise InputError(
            f"{field}={value}: a search (num_beams over 1) draws nothing; leave it out, or "
            "num_beams."
        )
