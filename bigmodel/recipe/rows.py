"""The data of a run: rows by split, batches to train on and to evaluate with."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bigmodel import config
from bigmodel.data import pipeline, text, tokenizers
from bigmodel.recipe import build, checks

EVAL_FIELDS = {"source": "", "split": "validation", "every": 0, "batches": 0}
Progress = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One entry of the config's `evals`.

    Attributes:
        name: of the entry.
        batches: finite, in order; of as many rows as a training step takes at a time.
        every: steps between evaluations; 0: at the end only.
        chosen: numbers of the batches that are scored.
        bytes_per_target: UTF-8 bytes of text for each target, to tell bits per byte.
    """

    name: str
    batches: pipeline.Batches
    every: int
    chosen: Sequence[int]
    bytes_per_target: float


def open_rows(loaded: config.Loaded, source: str, split: str, progress: Progress | None = None):
    """The rows of a split of a source (or of the config's mixture, for source "")."""
    data = loaded.config.data
    return text.open_rows(
        source or data.source,
        split=split,
        tokenizer=data.tokenizer,
        length=data.length,
        packing=data.packing,
        mixture=None if source else mixture(data.mixture) or None,
        normalize=data.normalize,
        deduplicate=data.deduplicate,
        field=data.field,
        cache_dir=data.cache_dir,
        workers=data.workers,
        progress=progress,
        extensions=loaded.extensions.get("source"),
    )


def mixture(entries: Mapping[str, Any]) -> dict[str, float]:
    """Source -> weight, from entries name -> weight or name -> {"source", "weight"}."""
    weights = {}
    for name, entry in entries.items():
        if isinstance(entry, int | float):
            weights[name] = float(entry)
            continue
        for field in entry:
            checks.known(f"data.mixture.{name}: field", field, ("source", "weight"))
        weights[entry.get("source", name)] = float(entry["weight"])
    return weights


def train_batches(recipe: "build.Recipe", progress: Progress | None = None) -> pipeline.Batches:
    """What the run trains on; batch s is a pure function of the config and s."""
    values = recipe.config
    rows = open_rows(recipe.loaded, "", values.data.split, progress)
    check_vocabulary(recipe)
    return pipeline.Batches(rows, recipe.batch, seed=recipe.seed, shuffle=values.data.shuffle)


def evaluations(recipe: "build.Recipe", progress: Progress | None = None) -> dict[str, Evaluation]:
    """The entries of the config's `evals`, by name."""
    return {
        name: evaluation(recipe, name, entry, progress)
        for name, entry in recipe.config.evals.items()
    }


def evaluation(
    recipe: "build.Recipe", name: str, entry: Mapping[str, Any], progress: Progress | None = None
) -> Evaluation:
    fields = eval_fields(name, entry)
    rows = open_rows(recipe.loaded, fields["source"], fields["split"], progress)
    check_vocabulary(recipe)
    at_a_time = recipe.batch // recipe.accumulate  # what fits in training fits here
    batches = pipeline.Batches(rows, at_a_time, shuffle=False, repeat=False)
    chosen = spread(len(batches), recipe.accumulate, fields["batches"])
    return Evaluation(name, batches, fields["every"], chosen, rows.bytes / rows.tokens)


def spread(batches: int, parts: int, most: int) -> list[int]:
    """At most so many runs of `parts` batches (0: all of them), over the whole split.

    Documents that stand together are alike. A run is a batch of training, so that the same rows
    are scored however many parts it is taken in.
    """
    runs = -(-batches // parts)
    most = min(most or runs, runs)
    starts = [parts * (i * runs // most) for i in range(most)]
    return [n for start in starts for n in range(start, min(start + parts, batches))]


def eval_fields(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `evals`, complete and checked."""
    for field in entry:
        checks.known(f"evals.{name}: field", field, EVAL_FIELDS)
    fields = EVAL_FIELDS | dict(entry)
    for field, default in EVAL_FIELDS.items():
        if type(fields[field]) is not type(default):
            raise config.InputError(
                f"evals.{name}.{field} = {fields[field]!r}: wants a {type(default).__name__}."
            )
    return fields


def check_vocabulary(recipe: "build.Recipe") -> None:
    """Every token must have a row in the embedding table."""
    size = recipe.tokenizer.size
    if recipe.fields.get("vocab", size) < size:
        raise config.InputError(
            f"model.vocab = {recipe.fields['vocab']} is less than the {size} tokens of "
            f"data.tokenizer = {recipe.config.data.tokenizer!r}; allowed are {size} and more."
        )


def prepare_data(loaded: config.Loaded, progress: Progress | None = None) -> str:
    """Builds the token caches of a config's splits, and says what they hold."""
    loaded = build.resolve(loaded)
    splits = [("", loaded.config.data.split)]
    for name, entry in loaded.config.evals.items():
        fields = eval_fields(name, entry)
        splits.append((fields["source"], fields["split"]))
    lines = []
    for source, split in dict.fromkeys(splits):
        rows = open_rows(loaded, source, split, progress)
        lines.append(
            f"{source or loaded.config.data.source} {split}: {rows.documents:,} documents, "
            f"{rows.bytes:,} bytes, {rows.tokens:,} tokens, {len(rows):,} rows"
        )
    return "\n".join(lines)


def inspect_data(loaded: config.Loaded) -> str:
    """What the data of a config looks like, as text for a terminal."""
    loaded = build.resolve(loaded)
    from bigmodel.data import inspect

    return inspect.describe(open_rows(loaded, "", loaded.config.data.split))


def train_tokenizer(loaded: config.Loaded, *, kind: str, size: int, out: str) -> str:
    """Trains a tokenizer on the training split of a config's data, and says where it is.

    Args:
        loaded: the config.
        kind: "bpe", "unigram" or "wordpiece".
        size: tokens in the vocabulary.
        out: where the tokenizer.json goes.
    """
    from bigmodel.data import train_tokenizer as training

    loaded = build.resolve(loaded)
    data = loaded.config.data
    training.train_on(
        data.source,
        out,
        split=data.split,
        mixture=mixture(data.mixture) or None,
        normalize=data.normalize,
        field=data.field,
        algorithm=kind,
        size=size,
        extensions=loaded.extensions.get("source"),
    )
    tokenizer = tokenizers.load(out)
    return f"{out}: {tokenizer.size:,} tokens; use it with --config.data.tokenizer={out}"
