"""The texts that a model writes where a split has answers, beside those answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigmodel import hearing, writing
from bigmodel import recipe as recipes
from bigmodel.data import chat_template_files
from bigmodel.decode import sampling
from bigmodel.scoring.told import Told


def texts(
    recipe: recipes.Recipe,
    params: Any,
    evaluation: recipes.Evaluation,
    ends: tuple[int, ...] = (),
) -> Told:
    """What is written for each answer of a split, and the answer.

    Every process reads all rows, and all of them write the same.
    """
    true: list[str] = []
    told: list[str] = []
    batches, shortest = evaluation.batches, 1
    for at in evaluation.chosen:
        batch = batches.host(at)
        real = batch["rows"] < len(batches.rows)
        found = asked_of(batch, real, whole=hears(recipe))
        true += [recipe.tokenizer.decode(one.answer) for one in found]
        if hears(recipe):
            how: dict[str, Any] = dict(asked={}, num_beams=evaluation.num_beams)
            written = hearing.transcribe(recipe, params, beside(batch), **how)
            told += [written[one.row][0] for one in found]
        elif found:
            shortest = max(shortest, *(len(one.prompt) for one in found))
            told += answers(recipe, params, evaluation, batch, found, ends, shortest)
    return Told(true, told)


def hears(recipe: recipes.Recipe) -> bool:
    return recipe.config.objective.name == "ctc"


class Asked(NamedTuple):
    """An answer of a row: the ids before it, patches of images below 0, and its own.

    Its segment is also that of the source that it is made of, if there is one.
    """

    row: int
    segment: int
    prompt: np.ndarray
    answer: np.ndarray


OF_TEXT = ("tokens", "targets", "segments", "positions", "weights", "prefix", "image_positions")


def beside(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model reads besides text: a source or sound with its segments, images."""
    return {name: array for name, array in batch.items() if name not in (*OF_TEXT, "rows")}


def asked_of(batch: Mapping[str, np.ndarray], real: np.ndarray, *, whole: bool) -> list[Asked]:
    """The answers of a batch: each run of targets that count is one, within its segment.

    Args:
        batch: with `tokens`, `targets`, `segments` and `weights` [B, T].
        real: of its rows, those of the data.
        whole: all targets of a row are one answer, and there may be none.
    """
    found = []
    for row in map(int, np.flatnonzero(real)):
        targets, counts = batch["targets"][row], batch["weights"][row] > 0
        if whole:
            found.append(Asked(row, 1, np.zeros(0, np.int32), targets[counts]))
            continue
        ids, segments = batch["tokens"][row].copy(), batch["segments"][row]
        if "image_positions" in batch:
            ids[batch["image_positions"][row]] = -1
        other = np.diff(segments, prepend=0) != 0
        starts = counts & ~(np.append(False, counts[:-1]) & ~other)
        for start in np.flatnonzero(starts):
            goes_on = counts[start:] & (np.cumsum(other[start:]) == other[start])
            end = start + (len(goes_on) if goes_on.all() else int(goes_on.argmin()))
            begin = int(np.flatnonzero(other[: start + 1])[-1])
            prompt, answer = ids[begin : start + 1], targets[start:end]
            found.append(Asked(row, int(segments[start]), prompt, answer))
    return found


def answers(
    recipe: recipes.Recipe,
    params: Any,
    evaluation: recipes.Evaluation,
    batch: Mapping[str, np.ndarray],
    asked: Sequence[Asked],
    ends: tuple[int, ...],
    shortest: int,
) -> list[str]:
    """What the model writes where the answers stand, in programs of one shape."""
    data, beams = recipe.config.data, evaluation.num_beams
    ends = (recipe.tokenizer.eos, *ends)
    if data.kind == "chats":
        ends = (*ends, chat_template_files.load(data.template, recipe.tokenizer, data.date).end)
    rows, which = evaluation.batches.batch, [one.row for one in asked]
    inputs = {name: array[which] for name, array in beside(batch).items()}
    if "source_segments" in inputs:  # of the sources in a row, the answer's own is left
        own = inputs["source_segments"] == [[one.segment] for one in asked]
        inputs["source_segments"] = own.astype(np.int32)
    written = writing.write(
        recipe,
        params,
        [one.prompt for one in asked],
        ends=tuple(sorted(set(ends))),
        max_new_tokens=evaluation.max_new_tokens or batch["targets"].shape[1],
        max_length=writing.learned_positions(recipe),
        drawing=sampling.Sampling(temperature=0.0 if beams == 1 else 1.0),
        inputs=inputs,
        num_beams=beams,
        rows=rows * beams,
        multiple=rows,
        shortest=shortest,
    )
    return [of_one[0] for of_one in written]
