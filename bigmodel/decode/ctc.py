"""From logits of frames to labels: the best alignment, or a search over labellings."""

import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigmodel import trees
from bigmodel.config import InputError
from bigmodel.decode import prompting
from bigmodel.decode.prompting import Functions, Params


def transcribe(
    model: Functions,
    params: Params,
    inputs: Mapping[str, np.ndarray],
    *,
    vocab: int | None = None,
    num_beams: int = 1,
    num_return_sequences: int = 1,
    rows: int = 64,
    multiple: int = 1,
) -> list[list[np.ndarray]]:
    """The likeliest labels of each row, best first.

    Args:
        model: its `apply` gives `frame_logits` [B, A, V] and `frame_segments` [B, A].
        params: its parameters, on any mesh.
        inputs: what it reads, [rows, ...] each.
        vocab: labels from this id on only pad the vocabulary, but for the blank, the last of all.
        num_beams: 1: of the likeliest alignment; more: of a search that follows so many.
        num_return_sequences: of each row, at most `num_beams`; fewer where there are not as many.
        rows: most rows at a time.
        multiple: the number of rows is rounded up to it: devices that a mesh cuts the batch over.
    """
    if not 1 <= num_return_sequences <= num_beams:
        raise InputError(
            f"num_return_sequences={num_return_sequences}: a search with num_beams={num_beams} "
            f"finds 1 to {num_beams}."
        )
    number = len(next(iter(inputs.values())))
    at_a_time = prompting.round_up(min(rows, number), multiple)
    found: list[list[np.ndarray]] = []
    for start in range(0, number, at_a_time):
        some = {name: array[start : start + at_a_time] for name, array in inputs.items()}
        real = len(next(iter(some.values())))
        some = {name: padded(array, at_a_time) for name, array in some.items()}
        outputs = frames_of(params, some, model=model)
        logits, segments = map(trees.on_host, outputs)
        for row in range(real):
            of_row = likely(logits[row, segments[row] > 0], vocab)
            if num_beams == 1:
                found.append([best_path(of_row)])
            else:
                found.append([labels for labels, _ in search(of_row, num_beams=num_beams)])
    return [labels[:num_return_sequences] for labels in found]


@functools.partial(jax.jit, static_argnames=("model",))
def frames_of(
    params: Params, batch: dict[str, jax.Array], *, model: Functions
) -> tuple[jax.Array, jax.Array]:
    outputs = model.apply(params, batch)
    return outputs["frame_logits"], outputs["frame_segments"]


def padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(array, [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1))


def likely(logits: np.ndarray, vocab: int | None = None) -> np.ndarray:
    """Log probabilities, where labels that only pad have none.  [A, V] -> float64 [A, V]"""
    logits = logits.astype(np.float64)
    if vocab is not None:
        logits[:, vocab:-1] = -np.inf
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def best_path(log_p: np.ndarray) -> np.ndarray:
    """The labels of the likeliest alignment, which need not be the likeliest labels.

    Graves et al. 2006 (doi:10.1145/1143844.1143891), section 3.2. The blank is the last of V.

    Args:
        log_p: [A, V] of real frames.
    """
    path = log_p.argmax(-1)
    new = np.ones(len(path), bool)
    new[1:] = path[1:] != path[:-1]
    return path[new & (path != log_p.shape[-1] - 1)].astype(np.int32)


def search(log_p: np.ndarray, *, num_beams: int) -> list[tuple[np.ndarray, float]]:
    """Labellings by their probability, the sum over their alignments, best first.

    Prefix search: Hannun et al. 2014 (arXiv:1408.2873), algorithm 1, without a language model. The
    alignments of a prefix are those that end with the blank and those that do not: only after a
    blank does its last label again make it longer. With room for all prefixes it is exact.

    Args:
        log_p: [A, V] of real frames; the blank is the last of V.
        num_beams: prefixes that are followed from one frame to the next.
    """
    blank = log_p.shape[-1] - 1
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_p:
        longer: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])

        def add(prefix: tuple[int, ...], ending: int, value: float, to: Any = longer) -> None:
            to[prefix][ending] = float(np.logaddexp(to[prefix][ending], value))

        for prefix, (blanked, labelled) in beams.items():
            both = float(np.logaddexp(blanked, labelled))
            add(prefix, 0, both + frame[blank])
            for label in np.flatnonzero(frame[:blank] > -np.inf):
                if prefix and prefix[-1] == label:
                    add(prefix, 1, labelled + frame[label])
                    add((*prefix, int(label)), 1, blanked + frame[label])
                else:
                    add((*prefix, int(label)), 1, both + frame[label])
        kept = sorted(longer.items(), key=lambda item: -np.logaddexp(item[1][0], item[1][1]))
        beams = {prefix: (ends[0], ends[1]) for prefix, ends in kept[:num_beams]}
    scored = [(np.array(p, np.int32), float(np.logaddexp(*ends))) for p, ends in beams.items()]
    return [pair for pair in scored if pair[1] > -math.inf]
