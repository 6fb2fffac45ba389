"""Texts made into tasks of mending them: spans taken out, or all that follows a prefix."""

from typing import NamedTuple

import numpy as np


class Denoiser(NamedTuple):
    """How a text is corrupted.

    Attributes:
        noise: share of the tokens that are taken out; of a prefix, the mean share that follows it.
        span: mean length of a span that is taken out; 0: all after a prefix is.
        mark: what stands before the source where tasks are marked.
    """

    noise: float
    span: float
    mark: str = ""


# Tay et al. 2022, UL2 (arXiv:2205.05131), table 1: all equally often. The marks are those of the
# published checkpoints.
UL2 = (
    Denoiser(0.15, 3.0, "[NLU] "),  # R, regular
    Denoiser(0.15, 8.0, "[NLU] "),
    Denoiser(0.25, 0.0, "[S2S] "),  # S, sequential
    Denoiser(0.5, 3.0, "[NLG] "),  # X, extreme
    Denoiser(0.5, 8.0, "[NLG] "),
    Denoiser(0.15, 64.0, "[NLG] "),
    Denoiser(0.5, 64.0, "[NLG] "),
)


def sizes(tokens: int, how: Denoiser) -> tuple[int, int]:
    """(tokens that are taken out, spans) of a text of so many tokens, 2 or more."""
    noise = min(max(round(tokens * how.noise), 1), tokens - 1)
    return noise, min(max(round(noise / how.span), 1), noise, tokens - noise)


def longest(tokens: int, how: Denoiser) -> tuple[int, int, int]:
    """Most tokens of a source and of a target, without marks and ends, and most sentinels."""
    if tokens < 2:
        return 1, 2, 1
    if not how.span:
        return tokens - 1, most_after(tokens, how), 0
    noise, spans = sizes(tokens, how)
    return tokens - noise + spans, noise + spans, spans


def corrupted(
    tokens: np.ndarray, how: Denoiser, rng: np.random.Generator, sentinel: int
) -> tuple[np.ndarray, np.ndarray]:
    """The source and the target of a text [n].

    Raffel et al. 2020 (arXiv:1910.10683), figure 2: in the source a sentinel stands for each span;
    the target is each sentinel and what it stands for. Sentinels count down from `sentinel`.

        a b c d e f g h    c d and g taken out    a b S0 e f S1 h  ->  S0 c d S1 g
    """
    if len(tokens) < 2:  # the rest of a data set: nothing would be left to mend it by
        return np.array([sentinel]), np.array([sentinel, *tokens])
    if not how.span:
        after = rng.integers(1, most_after(len(tokens), how) + 1)
        return tokens[:-after], tokens[-after:]
    noise, spans = sizes(len(tokens), how)
    kept = segments(len(tokens) - noise, spans, rng)
    taken = segments(noise, spans, rng)
    starts = np.cumsum(np.stack([kept, taken], axis=1).reshape(-1))[:-1]
    pieces = np.split(tokens, starts)  # kept, taken, kept, taken, ...
    source: list[np.ndarray] = []
    target: list[np.ndarray] = []
    for number in range(spans):
        name = np.array([sentinel - number], tokens.dtype)
        source += [pieces[2 * number], name]
        target += [name, pieces[2 * number + 1]]
    return np.concatenate(source), np.concatenate(target)


def most_after(tokens: int, how: Denoiser) -> int:
    """The most tokens after a prefix, as likely as any from 1 on; `noise` is the mean share."""
    return min(max(round(2 * how.noise * tokens) - 1, 1), tokens - 1)


def segments(items: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths [number] of a line of items cut at random, none empty; every cut is as likely."""
    cuts = np.sort(rng.choice(items - 1, number - 1, replace=False)) + 1
    return np.diff([0, *cuts, items])
