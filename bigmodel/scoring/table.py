"""The scores by name: of what each is told, and how."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bigmodel import matching, scores
from bigmodel.scoring.told import Told

RANKS = (1, 5, 10, 20)  # of items; of pairs `matching.RANKS`


def fine(names: tuple[str, ...], number: int) -> str:
    return ""


class Score(NamedTuple):
    """A score of the table.

    Attributes:
        needs: kinds of what is told that it is of: "classes", "labels" (of words), "numbers",
            "texts", "pairs" (of vectors), "ranks" (of items).
        of: what a model tells -> the figure, or several by their names.
        fits: (names of the classes, () where the data has none; how many there are) -> what is
            wrong with them, or "".
    """

    needs: tuple[str, ...]
    of: Callable[[Told], float | dict[str, float]]
    fits: Callable[[tuple[str, ...], int], str] = fine


def of_two(names: tuple[str, ...], number: int) -> str:
    if number == 2:
        return ""
    return f"is of class 1 of two, and here are {number} classes; allowed are f1_macro and so on."


def of_tags(names: tuple[str, ...], number: int) -> str:
    if names and all(map(scores.is_tag, names)):
        return ""
    return f"is of tags O, B-X and I-X, and the labels here are {', '.join(names) or 'unnamed'}."


def sentences(told: Told) -> tuple[list[list[str]], list[list[str]]]:
    """Tags of the words of each sentence, true ones and told ones."""
    names = [*told.names, *[""] * (told.classes - len(told.names)), ""]  # -1: none
    ends = np.flatnonzero(np.diff(np.asarray(told.sentence))) + 1
    sides = (np.split(side, ends) for side in (told.true, told.told))
    true, said = ([[names[number] for number in one] for one in side] for side in sides)
    return true, said


def averaged(name: str, average: str) -> Score:
    def of(told: Told) -> float:
        return scores.of_classes(name, told.true, told.told, average=average)

    return Score(("classes", "labels"), of, of_two if average == "binary" else fine)


def of_spans(name: str) -> Score:
    return Score(("labels",), lambda told: scores.of_spans(name, *sentences(told)), of_tags)


def of_both(needs: tuple[str, ...], function: Callable) -> Score:
    return Score(needs, lambda told: function(told.true, told.told))


def at_rank(function: Callable, at: int) -> Score:
    return Score(("ranks",), lambda told: function(told.told, at))


def recall_at(at: int) -> Score:
    return Score(("pairs",), lambda told: matching.recalls(told.true, told.told, (at,)))


PARTS = ("precision", "recall", "f1")
SCORES: dict[str, Score] = {
    "accuracy": of_both(("classes", "labels"), scores.accuracy),
    **{name: averaged(name, "binary") for name in PARTS},
    **{f"{p}_{how}": averaged(p, how) for p in PARTS for how in ("macro", "micro", "weighted")},
    "matthews": of_both(("classes", "labels"), scores.matthews),
    **{f"span_{name}": of_spans(name) for name in PARTS},
    "pearson": of_both(("numbers",), functools.partial(scores.correlation, "pearson")),
    "spearman": of_both(("numbers",), functools.partial(scores.correlation, "spearman")),
    "mse": of_both(("numbers",), scores.mean_squared_error),
    "bleu": of_both(("texts",), scores.bleu),
    "chrf": of_both(("texts",), scores.chrf),
    "wer": of_both(("texts",), scores.word_error_rate),
    "cer": of_both(("texts",), scores.character_error_rate),
    "exact_match": of_both(("texts",), scores.exact_match),
    **{f"hit_rate_{at}": at_rank(scores.hit_rate, at) for at in RANKS},
    **{f"ndcg_{at}": at_rank(scores.ndcg, at) for at in RANKS},
    **{f"mrr_{at}": at_rank(scores.mrr, at) for at in RANKS},
    **{f"recall_at_{at}": recall_at(at) for at in matching.RANKS},
}
